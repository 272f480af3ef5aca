r"""Files made of lines: plain text and JSON lines.

A line ends at ``\n`` or ``\r\n`` and nowhere else: U+2028, form feeds and single carriage returns belong to the text.
A byte order mark is taken off the start of the file. Lines are read in bounded pieces, however long they are.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from embedsvc.errors import InputError
from embedsvc.texts.base import Bad, Reader, ReadOptions, Row, Rows, as_label, gather, listed, no_such_column

__all__ = ["JSONL", "TXT", "LongLine", "not_utf8", "numbered_lines", "too_long"]

_CHUNK = 2**18
_BOM = b"\xef\xbb\xbf"
# What files with a wrong name begin with most often. None of it can begin a UTF-8 text.
_FOREIGN = {
    b"\x1f\x8b": ("gzip data", "Let its name end in .gz"),
    b"\xff\xfe": ("UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8"),
}


@dataclass(frozen=True, slots=True)
class LongLine:
    """Stands for a line above the limit; `quotes` is how many ``"`` it has, which a CSV reader must know."""

    quotes: int


def too_long(what: str, limit: int) -> str:
    """The reason for a row that is too big."""
    return f"the {what} is longer than {limit} bytes"


def not_utf8(error: UnicodeDecodeError, what: str = "line") -> str:
    """The reason for a row with bytes that are no UTF-8."""
    return f"byte 0x{error.object[error.start]:02x} at position {error.start + 1} of the {what} is not UTF-8"


def numbered_lines(stream: io.BufferedIOBase, name: str, limit: int) -> Iterator[tuple[int, bytes | LongLine]]:
    r"""Line numbers from 1, and lines without ``\n`` (a ``\r`` before it stays)."""
    number = 0
    for block in _blocks(stream, name, limit):
        if isinstance(block, LongLine):
            number += 1
            yield number, block
            continue
        for number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), number + 1):  # noqa: B020 - carries on
            yield number, line if len(line) <= limit + 1 else LongLine(line.count(b'"'))


def _blocks(stream: io.BufferedIOBase, name: str, limit: int) -> Iterator[bytes | LongLine]:
    """Runs of whole lines; a line above the limit is passed over in pieces if it is not in memory already."""
    head = stream.read(3)
    if head[:2] in _FOREIGN:
        found, hint = _FOREIGN[head[:2]]
        raise InputError(f"{name}: this is {found}, expected UTF-8 text", hint)
    held = bytearray()
    skipped: int | None = None  # quotes seen so far in a line that is being passed over
    for piece in itertools.chain([head.removeprefix(_BOM)], iter(lambda: stream.read1(_CHUNK), b"")):
        chunk = piece
        if skipped is not None:
            end = chunk.find(b"\n") + 1
            skipped += chunk.count(b'"', 0, end or len(chunk))
            if not end:
                continue
            yield LongLine(skipped)
            skipped = None
            chunk = chunk[end:]
        end = chunk.rfind(b"\n") + 1
        if end:
            yield bytes(held) + chunk[:end]
            held.clear()
        held += chunk[end:]
        if len(held) > limit + 1:  # a carriage return may follow the last byte of the text
            skipped = held.count(b'"')
            held.clear()
    if skipped is not None:
        yield LongLine(skipped)
    elif held:
        yield bytes(held)


def _read_txt(stream: io.BufferedIOBase, name: str, options: ReadOptions) -> Iterator[Rows | Bad]:
    for column, flag in ((options.text_column, "text"), (options.id_column, "id"), (options.label_column, "label")):
        if column is not None:
            raise InputError(
                f"{name}: there is no column {column!r}, lines of a .txt file have no columns",
                f"Leave out --{flag}-column, or give a .csv, .tsv, .jsonl or .parquet file.",
            )
    return _whole_file(stream, options) if options.whole_files else _lines(stream, name, options)


def _whole_file(stream: io.BufferedIOBase, options: ReadOptions) -> Iterator[Rows | Bad]:
    content = stream.read(options.max_text_bytes + len(_BOM) + 1).removeprefix(_BOM)
    if len(content) > options.max_text_bytes:
        yield Bad(1, too_long("text", options.max_text_bytes))
        return
    try:
        yield Rows((1,), (content.decode(),))
    except UnicodeDecodeError as error:
        yield Bad(1, not_utf8(error, "file"))


