"""The verdict in plain words: which variant to take for what, computed from the numbers by the rules written here.

No rule sees a picture or a p-value. Each reads what was observed beside what the head's mask alone predicts, beside
what the method does when nothing differs, and beside chance, and says which of these it cannot be told from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Beside", "Clusters", "Effect", "Evidence", "Finding", "Map", "Reading", "Verdict", "verdict"]

FEW_TEXTS = 50  # below, every finding is called a hint
TOLERANCE = 0.02  # shares closer than two points are not told apart, however narrow their intervals
HOLDS = 0.6  # clusterwise Jaccard below which a clustering is not to be built on (Hennig 2007); ARI of starts as well
TRUSTED = 0.8  # trustworthiness below which single points of a map mean nothing; UMAP's own tests demand as much
_SIZES = ((0.02, "none"), (0.10, "small"), (0.30, "moderate"))


class Effect(StrEnum):
    """How much is lost at the worst variant: up to 2, 10, 30 points of what could be lost, or more."""

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


def verdict(evidence: Evidence) -> Verdict:
    """Which variant to take for what, how large the difference is, and what that rests on."""
    findings = tuple(rule(evidence) for rule in (_similarity, _clustering, _visualisation, _classification))
    return Verdict(_headline(evidence, findings), findings)


def _headline(evidence: Evidence, findings: Sequence[Finding]) -> str:
    purposes: dict[str, list[str]] = {}
    for finding in findings:
        if finding.take is not None:
            purposes.setdefault(finding.take, []).append(finding.purpose)
    if not purposes:
        return f"These texts do not say which variant to take.{_few(evidence)}"
    parts = []
    for take, named in sorted(purposes.items(), key=lambda item: item[0] == evidence.reference):
        same = [name for name, other in evidence.identical.items() if other == take]
        also = f" ({' and '.join(same)} is the same, bit for bit)" if same else ""
        wanted = "" if len(purposes) == 1 else f" for {' and '.join(named)}"
        parts.append(f"{take}{also}{wanted}")
    known = [finding.effect for finding in findings if finding.effect is not Effect.UNKNOWN]
    said = {
        Effect.NONE: " Dropout hardly matters here: it changes nothing by more than two points.",
        Effect.SMALL: " What dropout changes is small.",
        Effect.MODERATE: " What dropout changes is moderate.",
        Effect.LARGE: " What dropout changes is large.",
    }
    size = said[max(known, key=list(said).index)] if known and evidence.overlaps else ""
    return f"Take {'; '.join(parts)}.{size}{_few(evidence)}"


def _similarity(evidence: Evidence) -> Finding:
    purpose, title = "similarity", "Comparing texts, searching similar ones"
    if purpose in evidence.absent:
        return _unanswered(purpose, title, evidence)
    same = [f"{name} is the same vectors as {other}, bit for bit." for name, other in evidence.identical.items()]
    if evidence.n <= 2 * evidence.k:
        said = (
            f"{evidence.n} texts are too few: by chance alone any two variants share half of {evidence.k} neighbours "
            "or more."
        )
        return Finding(purpose, title, None, Effect.UNKNOWN, (said, *same), _basis(evidence, purpose))
    better = [each for each in evidence.near if each.low > TOLERANCE / 2 and _fixed(each.trained)]
    best = max(better, key=lambda each: each.difference, default=None)
    take = evidence.reference if best is None else best.trained
    said = f"Take {take}: it is the same at every run and needs no passes."
    if best is not None:
        said = (
            f"Take {take}: its neighbours tell the label of a text {_points(best.difference)} more often than those "
            f"of {evidence.reference}, and it is the same at every run."
        )
    lines = [_kept(each, evidence.k) for each in evidence.overlaps]
    if not lines:
        lines = ["No other variant differs from it."] if same else ["There is no other variant to compare it with."]
    basis = _basis(evidence, purpose)
    return Finding(purpose, title, take, _effect(evidence.overlaps), (said, *same, *lines), basis)


def _clustering(evidence: Evidence) -> Finding:
    purpose, title, clusters = "clustering", "Clustering", evidence.clusters
    if clusters is None:
        return _unanswered(purpose, title, evidence)
    restarts, held, again = clusters.restarts, "", ""
    if clusters.stability is not None:
        held = f"resamples find its clusters again to {clusters.stability:.2f} (Jaccard)"
    if restarts is not None:
        again = f"two starts of the method on the same vectors agree to {restarts[0]:.2f} (ARI)"
    why = " and ".join(filter(None, [held, again]))
    readings: dict[str, list[str]] = {}
    for each in clusters.agreements:
        alone = "" if each.expected is None else f"; mask alone {each.expected:.2f}"
        readings.setdefault(_apart(each, restarts), []).append(f"{each.variant} (ARI {each.observed:.2f}{alone})")
    lines = [f"{reading}: {', '.join(named)}." for reading, named in readings.items()]
    if clusters.labels:
        nearest = sorted(clusters.labels.items(), key=lambda item: -item[1])
        lines.append(f"ARI with the labels: {', '.join(f'{name} {ari:.2f}' for name, ari in nearest)}.")
    basis = _basis(evidence, purpose)
    weak = [each for each in (clusters.stability, restarts and restarts[0]) if each is not None and each < HOLDS]
    if weak:
        said = (
            f"Do not build on these clusters, in any variant: {why}, and below {HOLDS} either is to be distrusted. Try "
            "another method or number of clusters."
        )
        return Finding(purpose, title, None, Effect.UNKNOWN, (said, *lines), basis)
    said = f"Take {evidence.reference}" + (f": {why}." if why else ".")
    return Finding(purpose, title, evidence.reference, _effect(clusters.agreements), (said, *lines), basis)


def _visualisation(evidence: Evidence) -> Finding:
    purpose, title = "visualisation", "Drawing maps"
    if not evidence.maps:
        return _unanswered(purpose, title, evidence)
    lines, worst = [], 0.0
    for each in evidence.maps:
        moved = [f"{share:.0%} of the texts of {name}" for name, share in each.moved.items()]
        if moved:
            lines.append(
                f"{each.method} of {each.reference}: {', '.join(moved)} lie further off than 95 % of {each.against}; "
                "without a difference 5 % would."
            )
        if each.trustworthiness is not None and each.trustworthiness < TRUSTED:
            lines.append(
                f"The {each.method} of {each.reference} keeps neighbourhoods poorly (trustworthiness "
                f"{each.trustworthiness:.2f}): do not read single points off it."
            )
        worst = max([worst, *(max(share - 0.05, 0.0) for share in each.moved.values())])
    said = (
        f"Fit a map on {evidence.reference} and place other variants on it, as here: maps fitted apart differ by "
        "chance more than variants do."
    )
    basis = _basis(evidence, purpose)
    return Finding(purpose, title, evidence.reference, Effect.of(worst), (said, *lines), basis)


def _classification(evidence: Evidence) -> Finding:
    purpose, title = "classification", "Classifying"
    flips = _flips(evidence)
    if not evidence.readings:
        unanswered = _unanswered(purpose, title, evidence)
        return Finding(purpose, title, None, Effect.UNKNOWN, (*unanswered.sentences, *flips), unanswered.basis)
    basis = _basis(evidence, purpose)
    own = [each for each in evidence.readings if each.trained == each.tested]
    told = max(own, key=lambda each: each.score)
    if evidence.majority is not None and told.score <= evidence.majority + TOLERANCE:
        said = (
            f"The labels cannot be read off any variant: {evidence.classifier} reaches {told.score:.0%}, and always "
            f"answering the most frequent class {evidence.majority:.0%}."
        )
        return Finding(purpose, title, None, Effect.UNKNOWN, (said, *flips), basis)
    better = [each for each in own if each.low > TOLERANCE / 2 and _fixed(each.trained)]
    take = max(better, key=lambda each: each.difference).trained if better else evidence.reference
    score = next(each for each in own if each.trained == take)
    said = f"Take {take}: {evidence.classifier} reads the labels off it with {score.score:.0%}"
    said += f", {_points(score.difference)} more than off {evidence.reference}." if better else "."
    others = [each for each in own if each.trained not in (evidence.reference, take)]
    crossed = [each for each in evidence.readings if each.trained == evidence.reference != each.tested]
    lines = [
        *_read(others, "Trained and tested on the variant", evidence.reference),
        *_read(crossed, f"Trained on {evidence.reference}, tested on the variant", evidence.reference),
    ]
    # Other places in the model are another question than what dropout does.
    masked = [each for each in [*own, *crossed] if not each.low <= 0 <= each.high and _same_place(each, evidence)]
    worst = max((abs(each.difference) for each in masked), default=0.0)
    return Finding(purpose, title, take, Effect.of(worst), (said, *lines, *flips), basis)


def _flips(evidence: Evidence) -> list[str]:
    if evidence.flips is None:
        return []
    passes, share, shaky = evidence.flips
    return [
        f"With the model's own head {share:.1%} of {passes:,} head passes change the class of a text, and {shaky:.1%} "
        "of the texts change it in more than one pass out of ten."
    ]


def _unanswered(purpose: str, title: str, evidence: Evidence) -> Finding:
    said = f"Not answered: {evidence.absent.get(purpose, 'it was not asked for')}"
    return Finding(purpose, title, None, Effect.UNKNOWN, (said if said.endswith(".") else f"{said}.",), "")


def _effect(others: Sequence[Beside]) -> Effect:
    """Of the variants that dropout made; vectors of other places in the model are another question."""
    kept = [each.observed for each in others if each.expected is not None or each.encoder]
    return Effect.of(1 - min(kept, default=1.0))


def _kept(each: Beside, k: int) -> str:
    """How many neighbours a variant keeps, and what that cannot be told from."""
    share = f"{each.observed:.0%}" + (f" ({each.low:.0%} to {each.high:.0%})" if each.low < each.high else "")
    start = f"{each.variant} keeps {share} of the {k} nearest neighbours"
    if each.observed <= each.chance:
        return f"{start}: no more than chance, which gives up to {each.chance:.0%}."
    if each.expected is None:
        return f"{start}: it is another place in the model, and no mask explains the difference."
    if each.encoder and each.expected == 1.0:
        if each.observed < 1 - TOLERANCE:
            return f"{start}. No head mask lies between them: all of it is the encoder's dropout."
        return f"{start}: the encoder's dropout hardly shows."
    start += f", where the mask alone predicts {each.expected:.0%}"
    more, tolerance = each.expected - each.observed, max(TOLERANCE, (each.high - each.low) / 2)
    if abs(more) <= tolerance:
        if each.encoder:
            return f"{start}: the encoder's dropout adds nothing that shows beside the mask."
        return f"{start}: that is the mask, and nothing else."
    if more < 0:
        return f"{start}: {_points(-more)} more than the mask alone would leave."
    if each.encoder:
        return f"{start}: the encoder's dropout takes another {_points(more)}."
    return f"{start}: {_points(more)} less than the mask explains; look at these vectors."


def _apart(each: Beside, restarts: tuple[float, float] | None) -> str:
    """What an agreement of two clusterings cannot be told from."""
    if each.observed >= 1 - TOLERANCE:
        return "The same clusters"
    if each.observed <= each.chance:
        return "No more alike than chance"
    if restarts is not None and each.observed >= restarts[1]:
        return "No further apart than two starts of the method may be"
    if each.expected_low is not None and each.observed >= each.expected_low - TOLERANCE:
        return "No further apart than the mask alone puts them"
    return "Further apart than starts of the method or the mask put them"


def _read(readings: Sequence[Reading], what: str, reference: str) -> list[str]:
    """A sentence for those that differ measurably, and one for the others."""
    same = [each for each in readings if each.low <= 0 <= each.high]
    lines = [
        f"{what} {each.tested}: {each.score:.0%}, {'better' if each.difference > 0 else 'worse'} by "
        f"{_points(abs(each.difference))} ({each.low * 100:+.0f} to {each.high * 100:+.0f})."
        for each in readings
        if each not in same
    ]
    if same:
        named = ", ".join(f"{each.tested} ({each.difference * 100:+.0f})" for each in same)
        lines.append(f"{what}, no measurable difference to {reference}, in points: {named}.")
    return lines


def _same_place(each: Reading, evidence: Evidence) -> bool:
    place = {"pre_dropout", "post_dropout"}
    taps = {name.partition(".")[0] for name in (each.trained, each.tested, evidence.reference)}
    return taps <= place or len(taps) == 1


def _points(share: float) -> str:
    points = f"{share * 100:.0f}"
    return f"{points} point" + ("" if points == "1" else "s")


def _fixed(variant: str) -> bool:
    return variant.endswith(".inference")


def _few(evidence: Evidence) -> str:
    return f" {evidence.n} texts are few: take this as a hint." if evidence.n < FEW_TEXTS else ""


def _basis(evidence: Evidence, purpose: str) -> str:
    return evidence.basis.get(purpose, f"{evidence.n:,} texts.")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, StrEnum) else value
