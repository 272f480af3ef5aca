"""The nouns of embedsvc: small frozen values that check themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import SettingsError

__all__ = [
    "Block",
    "DropoutSite",
    "Forward",
    "Mode",
    "ModelSpec",
    "Pass",
    "Text",
    "Tokens",
    "Variant",
    "Vectors",
    "check_rate",
    "check_seed",
    "named_fields",
]

Vectors = NDArray[np.float32]  # C-contiguous, (n_texts, width)


class Mode(StrEnum):
    """Which dropouts are live in a forward pass."""

    INFERENCE = "inference"  # none (Keras training=False)
    TRAINING = "training"  # all, the encoder's too (Keras training=True)
    HEAD = "head"  # the head's only: MC dropout on the head

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise SettingsError(f"no mode is called {value!r}", f"Known: {', '.join(cls)}")

    @property
    def stochastic(self) -> bool:
        """Whether passes in this mode draw masks, and so need a seed."""
        return self is not Mode.INFERENCE


@dataclass(frozen=True, slots=True)
class Text:
    """One text with its id, unique in its set, and its label if it has one."""

    id: str
    text: str
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass: `inference`, or a numbered stochastic pass under a seed.

    Raises
    ------
    SettingsError
        An inference pass with a number or seed, or a stochastic one without them or with one out of range.
    """

    mode: Mode = Mode.INFERENCE
    index: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", Mode(self.mode))  # a plain "training" is accepted
        if not self.mode.stochastic:
            if self.index is not None or self.seed is not None:
                raise SettingsError("an inference pass has no number and no seed: it draws nothing")
        elif self.index is None or self.seed is None:
            raise SettingsError(
                f"a pass in {self.mode} mode needs a number and a seed", "Give both, for example 0 and 7."
            )
        else:
            check_seed(self.seed)
            if not _is_count(self.index):
                raise SettingsError(f"the pass has the number {self.index!r}, expected a whole number from 0")

    @property
    def draw(self) -> tuple[int, int]:
        """Seed and number of a stochastic pass."""
        if self.seed is None or self.index is None:
            raise SettingsError("an inference pass draws nothing")
        return self.seed, self.index


_VARIANT = re.compile(r"(?P<tap>.+?)\.(?P<mode>inference|training|head)(?:\.(?P<index>0|[1-9][0-9]*))?")


@dataclass(frozen=True, slots=True, order=True)
class Variant:
    """What was tapped, and how: ``tap.mode[.pass]``. Its string is the column name in every file.

    >>> Variant.parse("post_dropout.training.0")
    Variant(tap='post_dropout', mode=<Mode.TRAINING: 'training'>, index=0)
    >>> str(Variant("layer.3", Mode.INFERENCE))
    'layer.3.inference'
    """

    tap: str
    mode: Mode
    index: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", Mode(self.mode))
        if self.mode.stochastic != (self.index is not None) or not (self.index is None or _is_count(self.index)):
            wants = "a pass number" if self.mode.stochastic else "no pass number"
            raise SettingsError(f"the variant {str(self)!r} is in {self.mode} mode and needs {wants}")

    def __str__(self) -> str:
        return self.kind + ("" if self.index is None else f".{self.index}")

    @property
    def kind(self) -> str:
        """Tap and mode: what passes have in common.

        >>> Variant.parse("post_dropout.training.12").kind
        'post_dropout.training'
        """
        return f"{self.tap}.{self.mode}"

    @classmethod
    def parse(cls, name: str) -> Self:
        """The variant of that name.

        Raises
        ------
        SettingsError
            If the name is not of the form ``tap.mode[.pass]``.
        """
        match = _VARIANT.fullmatch(name)
        if not match:
            raise SettingsError(
                f"{name!r} is no variant name",
                "The form is tap.mode[.pass], for example pre_dropout.inference or post_dropout.training.0",
            )
        index = match["index"]
        return cls(match["tap"], Mode(match["mode"]), None if index is None else int(index))