def _lines(stream: io.BufferedIOBase, name: str, options: ReadOptions) -> Iterator[Rows | Bad]:
    """A text a line. Empty lines at the end of the file, which editors leave behind, are none."""
    empty: list[Rows] = []
    for item in _every_line(stream, name, options):
        if isinstance(item, Rows) and not any(item.texts):
            empty.append(item)
            continue
        yield from empty
        empty = []
        if isinstance(item, Bad) or item.texts[-1]:
            yield item
            continue
        kept = next(at for at in range(len(item.texts), 0, -1) if item.texts[at - 1])
        yield Rows(item.numbers[:kept], item.texts[:kept])
        empty = [Rows(item.numbers[kept:], item.texts[kept:])]


def _every_line(stream: io.BufferedIOBase, name: str, options: ReadOptions) -> Iterator[Rows | Bad]:
    number = 1
    for block in _blocks(stream, name, options.max_text_bytes):
        if isinstance(block, LongLine):
            yield Bad(number, too_long("text", options.max_text_bytes))
            number += 1
            continue
        try:
            # A whole block at once is several times as fast as line by line.
            text = block.decode()
        except UnicodeDecodeError:
            raw = block.removesuffix(b"\n").split(b"\n")
            yield from gather(_decoded(raw, number))
            number += len(raw)
            continue
        lines = text.removesuffix("\n").split("\n")
        if "\r" in text:
            lines = [line.removesuffix("\r") for line in lines]
        yield Rows(range(number, number + len(lines)), lines)
        number += len(lines)


def _decoded(lines: list[bytes], first: int) -> Iterator[Row | Bad]:
    for number, line in enumerate(lines, first):
        try:
            yield Row(number, line.removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            yield Bad(number, not_utf8(error))


def _read_jsonl(stream: io.BufferedIOBase, name: str, options: ReadOptions) -> Iterator[Rows | Bad]:
    """Rows are numbered by line. Blank lines hold nothing and are passed over."""
    return gather(_objects(stream, name, options))


def _objects(stream: io.BufferedIOBase, name: str, options: ReadOptions) -> Iterator[Row | Bad]:
    text_field = options.text_column or "text"
    # Objects may differ in their fields, so a missing one is the row's fault, unless no object has it.
    asked = {"text": text_field, "id": options.id_column, "label": options.label_column}
    unseen = {flag: field for flag, field in asked.items() if field is not None}
    label_field = options.label_column or ("label" if "label" not in (text_field, options.id_column) else None)
    first_fields: list[str] | None = None
    for number, line in numbered_lines(stream, name, options.max_text_bytes):
        try:
            fields = _object(line, options.max_text_bytes)
            if fields is None:
                continue
            first_fields = list(fields) if first_fields is None else first_fields
            if unseen:
                unseen = {flag: field for flag, field in unseen.items() if field not in fields}
            text = _field(fields, text_field)
            if not isinstance(text, str):
                raise _BadRowError(f"the field {text_field!r} is {_KINDS[type(text)]}, expected a string")
            id_ = None if options.id_column is None else _scalar(_field(fields, options.id_column), options.id_column)
            label = None if label_field is None else _scalar(fields.get(label_field), label_field)
            yield Row(number, text, id_, label or None)
        except _BadRowError as error:
            yield Bad(number, str(error))
    if first_fields is not None:
        for flag, field in unseen.items():
            raise no_such_column(name, field, flag, first_fields)


class _BadRowError(Exception):
    """Carries the reason from a parsing function to the loop over rows."""


_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def _object(line: bytes | LongLine, limit: int) -> dict[str, object] | None:
    """The object on a line; None for a blank line."""
    if isinstance(line, LongLine) or len(line.removesuffix(b"\r")) > limit:
        raise _BadRowError(too_long("line", limit))
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise _BadRowError(not_utf8(error)) from None
    if not text or text.isspace():
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _BadRowError(f"broken JSON at character {error.pos + 1}: {error.msg}") from None
    except (ValueError, RecursionError):
        # A number of thousands of digits, or brackets nested thousands deep.
        raise _BadRowError("broken JSON: a number too long or brackets nested too deep") from None
    if not isinstance(value, dict):
        raise _BadRowError(f"the line is {_KINDS[type(value)]}, expected an object in braces")
    return value


def _field(fields: dict[str, object], name: str) -> object:
    if name not in fields:
        raise _BadRowError(f"there is no field {name!r}; it has: {listed(fields) or 'none'}")
    return fields[name]


def _scalar(value: object, name: str) -> str:
    if isinstance(value, (dict, list)):
        raise _BadRowError(f"the field {name!r} is {_KINDS[type(value)]}, expected a string, number or boolean")
    return as_label(value) or ""


TXT = Reader(_read_txt)
JSONL = Reader(_read_jsonl)
