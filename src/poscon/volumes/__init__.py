"""Scans as they come: file formats, data set layouts, orientation, and the built-in phantom."""
