"""Keyed dropout masks: a function of the text, never of the batch it rides in.

The mask of a unit is a function of (seed, row key, site, pass, position) and of nothing else. Each row has its own
key, made from its id; a counter-based generator turns (seed, key) and a counter into bits, so that any mask can be
drawn again, alone, in any order, on any machine.

Layout, fixed for ever by ``MASK_VERSION`` (stored sets are read by it):

- generator: Philox 4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), numpy's ``Philox``;
- key: (seed, row key); row key: the first 8 bytes of BLAKE2b of the id, little-endian;
- counter: (block + 1, 0, site, 0), least significant word first: numpy is given (block, 0, site, 0) and counts up
  before it draws. A block gives 16 units of 16 bits, the words of Philox in their order and the low bits of a word
  first. Pass ``k`` of a site with ``u`` units owns the blocks ``k * ceil(u / 16)`` and up, so that many passes of one
  row are one run of the generator;
- a unit is dropped where its 16 bits are below ``round(rate * 65536)``, at most 65535: the rate is met to within
  2**-17 (2**-16 above 1 - 2**-17), far below what any sample could tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import SettingsError
from embedsvc.types import check_rate, check_seed

__all__ = ["HEAD_SITE", "MASK_VERSION", "Stream", "dropout", "keep", "row_key", "row_keys"]

MASK_VERSION = 1
HEAD_SITE = 0  # the dropout of the head; a model's other sites are numbered from 1 in the order of its spec

_UNITS_PER_BLOCK = 16
_WORDS_PER_BLOCK = 4
_WORDS = 65_536  # drawn at a time, 512 KB


def row_key(text_id: str, chunk: int = 0) -> int:
    """The 64-bit key of a row, from its id; later chunks of a long text get keys of their own.

    >>> row_key("reviews.txt:1") == row_key("reviews.txt:1"), row_key("a") == row_key("b")
    (True, False)
    """
    # surrogatepass: an id may come from a file name that is no valid UTF-8.
    salt = chunk.to_bytes(4, "little") if chunk else b""
    return int.from_bytes(
        hashlib.blake2b(text_id.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt).digest(), "little"
    )


def row_keys(ids: Iterable[str]) -> NDArray[np.uint64]:
    """Row keys of many ids, shape (n,), uint64."""
    return np.array([row_key(text_id) for text_id in ids], dtype=np.uint64)


def keep(
    keys: NDArray[np.uint64] | Sequence[int], *, seed: int, passes: Sequence[int], site: int, units: int, rate: float
) -> NDArray[np.bool_]:
    """Which units stay, for each pass and row.

    Parameters
    ----------
    keys : ndarray of shape (n_rows,), uint64
        Row keys, see `row_key`.
    seed : int
        From 0 to 2**63 - 1.
    passes : sequence of int
        Pass numbers. A contiguous ``range`` is drawn in one run a row and is the fast way to many passes.
    site : int
        Number of the dropout site; `HEAD_SITE` is 0.
    units : int
        Units of the site for one row: its shape, flattened in row-major order.
    rate : float
        Dropout rate p, 0 <= p < 1.

    Returns
    -------
    ndarray of shape (n_passes, n_rows, units), bool
        True where the unit is kept, with probability 1 - p.
    """
    check_rate(rate)
    blocks = _blocks(units)
    kept = np.empty((len(passes), len(keys), units), dtype=np.bool_)
    stream, threshold = Stream(seed), _threshold(rate)
    for at, first, count in _runs(passes):
        # Some rows at a time, so that what is drawn is still in the cache when it meets the threshold.
        rows = max(1, min(_WORDS // max(1, count * blocks * _WORDS_PER_BLOCK), len(keys)))
        words = np.empty((rows, count * blocks * _WORDS_PER_BLOCK), dtype="<u8")
        for start in range(0, len(keys), rows):
            some = keys[start : start + rows]
            for row, key in enumerate(some):
                words[row] = stream.words(int(key), site, first * blocks, count * blocks)
            bits = words[: len(some)].view("<u2").reshape(len(some), count, -1)[:, :, :units]
            np.greater_equal(bits.swapaxes(0, 1), threshold, out=kept[at : at + count, start : start + rows])
    return kept


def dropout(x: NDArray[np.float32], kept: NDArray[np.bool_], rate: float) -> NDArray[np.float32]:
    """Inverted dropout, as Keras has it: ``x * kept / (1 - rate)``, in float32.

    `x` broadcasts to the shape of `kept`. A dropped unit is 0 whatever it was, infinity and NaN too.

    >>> dropout(np.float32([2, 4]), np.array([True, False]), 0.5).tolist()
    [4.0, 0.0]
    """
    # The bits of a float under a mask of ones or zeros: np.where says the same at a third of the speed.
    bits = np.negative(kept.view(np.int8), dtype=np.int32)
    with np.errstate(over="ignore"):  # what is near the largest float32 becomes infinite, as in Keras
        scaled = np.asarray(x * np.float32(1.0 / (1.0 - rate)), dtype=np.float32)
    np.bitwise_and(bits, scaled.view(np.int32), out=bits)
    return bits.view(np.float32)


def _runs(passes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Contiguous runs of pass numbers as (position, first pass, count)."""
    runs: list[tuple[int, int, int]] = []
    for at, number in enumerate(passes):
        if number < 0:
            raise SettingsError(f"pass {number} does not exist: passes are numbered from 0")
        if runs and number == runs[-1][1] + runs[-1][2]:
            start, first, count = runs[-1]
            runs[-1] = (start, first, count + 1)
        else:
            runs.append((at, number, 1))
    return runs


class Stream:
    """The generator itself, for code that draws many sites of many rows; not to be shared between threads."""

    def __init__(self, seed: int) -> None:
        self._philox = np.random.Philox(key=0)
        # Setting the whole state costs 1 microsecond, a new Philox eight.
        self._state = self._philox.state
        self._key = np.array([check_seed(seed), 0], dtype=np.uint64)
        self._counter = np.zeros(4, dtype=np.uint64)
        self._state["state"] = {"counter": self._counter, "key": self._key}
        self._state["buffer_pos"] = _WORDS_PER_BLOCK  # nothing buffered

    def words(self, key: int, site: int, block: int, count: int) -> NDArray[np.uint64]:
        """What the generator gives for `count` blocks from `block` on, shape (4 * count,), uint64."""
        self._key[1] = key
        self._counter[0], self._counter[2] = block, site
        self._philox.state = self._state
        return self._philox.random_raw(count * _WORDS_PER_BLOCK)

    def bits(self, key: int, site: int, block: int, count: int) -> NDArray[np.uint16]:
        """The units of `count` blocks from `block` on, shape (16 * count,), uint16."""
        return self.words(key, site, block, count).astype("<u8", copy=False).view("<u2")

    def keep_into(self, out: NDArray[np.bool_], *, key: int, site: int, index: int, rate: float) -> None:
        """Fill `out`, one row's site of any shape, with the mask of pass `index`: what `keep` gives, without a copy."""
        blocks = _blocks(out.size)
        bits = self.bits(key, site, index * blocks, blocks)
        np.greater_equal(bits[: out.size].reshape(out.shape), _threshold(rate), out=out)


def _blocks(units: int) -> int:
    return -(-units // _UNITS_PER_BLOCK)


def _threshold(rate: float) -> np.uint16:
    return np.uint16(min(round(rate * 65536), 65535))
