"""``python -m embedsvc``."""

from embedsvc.cli import main

main()
