"""The version, which every file that poscon writes carries."""

__version__ = "0.3.0"
