"""What every result can do: print well, in a notebook and out of one, and become a data frame."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["Columns", "Result"]

Columns = Mapping[str, Sequence[Any] | NDArray[Any]]
"""Columns of one length by their names; an array may have two axes, and then each row is a vector."""

_ROWS = 10  # of a table in a notebook
_CUT = 80  # characters of a cell in a notebook


class Result:
    """Base of whatever an analysis gives. A subclass says what is in its table and what stands above it."""

    __slots__ = ()

    def _facts(self) -> Mapping[str, object]:
        """What it is about, in a few words each: what a reader wants to know before any number."""
        raise NotImplementedError

    def _table(self) -> Columns:
        """Everything there is, a row for each thing measured: what data frames are made of."""
        raise NotImplementedError

    def _summary(self) -> Columns:
        """What a notebook shows, where the table is too long to be read."""
        return self._table()

    def to_pandas(self) -> pd.DataFrame:
        """The table as a pandas data frame; vectors become one array a row.

        Raises
        ------
        MissingExtraError
            If pandas is not installed.
        """
        return pandas_frame(self._table())

    def to_polars(self) -> pl.DataFrame:
        """The table as a polars data frame; vectors become a column of type Array.

        Raises
        ------
        MissingExtraError
            If polars is not installed.
        """
        return polars_frame(self._table())

    def __repr__(self) -> str:
        facts = "; ".join(f"{name}: {_word(value)}" for name, value in self._facts().items())
        return f"<{type(self).__name__} {facts}>"

    def _repr_html_(self) -> str:
        facts = " · ".join(
            f"{html.escape(name)} <b>{html.escape(_word(value))}</b>" for name, value in self._facts().items()
        )
        return f"<div><p><b>{type(self).__name__}</b> · {facts}</p>\n{_html(self._summary())}\n</div>"


def pandas_frame(columns: Columns) -> pd.DataFrame:
    """Columns as a pandas data frame."""
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise MissingExtraError.of("pandas", "frames") from None
    return pd.DataFrame({name: list(values) if np.ndim(values) == 2 else values for name, values in columns.items()})


def polars_frame(columns: Columns) -> pl.DataFrame:
    """Columns as a polars data frame."""
    try:
        import polars as pl
    except ModuleNotFoundError as error:
        if error.name != "polars":
            raise
        raise MissingExtraError.of("polars", "frames") from None
    return pl.DataFrame(dict(columns), strict=False)


def _html(columns: Columns) -> str:
    """The first rows as an HTML table; every cell is text, whatever it holds."""
    rows = list(zip(*columns.values(), strict=True))
    sides = [_side(value) for value in rows[0]] if rows else ["left"] * len(columns)
    head = "".join(
        f'<th style="text-align:{side}">{html.escape(name)}</th>' for side, name in zip(sides, columns, strict=True)
    )
    body = "\n".join(f"<tr>{''.join(_cells(row))}</tr>" for row in rows[:_ROWS])
    more = f"<p>{len(rows):,} rows; <code>.to_pandas()</code> has them all.</p>" if len(rows) > _ROWS else ""
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>{more}"


def _cells(row: Sequence[object]) -> Iterator[str]:
    for value in row:
        yield f'<td style="text-align:{_side(value)}">{html.escape(_word(value))}</td>'


def _side(value: object) -> str:
    return "right" if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) else "left"


def _word(value: object) -> str:
    if value is None or (isinstance(value, (float, np.floating)) and np.isnan(value)):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    text = " ".join(str(value).split())
    return text if len(text) <= _CUT else text[: _CUT - 1] + "…"
