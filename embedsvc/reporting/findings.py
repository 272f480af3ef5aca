"""What the rules of the verdict read, and what they say: plain values, without a rule among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Beside", "Clusters", "Effect", "Evidence", "Finding", "Map", "Reading", "Verdict"]

_SIZES = ((0.02, "none"), (0.10, "small"), (0.30, "moderate"))


class Effect(StrEnum):
    """How much dropout changes at the worst variant: up to 2, 10, 30 points of what could change, or more.

    Unknown where it was not measured, or the texts are too few to tell a difference from none.
    """

    NONE = "none"
    SMALL = "small"
    MODERATE = "moderate"
    LARGE = "large"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, loss: float) -> Effect:
        """The size of a loss between 0 and 1.

        >>> [str(Effect.of(loss)) for loss in (0.0, 0.05, 0.2, 0.5)]
        ['none', 'small', 'moderate', 'large']
        """
        return next((cls(name) for limit, name in _SIZES if loss < limit), cls.LARGE)

    @property
    def words(self) -> str:
        """What a reader is told.

        >>> Effect.LARGE.words, Effect.NONE.words, Effect.UNKNOWN.words
        ('large effect', 'no effect', 'not settled')
        """
        return {Effect.NONE: "no effect", Effect.UNKNOWN: "not settled"}.get(self, f"{self} effect")


@dataclass(frozen=True, slots=True)
class Beside:
    """A number between a variant and the reference, 1 for no difference, with what it must be read beside.

    Attributes
    ----------
    variant : str
    observed : float
    low, high : float
        Interval of the observed, or the observed twice.
    expected : float or None
        What the head's mask alone predicts; None where none lies between the two.
    expected_low : float or None
        Lower end of that, where it was drawn several times.
    chance : float
        The most that unrelated vectors reach by chance.
    encoder : bool
        Whether the encoder's dropout was live as well.
    """

    variant: str
    observed: float
    low: float
    high: float
    expected: float | None
    chance: float
    encoder: bool
    expected_low: float | None = None


@dataclass(frozen=True, slots=True)
class Clusters:
    """What is known of the clusters.

    Attributes
    ----------
    method : str
    stability : float or None
        Clusterwise Jaccard of the reference's clusters over resamples, mean over its texts.
    restarts : tuple of two floats or None
        Mean and lowest agreement of fits that differ in their seed only; None for a method that draws nothing.
    agreements : sequence of Beside
        ARI of each variant's clusters with the reference's.
    labels : mapping of str to float
        ARI of the clusters of each variant that is the same at every run with the labels; empty without labels.
    """

    method: str
    stability: float | None
    restarts: tuple[float, float] | None
    agreements: Sequence[Beside]
    labels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Map:
    """What is known of one map.

    Attributes
    ----------
    method : str
    reference : str
    trustworthiness : float or None
    moved : mapping of str to float
        Share of the texts of each variant that moved further than 95 % of those that had no reason to.
    against : str
        What had no reason to: the control, or the mask's own noise.
    """

    method: str
    reference: str
    trustworthiness: float | None
    moved: Mapping[str, float]
    against: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A classifier's score on one variant, and its difference to the reference, with 95 % intervals.

    Attributes
    ----------
    trained, tested : str
    score : float
    difference, low, high : float
    """

    trained: str
    tested: str
    score: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything the rules read.

    Attributes
    ----------
    n, k : int
        Texts; neighbours compared.
    reference : str
    identical : mapping of str to str
        Variants that are an earlier one bit for bit.
    overlaps : sequence of Beside
        Share of the k nearest neighbours that each variant keeps.
    clusters : Clusters or None
    maps : sequence of Map
    classifier : str
        What the readings are of, in words.
    readings : sequence of Reading
    near : sequence of Reading
        The same of a k-NN classifier, each variant trained and tested on itself: whether neighbours share labels.
    n_labelled : int
        Texts that the readings are of; 0 where that is not known.
    majority : float or None
        Score of always answering the most frequent class.
    flips : tuple of (int, float, float) or None
        Passes, mean share of passes in which the class differs from inference, and share of the texts whose class
        differs in more than one pass out of ten. None without a trained head.
    absent : mapping of str to str
        What could not be computed, and why: similarity, clustering, visualisation, classification.
    basis : mapping of str to str
        What each purpose rests on: texts, passes, sampling.
    """

    n: int
    k: int
    reference: str
    identical: Mapping[str, str] = field(default_factory=dict)
    overlaps: Sequence[Beside] = ()
    clusters: Clusters | None = None
    maps: Sequence[Map] = ()
    classifier: str = ""
    readings: Sequence[Reading] = ()
    near: Sequence[Reading] = ()
    n_labelled: int = 0
    majority: float | None = None
    flips: tuple[int, float, float] | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    basis: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer for one purpose.

    Attributes
    ----------
    purpose : str
    title : str
        The purpose as a question would name it.
    take : str or None
        The variant to take; None where the data do not answer.
    effect : Effect
    sentences : tuple of str
        The advice first, then why.
    basis : str
    """

    purpose: str
    title: str
    take: str | None
    effect: Effect
    sentences: tuple[str, ...]
    basis: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer as a whole: one sentence, and a finding for each purpose."""

    headline: str
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        names = ("purpose", "title", "take", "effect", "sentences", "basis")
        return {
            "headline": self.headline,
            "findings": [{name: _plain(getattr(each, name)) for name in names} for each in self.findings],
        }


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, StrEnum) else value
