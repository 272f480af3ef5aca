"""Files made of columns: CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from embedsvc.errors import InputError
from embedsvc.texts.base import Bad, Columns, Reader, ReadOptions, Row, Rows, as_label, choose_columns, gather
from embedsvc.texts.faults import on_line
from embedsvc.texts.lines import LongLine, not_utf8, numbered_lines, too_long

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CSV", "PARQUET", "TSV"]


def _read_csv(stream: io.BufferedIOBase, name: str, options: ReadOptions, delimiter: str) -> Iterator[Rows | Bad]:
    """RFC 4180, with a header. Rows are numbered by record, as texts may hold line ends; blank lines are no records.

    Spreadsheets of half of Europe write semicolons: what has no comma in its first line is read by those, or by tabs.
    """
    return gather(_records(stream, name, options, delimiter))


def _records(stream: io.BufferedIOBase, name: str, options: ReadOptions, delimiter: str) -> Iterator[Row | Bad]:
    lines = _Lines(stream, name, options.max_text_bytes)
    # strict: without it, quotes that never close swallow the rest of the file without a word.
    records = csv.reader(lines, delimiter=lines.delimiter(delimiter), strict=True)
    header: list[str] | None = None
    columns: Columns | None = None
    number = 0
    while True:
        lines.start_record()
        first_line = records.line_num + 1
        try:
            record = next(records, None)
        except csv.Error as error:
            record = []
            lines.note(_csv_reason(error), records.line_num)
            if lines.quotes % 2:
                # Inside open quotes nobody can tell where the next record begins; guessing could invent rows.
                raise InputError(
                    f"{name}:{number + 1}: quotes that open on line {first_line} do not close properly: {lines.fault}",
                    "Quote a field as a whole, and write quotes inside it twice.",
                ) from None
        if record is None:
            return
        if not record and lines.fault is None:
            continue
        if header is None or columns is None:
            if lines.fault is not None:
                raise InputError(f"{name}: the header cannot be read: {lines.fault}")
            header = record
            columns = choose_columns(header, name, options)
            text_at = header.index(columns.text)
            id_at = None if columns.id is None else header.index(columns.id)
            label_at = None if columns.label is None else header.index(columns.label)
            continue
        number += 1
        if lines.fault is None and len(record) != len(header):
            lines.note(f"the number of fields is {len(record)}, the header has {len(header)}", first_line)
        if lines.fault is not None:
            yield Bad(number, lines.fault)
            continue
        label = None if label_at is None else record[label_at]
        yield Row(number, record[text_at], None if id_at is None else record[id_at], label or None, first_line)


def _csv_reason(error: csv.Error) -> str:
    message = str(error)
    if message.startswith("new-line character"):
        message = "a carriage return outside quotes"
    return f"broken CSV: {message}"


class _Lines:
    """Lines for `csv.reader`, which notes what is wrong with those of the record being read."""

    def __init__(self, stream: io.BufferedIOBase, name: str, limit: int) -> None:
        self._lines = numbered_lines(stream, name, limit)
        self._first = list(itertools.islice(self._lines, 1))
        self._limit = limit
        self.start_record()

    def delimiter(self, usual: str) -> str:
        """What sets the fields apart, by the first line: the usual one unless only another is there."""
        line = next((line for _, line in self._first if isinstance(line, bytes)), b"")
        others = [] if usual.encode() in line else [each for each in ";\t" if each.encode() in line]
        return others[0] if len(others) == 1 else usual

    def start_record(self) -> None:
        self.fault: str | None = None
        self.quotes = 0

    def note(self, fault: str, line: int) -> None:
        # The first fault tends to explain the others.
        self.fault = self.fault or on_line(fault, line)

    def __iter__(self) -> Iterator[str]:
        for number, line in itertools.chain(self._first, self._lines):
            if isinstance(line, LongLine):
                self.note(too_long("line", self._limit), number)
                self.quotes += line.quotes
                # As many quotes, odd or even, leave the parser inside or outside of quotes as the line would have.
                yield '"' * (line.quotes % 2) + "\n"
                continue
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                self.note(not_utf8(error), number)
                text = line.decode(errors="replace")
            self.quotes += text.count('"')
            yield text + "\n"


def _read_parquet(stream: io.BufferedIOBase, name: str, options: ReadOptions) -> Iterator[Rows | Bad]:
    """Rows are numbered through the file. Only the wanted columns are read, a few thousand rows at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # buffer_size: pages are streamed, whole column chunks are never in memory.
        file = pq.ParquetFile(stream, buffer_size=2**18, pre_buffer=False, page_checksum_verification=True)
        with file:
            schema = file.schema_arrow
            columns = choose_columns(schema.names, name, options)
            for column in columns:
                if column is not None:
                    _check_type(schema.field(column).type, column, column == columns.text, name)
            wanted = list(dict.fromkeys(column for column in columns if column is not None))
            number = 1
            batches = file.iter_batches(batch_size=_batch_rows(file.metadata), columns=wanted, use_threads=False)
            for batch in batches:
                yield from gather(_batch_rows_of(batch, number, columns))
                number += batch.num_rows
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the file's
        raise InputError(f"{name}: not a Parquet file, or a damaged one: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0] or type(error).__name__


def _batch_rows(metadata: Any) -> int:  # noqa: ANN401 - pyarrow has no types
    """About 8 MiB of rows, going by their mean size."""
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return max(1, min(2048, 2**23 * int(metadata.num_rows) // max(int(size), 1)))


def _check_type(type_: Any, column: str, is_text: bool, name: str) -> None:  # noqa: ANN401
    import pyarrow.types as types

    value = type_.value_type if types.is_dictionary(type_) else type_
    strings = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    # Dates, decimals and bytes have more than one spelling; whoever writes the file knows which one is an id.
    others = () if is_text else (types.is_integer, types.is_floating, types.is_boolean)
    if not any(check(value) for check in (*strings, *others)):
        expected = "strings" if is_text else "strings, numbers or booleans"
        raise InputError(
            f"{name}: the column {column!r} has type {type_}, expected {expected}",
            "Name another column, or write it as strings.",
        )


def _batch_rows_of(batch: pa.RecordBatch, first: int, columns: Columns) -> Iterator[Row | Bad]:
    texts = _values(batch, columns.text)
    nothing: Sequence[object] = [None] * batch.num_rows
    ids = nothing if columns.id is None else _values(batch, columns.id)
    labels = nothing if columns.label is None else _values(batch, columns.label)
    for number, text, id_, label in zip(range(first, first + batch.num_rows), texts, ids, labels, strict=True):
        broken = next((value for value in (text, id_, label) if isinstance(value, UnicodeDecodeError)), None)
        if broken is not None:
            yield Bad(number, not_utf8(broken, "value"))
        elif not isinstance(text, str):
            yield Bad(number, f"the column {columns.text!r} is null, expected a string")
        else:
            yield Row(number, text, None if columns.id is None else as_label(id_) or "", as_label(label) or None)


def _values(batch: pa.RecordBatch, column: str) -> Sequence[object]:
    """Values of a column; UnicodeDecodeError stands for a string that is not UTF-8."""
    import pyarrow as pa

    array = batch.column(column)
    try:
        values: list[object] = array.to_pylist()
        return values
    except UnicodeDecodeError:
        plain = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
        return [None if value is None else _decoded(value) for value in plain.cast(pa.large_binary()).to_pylist()]


def _decoded(value: bytes) -> str | UnicodeDecodeError:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        return error


CSV = Reader(partial(_read_csv, delimiter=","))
TSV = Reader(partial(_read_csv, delimiter="\t"))
PARQUET = Reader(_read_parquet, seeks=True)
