"""The file formats of scans. Each has a small reader of its own, behind one interface."""
