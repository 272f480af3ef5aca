"""Texts from files: .txt .csv .tsv .jsonl .parquet, each also gzipped, from paths, globs, folders and stdin.

Reading has two phases, so that bad input fails before any model is loaded. `scan` goes through every source once,
checks each row and says what is there; `read` then streams the good rows, in the same order.
"""

from embedsvc.texts.base import READERS, Bad, OnError, Reader, ReadOptions, Row, Rows, gather
from embedsvc.texts.scan import Rejected, Scan, Source, read, scan

__all__ = [
    "READERS",
    "Bad",
    "OnError",
    "ReadOptions",
    "Reader",
    "Rejected",
    "Row",
    "Rows",
    "Scan",
    "Source",
    "gather",
    "read",
    "scan",
]
