"""Scans as files: formats, data set layouts, orientation, and the built-in phantom."""