@dataclass(frozen=True, slots=True)
class DropoutSite:
    """One place in the model that drops units.

    `modes` lists the modes in which it is live *as loaded* (a frozen hub encoder has none).
    """

    path: str
    rate: float
    modes: tuple[Mode, ...] = (Mode.TRAINING,)
    kind: str = "unit"

    def __post_init__(self) -> None:
        check_rate(self.rate)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a loaded model is and offers.

    Attributes
    ----------
    uri : str
        What `load_model` was given, canonical (``minilm-l6``, ``hf:/models/x``).
    digest : str
        SHA-256 (hex) over everything that decides its vectors: weights, graph, head.
    vocab_digest : str
        SHA-256 (hex) of the vocabulary, or "" where the model keeps it inside its graph.
    max_tokens : int or None
        Longest input in tokens, special tokens included; None if the model has no limit.
    taps : mapping of str to int
        Tap name to width, `pre_dropout` and `post_dropout` always among them.
    sites : tuple of DropoutSite
        ``sites[0]`` is the head's.
    masks : {"keyed", "positional"}
        Whether encoder masks follow the text or its place in the batch. The head's masks are keyed always.
    special_tokens : int
        Tokens the model adds to each text ([CLS], [SEP]).
    notes : tuple of str
        Plain sentences the user should see (an untrained head, a frozen encoder).
    """

    uri: str
    digest: str
    vocab_digest: str
    max_tokens: int | None
    taps: Mapping[str, int]
    sites: tuple[DropoutSite, ...]
    masks: Literal["keyed", "positional"] = "keyed"
    special_tokens: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokenised texts, before special tokens and truncation.

    Attributes
    ----------
    texts : tuple of str
    ids : tuple of ndarray of shape (n_i,), int32, or None
        None where the model takes strings only; such a text cannot be split into chunks.
    counts : ndarray of shape (n,), int64
        Tokens of the whole text without special ones; -1 where the model cannot tell.
    """

    texts: tuple[str, ...]
    ids: tuple[NDArray[np.int32], ...] | None
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> Tokens:
        """The given rows, in the given order."""
        return Tokens(
            tuple(self.texts[row] for row in rows),
            None if self.ids is None else tuple(self.ids[row] for row in rows),
            self.counts[np.asarray(rows, dtype=np.intp)],
        )


@dataclass(frozen=True, slots=True)
class Forward:
    """What one forward pass gave: all taps from the same pass, and so under the same masks.

    Attributes
    ----------
    vectors : mapping of str to ndarray of shape (n, width), float32
    n_tokens : ndarray of shape (n,), int64
        Tokens the model read, special ones included; -1 where it cannot tell.
    truncated : ndarray of shape (n,), bool
    """

    vectors: Mapping[str, Vectors]
    n_tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of a set with their stored vectors: what `extract` yields and the store writes as one part.

    Attributes
    ----------
    index : int
        Number of the block; block k holds the rows from ``offset`` on.
    offset : int
    texts : tuple of Text
    n_tokens, truncated : ndarray of shape (n,)
        See `Forward`.
    vectors : mapping of str to ndarray of shape (n, width), float32
        By variant name, in the order of the columns.
    """

    index: int
    offset: int
    texts: tuple[Text, ...]
    n_tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    vectors: Mapping[str, Vectors] = field(default_factory=dict)


def named_fields(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are named as fields of a dataclass are: what a command or a job says of it."""
    return {each.name: values[each.name] for each in fields(kind) if each.name in values}


def check_seed(seed: int) -> int:
    """The seed itself if it is a whole number from 0 to 2**63 - 1.

    Raises
    ------
    SettingsError
        Otherwise.
    """
    if not _is_count(seed) or seed >= 2**63:
        raise SettingsError(f"the seed is {seed!r}, expected a whole number from 0 to 2**63 - 1")
    return int(seed)


def check_rate(rate: float) -> float:
    """The rate itself if 0 <= rate < 1.

    Raises
    ------
    SettingsError
        Otherwise: at rate 1 nothing is kept and 1 / (1 - rate) has no value.
    """
    if not 0.0 <= rate < 1.0:
        raise SettingsError(f"the dropout rate is {rate!r}, expected 0 <= rate < 1")
    return float(rate)


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 0)
