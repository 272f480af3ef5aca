"""The dropout head: pre_dropout → Dropout(rate) → post_dropout → Dense → logits.

Everything after the encoder is this small, so it lives outside TensorFlow: a stored `pre_dropout` and a head give
any number of stochastic passes without running the model again ("encode once, drop many").
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.errors import SettingsError
from embedsvc.types import Mode, Pass, Vectors, check_rate

__all__ = ["Head"]


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A dropout with rate p and, where the model has a trained one, the dense layer behind it.

    Parameters
    ----------
    rate : float
        Dropout rate p, 0 <= p < 1.
    kernel : ndarray of shape (width, n_classes), float32, optional
        None where the head is untrained: then there are no logits.
    bias : ndarray of shape (n_classes,), float32, optional
    classes : tuple of str, optional
        Names of the classes, where the model knows them.

    Raises
    ------
    SettingsError
        For a rate out of range, a bias without a kernel, or shapes that disagree.
    """

    rate: float
    kernel: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A plain float, whatever number came: the digest and the manifest write it out.
        object.__setattr__(self, "rate", check_rate(self.rate))
        if self.kernel is None:
            if self.bias is not None:
                raise SettingsError("a head with a bias needs a kernel")
        elif self.kernel.ndim != 2 or (self.bias is not None and self.bias.shape != self.kernel.shape[1:]):
            bias = None if self.bias is None else self.bias.shape
            raise SettingsError(f"head shapes disagree: kernel {self.kernel.shape}, bias {bias}")
        elif self.classes and len(self.classes) != self.kernel.shape[1]:
            raise SettingsError(f"the head has {self.kernel.shape[1]} classes, but {len(self.classes)} names for them")

    @property
    def n_classes(self) -> int | None:
        """Width of the logits, or None without a trained dense layer."""
        return None if self.kernel is None else int(self.kernel.shape[1])

    def post(self, pre: Vectors, keys: NDArray[np.uint64], pass_: Pass) -> Vectors:
        """`post_dropout` of one pass: the very array `pre` in inference mode, else ``pre * mask / (1 - p)``.

        Parameters
        ----------
        pre : ndarray of shape (n, width), float32
        keys : ndarray of shape (n,), uint64
            Row keys, see `masks.row_key`.
        pass_ : Pass
        """
        if pass_.mode is Mode.INFERENCE:
            return pre
        seed, index = pass_.draw
        post: Vectors = self.posts(pre, keys, seed=seed, passes=[index])[0]
        return post

    def posts(self, pre: Vectors, keys: NDArray[np.uint64], *, seed: int, passes: Sequence[int]) -> Vectors:
        """`post_dropout` of several passes over the same `pre`, shape (n_passes, n, width)."""
        kept = masks.keep(keys, seed=seed, passes=passes, site=masks.HEAD_SITE, units=pre.shape[1], rate=self.rate)
        return masks.dropout(pre, kept, self.rate)

    def logits(self, post: Vectors) -> Vectors:
        """Logits (before any softmax or sigmoid), shape (..., n_classes), float32.

        Raises
        ------
        SettingsError
            If the head has no trained dense layer.
        """
        if self.kernel is None:
            raise SettingsError("this model has no trained head, so there are no logits")
        logits = post @ self.kernel
        return logits if self.bias is None else logits + self.bias

    def digest(self) -> str:
        """SHA-256 (hex) over rate, weights and class names."""
        digest = hashlib.sha256(repr((self.rate, self.classes)).encode())
        for array in (self.kernel, self.bias):
            digest.update(repr(None if array is None else array.shape).encode())
            digest.update(b"" if array is None else np.ascontiguousarray(array, dtype="<f4").tobytes())
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """For the manifest: arrays as base64 of little-endian float32."""
        return {
            "rate": self.rate,
            "kernel": _pack(self.kernel),
            "bias": _pack(self.bias),
            "classes": list(self.classes),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The head that `to_json` wrote, bit for bit."""
        return cls(float(data["rate"]), _unpack(data["kernel"]), _unpack(data["bias"]), tuple(data["classes"]))


def _pack(array: NDArray[np.float32] | None) -> dict[str, Any] | None:
    if array is None:
        return None
    return {
        "shape": list(array.shape),
        "float32": base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode(),
    }


def _unpack(data: dict[str, Any] | None) -> NDArray[np.float32] | None:
    if data is None:
        return None
    return np.frombuffer(base64.b64decode(data["float32"]), "<f4").reshape(data["shape"]).astype(np.float32)
