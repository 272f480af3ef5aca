"""Which rows run together: long texts fitted to the model, rows of like length in one batch under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.errors import InputError, SettingsError
from embedsvc.types import ModelSpec, Tokens

__all__ = ["Fitted", "OnLong", "firsts", "fit", "plan"]


class OnLong(StrEnum):
    """What to do with a text longer than the model can read."""

    TRUNCATE = "truncate"  # keep the first tokens, count and flag the row
    FAIL = "fail"  # stop with an error that names the row
    CHUNK_MEAN = "chunk-mean"  # read it in pieces; vectors are the mean over pieces, weighted by their tokens

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise SettingsError(f"on_long is {value!r}", f"Known: {', '.join(cls)}")


@dataclass(frozen=True, slots=True)
class Fitted:
    """Texts cut to pieces that the model can read; one piece a row, save under `OnLong.CHUNK_MEAN`.

    Attributes
    ----------
    pieces : Tokens
        What the model runs on.
    rows : ndarray of shape (n_pieces,), intp
        The row each piece belongs to, ascending.
    keys : ndarray of shape (n_pieces,), uint64
        Key of each piece for the encoder's masks. The head's mask belongs to the row: see `masks.row_keys`.
    n_tokens : ndarray of shape (n_rows,), int64
        Tokens read of each row, special tokens included; -1 where the model cannot tell.
    truncated : ndarray of shape (n_rows,), bool
    """

    pieces: Tokens
    rows: NDArray[np.intp]
    keys: NDArray[np.uint64]
    n_tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    def merge(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors of rows from vectors of pieces, shape (n_rows, width): themselves, or the mean weighted by tokens."""
        if len(self.rows) == len(self.n_tokens):
            return vectors
        weights = self.pieces.counts.astype(np.float64)
        totals = np.zeros((len(self.n_tokens), vectors.shape[1]), dtype=np.float64)
        np.add.at(totals, self.rows, vectors * weights[:, None])
        return (totals / np.bincount(self.rows, weights)[:, None]).astype(np.float32)


def fit(
    tokens: Tokens,
    ids: Sequence[str],
    spec: ModelSpec,
    *,
    max_tokens: int | None = None,
    on_long: OnLong = OnLong.TRUNCATE,
    keep_end: bool = False,
) -> Fitted:
    """Cut tokenised texts to what the model reads.

    Parameters
    ----------
    tokens : Tokens
    ids : sequence of str
        Row ids, one a text.
    spec : ModelSpec
    max_tokens : int, optional
        Limit with special tokens; the model's own by default, which it cannot exceed.
    on_long : OnLong
    keep_end : bool
        Truncation keeps a text's last tokens, not its first.

    Raises
    ------
    SettingsError
        If `max_tokens` exceeds the model's limit or leaves no room, or if chunks or a lower limit are asked of a model
        that takes strings.
    InputError
        Under `OnLong.FAIL`, for the first row that is too long.
    """
    limit = check_max_tokens(spec, max_tokens)
    on_long = OnLong(on_long)  # a plain "fail" is accepted
    if tokens.ids is None and limit != spec.max_tokens:
        raise SettingsError(
            f"max_tokens is {max_tokens}, but {spec.uri} takes strings and cuts them itself at {spec.max_tokens}",
            "Leave max_tokens out.",
        )
    every = np.arange(len(tokens), dtype=np.intp)
    keys = masks.row_keys(ids)
    known = tokens.counts >= 0
    n_tokens = np.where(known, tokens.counts + spec.special_tokens, -1)
    if limit is None:
        return Fitted(tokens, every, keys, n_tokens, np.zeros(len(tokens), dtype=np.bool_))
    too_long = known & (n_tokens > limit)
    if on_long is OnLong.FAIL and too_long.any():
        row = int(np.argmax(too_long))
        raise InputError(
            f"{ids[row]}: the text has {n_tokens[row]} tokens, the limit is {limit}",
            "Use --on-long truncate or --on-long chunk-mean, or raise --max-tokens if the model allows it.",
        )
    if on_long is OnLong.CHUNK_MEAN:
        return _chunk(tokens, ids, limit - spec.special_tokens, keys, n_tokens)
    if tokens.ids is None:
        if keep_end and too_long.any():
            raise SettingsError(
                f"the end of a long text was asked for, but {spec.uri} takes strings and keeps their beginning",
                "Cut long texts yourself.",
            )
        return Fitted(tokens, every, keys, np.where(too_long, limit, n_tokens), too_long)
    room = limit - spec.special_tokens
    cut = tuple(piece[-room:] if keep_end else piece[:room] for piece in tokens.ids)
    pieces = Tokens(tokens.texts, cut, np.minimum(tokens.counts, room))
    return Fitted(pieces, every, keys, np.where(too_long, limit, n_tokens), too_long)


