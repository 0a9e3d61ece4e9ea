"""``python -m poscon``."""

from poscon.cli import main

main()
