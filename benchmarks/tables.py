"""Tables of figures, printed and put into benchmarks/README.md between the marks of their script."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["DRY", "Row", "put", "quote", "write"]

Row = tuple[str, str, str]
"""What, figure, goal."""

DRY = bool(os.environ.get("EMBEDSVC_BENCH_DRY"))
"""Whether scripts are only tried out (`benchmarks/run --small`): figures and tables of the project stay as they are."""


def quote(values: Iterable[float]) -> str:
    """The median, with the smallest and the largest."""
    listed = [float(value) for value in values]
    return "{} ({} to {})".format(*(f"{each:.3g}" for each in (statistics.median(listed), min(listed), max(listed))))


def write(script: str, rows: Sequence[Row]) -> None:
    """Put rows between the marks named after a script, and print them."""
    table = ["| what | figure | goal |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    put(script, [*table, "", f"Machine: {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}."])


def put(mark: str, lines: Sequence[str]) -> None:
    """Put lines between the marks of that name, and print them; print alone where a run only tries scripts out."""
    text = "\n".join(lines).strip()
    print(text)
    if DRY:
        return
    path = Path(__file__).parent / "README.md"
    marks = rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)"
    path.write_text(re.sub(marks, lambda m: f"{m[1]}{text}\n{m[2]}", path.read_text("utf-8"), flags=re.S), "utf-8")