def check_max_tokens(spec: ModelSpec, max_tokens: int | None) -> int | None:
    """The limit in force: the given one if the model can read it, else the model's own."""
    if max_tokens is None:
        return spec.max_tokens
    if max_tokens <= spec.special_tokens:
        raise SettingsError(
            f"max_tokens is {max_tokens}, but the model adds {spec.special_tokens} special tokens of its own"
        )
    if spec.max_tokens is not None and max_tokens > spec.max_tokens:
        raise SettingsError(f"max_tokens is {max_tokens}, but {spec.uri} reads at most {spec.max_tokens}")
    return max_tokens


def _chunk(
    tokens: Tokens, ids: Sequence[str], room: int, keys: NDArray[np.uint64], n_tokens: NDArray[np.int64]
) -> Fitted:
    if tokens.ids is None:
        raise SettingsError(
            "this model takes strings and splits them itself, so long texts cannot be read in chunks",
            "Use --on-long truncate or fail.",
        )
    pieces: list[NDArray[np.int32]] = []
    rows: list[int] = []
    piece_keys: list[int] = []
    texts: list[str] = []
    for row, ids_of_row in enumerate(tokens.ids):
        for chunk, start in enumerate(range(0, max(len(ids_of_row), 1), room)):
            pieces.append(ids_of_row[start : start + room])
            texts.append(tokens.texts[row])
            rows.append(row)
            piece_keys.append(masks.row_key(ids[row], chunk) if chunk else int(keys[row]))
    # A text without any token still weighs something: its [CLS] vector is its mean.
    counts = np.array([max(len(piece), 1) for piece in pieces], dtype=np.int64)
    return Fitted(
        Tokens(tuple(texts), tuple(pieces), counts),
        np.array(rows, dtype=np.intp),
        np.array(piece_keys, dtype=np.uint64),
        n_tokens,
        np.zeros(len(tokens), dtype=np.bool_),
    )


def firsts(tokens: Tokens) -> NDArray[np.intp]:
    """For each row the first that has the same tokens, itself where there is none before it.

    Parameters
    ----------
    tokens : Tokens
        With ids.

    Returns
    -------
    ndarray of shape (n,), intp
    """
    assert tokens.ids is not None
    seen: dict[bytes, int] = {}
    rows = (seen.setdefault(ids.tobytes(), row) for row, ids in enumerate(tokens.ids))
    return np.fromiter(rows, dtype=np.intp, count=len(tokens))


def plan(tokens: Tokens, *, token_budget: int, special_tokens: int = 0) -> list[NDArray[np.intp]]:
    """Batches of rows of like length: rows times the longest of them stays within the budget.

    Rows are sorted by length (ties by position), so that a batch holds little padding; the order is a function of
    the rows alone, so the same rows always make the same batches.

    Parameters
    ----------
    tokens : Tokens
        Lengths unknown to the model (-1) are guessed at one token per four characters.
    token_budget : int
        Tokens a batch, at least one row goes in whatever its length.
    special_tokens : int
        Added to each row's count.

    Returns
    -------
    list of ndarray of intp
        Positions into `tokens`; together each exactly once.
    """
    guesses = np.fromiter((len(text) // 4 + 1 for text in tokens.texts), dtype=np.int64, count=len(tokens))
    lengths = np.where(tokens.counts >= 0, tokens.counts, guesses) + special_tokens
    order = np.argsort(lengths, kind="stable")
    batches: list[NDArray[np.intp]] = []
    start = 0
    for end in range(1, len(order) + 1):
        # Ascending lengths: the row at `end` would be the longest of the batch.
        if end == len(order) or (end - start + 1) * lengths[order[end]] > token_budget:
            batches.append(order[start:end])
            start = end
    return batches
