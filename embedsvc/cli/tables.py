"""What commands print for people: on a terminal it fits, in a pipe a row is a line."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable

import click

__all__ = ["print_pairs", "print_table", "print_text"]

_NAME = 26  # characters of a name beside other columns: "× post_dropout.training.12"
_GAP = 2  # blanks between columns
_HEADING = 14  # of a column that is named by a variant
_LINE = 100  # characters of running text: longer lines are hard to read


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values, two columns; a value wraps under itself."""
    _print(None, [(name, value) for name, value in pairs])


def print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """A table with a header; the first column names its rows."""
    _print(header, list(rows))


def print_text(text: str) -> None:
    """Running text; a line that is too long wraps at a word, under its own indent."""
    if not sys.stdout.isatty():
        click.echo(text)
        return
    width = min(shutil.get_terminal_size().columns, _LINE)
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        click.echo(textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))


def _print(header: tuple[str, ...] | None, rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # In a pipe a row stays one line, whatever its length: that is what grep and cut want.
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    columns = list(zip(*([header] if header else []), *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    if sum(widths) + _GAP * (len(widths) - 1) > console.width:
        if header:
            header = tuple(_broken(word, _HEADING) if "." in word else word for word in header)
        rows = [(_broken(row[0], _NAME), *row[1:]) for row in rows]
        widths = _fitted(
            [list(column) for column in zip(*([header] if header else []), *rows, strict=True)], console.width
        )
    table = Table(box=None, show_header=header is not None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for word, width in zip(header or ("",) * len(widths), widths, strict=True):
        table.add_column(word, overflow="fold", width=width)
    for row in rows:
        # Text, since a path or an id may hold what rich would take for markup.
        table.add_row(*(Text(cell, style="bold" if header is None and at == 0 else "") for at, cell in enumerate(row)))
    with console.capture() as captured:
        console.print(table)
    # rich pads the last column with blanks.
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _fitted(columns: list[list[str]], width: int) -> list[int]:
    """Widths of columns that fit: the widest give way first, to the length of their longest word if that is enough."""
    wanted = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    least = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    least[0] = wanted[0]
    while sum(wanted) + _GAP * (len(wanted) - 1) > width and max(wanted) > 1:
        yielding = [at for at, some in enumerate(wanted) if some > least[at]] or range(len(wanted))
        wanted[max(yielding, key=wanted.__getitem__)] -= 1
    return wanted


def _broken(name: str, most: int) -> str:
    """A long name in lines of at most so many characters, broken after a dot, a slash or a blank."""
    lines = [""]
    for piece in re.findall(r"[^./ ]*[./ ]?", name):
        for part in textwrap.wrap(piece, most, drop_whitespace=False) or [""]:
            if len(lines[-1]) + len(part.rstrip()) > most:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)
