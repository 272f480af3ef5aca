"""What makes a row unfit to be embedded, whatever file it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embedsvc.texts.base import Bad, Row, Rows, gather
from embedsvc.texts.lines import too_long

__all__ = ["checked", "on_line"]


def checked(rows: Rows, limit: int) -> Iterator[Rows | Bad]:
    """The rows of a run that are fit to be embedded, and what is wrong with the others.

    Parameters
    ----------
    rows : Rows
    limit : int
        Bytes of the longest text, id and label.
    """
    if _clean(rows.texts, limit) and _clean(rows.ids, limit) and _clean(rows.labels, limit, optional=True):
        yield rows
        return
    ids: Sequence[str | None] = rows.ids if rows.ids is not None else [None] * len(rows.texts)
    labels = rows.labels if rows.labels is not None else [None] * len(rows.texts)
    lines: Sequence[int | None] = rows.lines if rows.lines is not None else [None] * len(rows.texts)
    yield from gather(
        Bad(row.number, on_line(reason, row.line)) if (reason := _fault(row, limit)) else row
        for row in map(Row, rows.numbers, rows.texts, ids, labels, lines)
    )


def on_line(fault: str, line: int | None) -> str:
    """What is wrong, and where in the file: records are numbered, editors show lines."""
    return fault if line is None else f"{fault} (line {line} of the file)"


def _fault(row: Row, limit: int) -> str | None:
    for what, value in (("text", row.text), ("id", row.id), ("label", row.label)):
        if value is None:
            continue
        if not value:
            return "the id is missing" if what == "id" else f"the {what} is empty"
        if what != "label" and value.isspace():
            return f"the {what} is blank"
        if "\0" in value:
            return f"the {what} has a NUL character at position {value.index(chr(0)) + 1}"
        at = _surrogate(value)
        if at is not None:
            return f"the {what} has half a surrogate pair at position {at + 1}, which is not Unicode text"
        if len(value.encode()) > limit:
            return too_long(what, limit)
    return None


def _clean(values: Sequence[str | None] | None, limit: int, *, optional: bool = False) -> bool:
    """Whether nothing can be wrong with any of these; a hundred times as fast as asking one by one."""
    if values is None:
        return True
    strings = [value for value in values if value] if optional else [value or "" for value in values]
    together = "\n".join(strings)
    if "\0" in together or not all(map(str.strip, strings)):
        return False
    # A character has at most four bytes.
    if max(map(len, strings), default=0) > limit // 4:
        return False
    return together.isascii() or _surrogate(together) is None


def _surrogate(value: str) -> int | None:
    """Position of the first lone surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
