"""What a reader is, what it is told and what it yields."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from embedsvc.errors import InputError, SettingsError, did_you_mean
from embedsvc.registry import Registry

__all__ = [
    "READERS",
    "Bad",
    "Columns",
    "OnError",
    "ReadOptions",
    "Reader",
    "Row",
    "Rows",
    "as_label",
    "choose_columns",
    "gather",
    "listed",
    "no_such_column",
]

_BLOCK_ROWS = 1024


class OnError(StrEnum):
    """What to do with a row that cannot be read."""

    FAIL = "fail"  # stop with an error that names it
    SKIP = "skip"  # leave it out, count it and list it


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read texts.

    Attributes
    ----------
    text_column : str or None
        Column (CSV, TSV, Parquet) or field (JSON) of the text; None takes ``text``.
    id_column : str or None
        Where ids come from. None makes them of file and row: ``reviews.txt:1``.
    label_column : str or None
        None takes ``label`` where there is one. Numbers and booleans become strings (``3``, ``0.5``, ``true``); null
        and the empty string are no label.
    whole_files : bool
        Each .txt file is one text, unchanged to its last line end, and its path is its id.
    on_error : OnError
    max_text_bytes : int
        A text, or a line of a .txt, .csv, .tsv or .jsonl file, with more UTF-8 bytes is a bad row. It bounds memory.
    stdin_suffix : str
        Which reader takes standard input (``-``).

    Raises
    ------
    SettingsError
        For values out of range.
    """

    text_column: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    whole_files: bool = False
    on_error: OnError = OnError.FAIL
    max_text_bytes: int = 4 * 2**20
    stdin_suffix: str = ".txt"

    def __post_init__(self) -> None:
        try:
            # Plain strings are accepted; inside they are the enum.
            object.__setattr__(self, "on_error", OnError(self.on_error))
        except ValueError:
            raise SettingsError(f"on_error is {self.on_error!r}, expected one of: {', '.join(OnError)}") from None
        if self.max_text_bytes < 1:
            raise SettingsError(f"max_text_bytes is {self.max_text_bytes}, expected at least 1")
        for name in ("text_column", "id_column", "label_column"):
            if getattr(self, name) == "":
                raise SettingsError(f"{name} is empty, expected the name of a column")


class Row(NamedTuple):
    """One row as a reader found it; its values are not checked yet."""

    number: int
    text: str
    id: str | None = None  # None without an id column; "" where the row's id is missing
    label: str | None = None
    line: int | None = None  # of the file, where rows are not numbered by lines already


@dataclass(frozen=True, slots=True)
class Rows:
    """A run of rows, as columns of equal length; never empty.

    Attributes
    ----------
    numbers : sequence of int
        1-based row numbers, ascending.
    texts : sequence of str
    ids : sequence of str or None
        None without an id column.
    labels : sequence of (str or None), or None
        None where no row has a label.
    lines : sequence of int, or None
        1-based lines of the file on which the rows begin; None where they are the numbers, or there are none.
    """

    numbers: Sequence[int]
    texts: Sequence[str]
    ids: Sequence[str] | None = None
    labels: Sequence[str | None] | None = None
    lines: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that cannot be read. The reason never quotes the text."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reader:
    """A file format.

    Attributes
    ----------
    rows : callable
        From an open binary stream (decompressed), the source's name for error messages, and the options, to `Rows`
        and `Bad` in the order of the file. What is wrong with the file as a whole raises InputError.
        Blank texts, NUL, lone surrogates, size and duplicate ids are checked by the caller, for all formats alike.
    seeks : bool
        Whether it needs a stream that can seek. Streams that cannot are hashed while they are read.
    """

    rows: Callable[[io.BufferedIOBase, str, ReadOptions], Iterator[Rows | Bad]]
    seeks: bool = False


# By suffix; ".gz" is taken off first. Imported on use.
READERS: Registry[Reader] = Registry(
    "reader",
    {
        ".txt": "embedsvc.texts.lines:TXT",
        ".jsonl": "embedsvc.texts.lines:JSONL",
        ".csv": "embedsvc.texts.tables:CSV",
        ".tsv": "embedsvc.texts.tables:TSV",
        ".parquet": "embedsvc.texts.tables:PARQUET",
    },
)


def gather(rows: Iterable[Row | Bad]) -> Iterator[Rows | Bad]:
    """Single rows as runs: what is checked and handed on in runs costs a fraction."""
    held: list[Row] = []
    try:
        for row in rows:
            if isinstance(row, Bad):
                yield from _run(held)
                held = []
                yield row
            else:
                held.append(row)
                if len(held) == _BLOCK_ROWS:
                    yield from _run(held)
                    held = []
    except (OSError, EOFError, zlib.error):
        # A torn file: hand out what was read before the tear, so that the error names the row reached.
        yield from _run(held)
        raise
    yield from _run(held)


def _run(rows: Sequence[Row]) -> Iterator[Rows]:
    if rows:
        numbers, texts, ids, labels, lines = zip(*rows, strict=True)
        yield Rows(numbers, texts, None if ids[0] is None else ids, labels, None if lines[0] is None else lines)


class Columns(NamedTuple):
    """Names of the columns to read."""

    text: str
    id: str | None
    label: str | None


def choose_columns(present: Sequence[str], name: str, options: ReadOptions) -> Columns:
    """The columns of a table to read.

    Raises
    ------
    InputError
        If one that was asked for, or the default text column, is not there, or one is there twice.
    """
    # Spreadsheets leave several columns without a name; those cannot be asked for anyway.
    twice = sorted({column for column in present if column and present.count(column) > 1})
    if twice:
        raise InputError(
            f"{name}: more than one column is named {listed(twice)}", "Give each column a name of its own."
        )
    text = options.text_column or "text"
    label = options.label_column or (
        "label" if "label" in present and "label" not in (text, options.id_column) else None
    )
    for column, flag in ((text, "text"), (options.id_column, "id"), (label, "label")):
        if column is not None and column not in present:
            raise no_such_column(name, column, flag, present)
    return Columns(text, options.id_column, label)


def no_such_column(name: str, column: str, flag: str, present: Iterable[str]) -> InputError:
    """The error for a column that is not there."""
    names = list(present)
    return InputError(
        f"{name}: there is no column {column!r}; it has: {listed(names) or 'no columns'}",
        f"{did_you_mean(column, names)}Name the right one with --{flag}-column.",
    )


def listed(names: Iterable[str]) -> str:
    """Names for an error message, shortened where a file without a header gives whole texts as names."""
    every = list(names)
    shown = [ascii(name) if not name.isprintable() else repr(name) for name in (n[:40] for n in every[:20])]
    return ", ".join(shown) + (f" and {len(every) - 20} more" if len(every) > 20 else "")


def as_label(value: object) -> str | None:
    """A scalar as the string that stands for it; None for null.

    >>> as_label(3), as_label(True), as_label(0.5), as_label("x"), as_label(None)
    ('3', 'true', '0.5', 'x', None)
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
