"""Texts in figures are as they stand: a name with two dollar signs is no formula."""

from typing import Any

PLAIN: Any = {"text.parse_math": False}
"""Settings of Matplotlib, for ``matplotlib.rc_context``."""
