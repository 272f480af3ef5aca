"""What a model's dropout sites are seen to do when the model runs, as against what its configuration says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from embedsvc.batching import Fitted, fit
from embedsvc.models.base import Encoder
from embedsvc.types import Mode, Pass

__all__ = [
    "OBSERVED_TEXT",
    "Observable",
    "Observation",
    "Seen",
    "observe",
    "observe_head",
    "observed_tokens",
    "seen_mask",
]

# Of many steps, words that most vocabularies have, and no two alike in a row.
OBSERVED_TEXT = "the film was good and the plot was not bad at all"

# A mask may keep every unit of a small site: try again, until it has shown something.
_PASSES = 24
_ENOUGH = 3  # masks with a dropped unit in them

Mask = NDArray[np.float32]  # 1 kept, 0 dropped, NaN where nothing shows it (the unit was 0 before)


@dataclass(frozen=True, slots=True)
class Observation:
    """What one dropout site did while the model ran.

    Attributes
    ----------
    path : str
        As in `ModelSpec.sites`.
    modes : tuple of Mode
        Those in which it changed what went through it.
    dropped : float or None
        Fraction of units it set to 0 in training mode; None where that cannot be seen.
    shared : bool or None
        Whether every time step got the same mask; None where there are no steps, or no evidence.
    gates : int
        Masks it draws for one step: one for each gate of a recurrent cell, or 1.
    how : str
        What was watched, in a few words.
    """

    path: str
    modes: tuple[Mode, ...]
    dropped: float | None
    shared: bool | None
    gates: int
    how: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One site in one pass.

    Attributes
    ----------
    changed : bool
        Whether anything that went through the site was changed by it.
    mask : ndarray or None
        What shows of its mask; with the time steps along the first axis, and the gates along the second, if `steps`.
    steps : bool
    how : str
    """

    changed: bool
    mask: Mask | None
    steps: bool
    how: str


@runtime_checkable
class Observable(Protocol):
    """An encoder that can show what its sites do; of others only what they declare is known."""

    def observe(self) -> Sequence[Observation]:
        """One observation for each site of the encoder, the head's not among them."""


def observe(run: Callable[[Mode, int], dict[str, Seen]]) -> list[Observation]:
    """Run a model until its sites have shown what they do.

    Parameters
    ----------
    run : callable
        Runs one numbered pass over a text and gives what each site did in it, by path.
    """
    found = {path: _Evidence(seen.how, inference=seen.changed) for path, seen in run(Mode.INFERENCE, 0).items()}
    for number in range(_PASSES):
        for path, seen in run(Mode.TRAINING, number).items():
            found.setdefault(path, _Evidence(seen.how, inference=False)).add(seen)
        if all(evidence.enough for evidence in found.values()):
            break
    return [evidence.sum_up(path) for path, evidence in found.items()]


def observed_tokens(encoder: Encoder) -> Fitted:
    """The text that models are watched with, cut to what this one reads."""
    return fit(encoder.tokenize([OBSERVED_TEXT]), [OBSERVED_TEXT], encoder.spec)


def observe_head(encoder: Encoder) -> Observation:
    """The head's dropout, in all three modes."""
    observed = observed_tokens(encoder)
    keys = observed.keys
    x = encoder.encode(observed.pieces, keys=keys, taps=["pre_dropout"], pass_=Pass())["pre_dropout"]
    how = "its input beside its output"

    def run(mode: Mode, number: int) -> dict[str, Seen]:
        y = encoder.head.post(x, keys, Pass(mode, number, 0) if mode.stochastic else Pass(mode))
        return {"head": Seen(bool((x != y).any()), seen_mask(x, y), False, how)}

    [seen] = observe(run)
    modes = (*seen.modes, *([Mode.HEAD] if run(Mode.HEAD, 0)["head"].changed else []))
    return Observation(encoder.spec.sites[0].path, modes, seen.dropped, None, 1, how)


def seen_mask(x: NDArray[np.float32], y: NDArray[np.float32]) -> Mask:
    """The mask between what went into a dropout and what came out."""
    return np.where(x == 0, np.nan, y != 0).astype(np.float32)


@dataclass
class _Evidence:
    how: str
    inference: bool
    training: bool = False
    passes: int = 0
    zeros: int = 0
    known: int = 0
    steps: bool = False
    gates: int = 1
    shared: list[bool] = field(default_factory=list)
    shown: int = 0

    def add(self, seen: Seen) -> None:
        self.passes += 1
        self.training = self.training or seen.changed
        if seen.mask is None:
            return
        self.zeros += int((seen.mask == 0).sum())
        self.known += int((~np.isnan(seen.mask)).sum())
        self.shown += bool((seen.mask == 0).any())
        if seen.steps:
            self.steps = True
            self.gates = max(self.gates, max(map(_distinct, seen.mask), default=1))
            if (same := _same_at_every_step(seen.mask)) is not None:
                self.shared.append(same)

    @property
    def enough(self) -> bool:
        """Whether more passes would tell nothing new; a site that is never live shows that in a few."""
        if not self.training:
            return self.passes >= _ENOUGH
        return not self.known or self.shown >= _ENOUGH and (not self.steps or bool(self.shared))

    def sum_up(self, path: str) -> Observation:
        modes = [Mode.INFERENCE] * self.inference + [Mode.TRAINING] * self.training
        dropped = self.zeros / self.known if self.known and self.training else None
        return Observation(path, tuple(modes), dropped, all(self.shared) if self.shared else None, self.gates, self.how)


def _same_at_every_step(mask: Mask) -> bool | None:
    """Whether every unit seen at several steps was kept at all of them or dropped at all; None without evidence."""
    often = mask[:, (~np.isnan(mask)).sum(axis=0) > 1]
    if not (often == 0).any():
        return None
    return bool((np.nanmin(often, axis=0) == np.nanmax(often, axis=0)).all())


def _distinct(gates: Mask) -> int:
    """How many masks the gates of a step have: one for all, or one for each."""
    if gates.ndim < 2:
        return 1
    known = ~np.isnan(gates).any(axis=0)
    return 1 if (gates[:, known] == gates[:1, known]).all() else len(gates)
