"""What commands print for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

__all__ = ["print_pairs", "print_table"]


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values, two columns; a value wraps under itself."""
    _print(None, [(name, value) for name, value in pairs])


def print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """A table with a header."""
    _print(header, list(rows))


def _print(header: tuple[str, ...] | None, rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # In a pipe a row stays one line, whatever its length: that is what grep and cut want.
    wide = not sys.stdout.isatty()
    console = Console(width=10_000 if wide else None)
    table = Table(box=None, show_header=header is not None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in header or ("",) * len(rows[0]):
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text, since a path or an id may hold what rich would take for markup.
        table.add_row(*(Text(cell, style="bold" if header is None and at == 0 else "") for at, cell in enumerate(row)))
    with console.capture() as captured:
        console.print(table)
    # rich pads the last column with blanks.
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
