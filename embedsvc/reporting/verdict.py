"""The verdict in plain words: which variant to take for what, computed from the numbers by the rules written here.

No rule sees a picture or a p-value. Each reads what was observed beside what the head's mask alone predicts, beside
what the method does when nothing differs, and beside chance, and says which of these it cannot be told from. What the
texts are too few to show is called unsettled, never none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from embedsvc.reporting.findings import Beside, Clusters, Effect, Evidence, Finding, Reading, Verdict
from embedsvc.variants import OTHER, REFERENCE

__all__ = ["verdict"]

FEWEST_TEXTS = 10  # below, neighbours say nothing
FEW_TEXTS = 50  # below, every finding is called a hint
TOLERANCE = 0.02  # shares closer than two points are not told apart, however narrow their intervals
HOLDS = 0.6  # clusterwise Jaccard below which a clustering is not to be built on (Hennig 2007); ARI of starts as well
TRUSTED = 0.8  # trustworthiness below which single points of a map mean nothing; UMAP's own tests demand as much
_PLAIN = "before the dropout, with every dropout off"  # what the reference is, to who has not met its name


def verdict(evidence: Evidence) -> Verdict:
    """Which variant to take for what, how large the difference is, and what that rests on."""
    findings = tuple(rule(evidence) for rule in (_similarity, _clustering, _visualisation, _classification))
    return Verdict(_headline(evidence, findings), findings)


def _headline(evidence: Evidence, findings: Sequence[Finding]) -> str:
    taken: dict[str, list[str]] = {}
    for finding in findings:
        if finding.take is not None:
            taken.setdefault(finding.take, []).append(finding.purpose)
    if not taken:
        return f"These texts do not say which variant to take.{_few(evidence)}"
    doubtful = [each.purpose for each in findings if each.take is None and each.purpose not in evidence.absent]
    parts = []
    for take, purposes in sorted(taken.items(), key=lambda item: item[0] == evidence.reference):
        same = [name for name, other in evidence.identical.items() if other == take]
        also = f"{_and(same)} {'is' if len(same) == 1 else 'are'} the same, bit for bit" if same else ""
        words = "; ".join(filter(None, [_PLAIN if take == REFERENCE else "", also]))
        told = f"{take} ({words})" if words else take
        parts.append(told + (f" for {_and(purposes)}" if len(taken) > 1 or doubtful else ""))
    nothing = f" Nothing is recommended for {_and(doubtful)}." if doubtful else ""
    return f"Take {'; '.join(parts)}.{nothing}{_size(evidence, findings)}{_other_model(evidence)}{_few(evidence)}"


def _other_model(evidence: Evidence) -> str:
    """How far a second set is from the first, for which dropout is not to blame."""
    other = next((each for each in evidence.overlaps if each.variant == f"{OTHER}{evidence.reference}"), None)
    if other is None:
        return ""
    return f" The other model keeps {other.observed:.0%} of the {evidence.k} nearest neighbours ({other.variant})."


def _size(evidence: Evidence, findings: Sequence[Finding]) -> str:
    """How large dropout's effect is, and where."""
    order = list(Effect)
    known = [each for each in findings if each.effect is not Effect.UNKNOWN]
    made = [each for each in evidence.overlaps if _by_dropout(each)]
    if not evidence.overlaps and evidence.identical and "similarity" not in evidence.absent:
        return " Every variant holds the very same vectors: dropout changes nothing here."
    if not known or not made:
        return ""
    largest = max((each.effect for each in known), key=order.index)
    if largest is Effect.NONE:
        return f" Dropout hardly matters here: it changes nothing by more than two points in {_and_of(known)}."
    where = [each for each in known if each.effect is largest]
    said = f" What live dropout changes is {largest} for {_and_of(where)}"
    if not any(each.purpose == "similarity" for each in where):
        return f"{said}."
    worst = min(made, key=lambda each: each.observed)
    said += f": {worst.variant} loses {1 - worst.observed:.0%} of the {evidence.k} nearest neighbours"
    if worst.expected is None or worst.expected == 1.0:
        return f"{said}."
    said += f", where the head's mask alone would lose {1 - worst.expected:.0%}"
    if not worst.encoder or _beyond(worst) <= 0:
        return f"{said}."
    return f"{said}; the encoder's dropout takes the other {_points(worst.expected - worst.observed)}."


def _similarity(evidence: Evidence) -> Finding:
    purpose, title = "similarity", "Comparing texts, searching similar ones"
    if purpose in evidence.absent:
        return _unanswered(purpose, title, evidence)
    same = [f"{name} is the same vectors as {other}, bit for bit." for name, other in evidence.identical.items()]
    if evidence.n < FEWEST_TEXTS or evidence.n <= 2 * evidence.k:
        chance = evidence.k / max(evidence.n - 1, 1)
        said = (
            f"{evidence.n} texts are too few: by chance alone any two variants share {chance:.0%} of the {evidence.k} "
            "nearest neighbours."
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
    lines = [_kept(each, evidence.k, evidence.reference) for each in evidence.overlaps]
    if not lines:
        lines = ["No other variant differs from it."] if same else ["There is no other variant to compare it with."]
    made = [each.observed for each in evidence.overlaps if _by_dropout(each)]
    effect = Effect.of(1 - min(made, default=1.0))
    return Finding(purpose, title, take, effect, (said, *same, *lines), _basis(evidence, purpose))


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
        alone = "" if each.expected is None else f"; mask alone {each.expected:z.2f}"
        readings.setdefault(_apart(each, restarts), []).append(f"{each.variant} (ARI {each.observed:z.2f}{alone})")
    lines = [f"{reading}: {', '.join(named)}." for reading, named in readings.items()]
    if clusters.labels:
        nearest = sorted(clusters.labels.items(), key=lambda item: -item[1])
        lines.append(f"ARI with the labels: {', '.join(f'{name} {ari:z.2f}' for name, ari in nearest)}.")
    basis = _basis(evidence, purpose)
    weak = [each for each in (clusters.stability, restarts and restarts[0]) if each is not None and each < HOLDS]
    if weak:
        said = (
            f"Do not build on these clusters, in any variant: {why}, and below {HOLDS} either is to be distrusted. Try "
            "another method or number of clusters."
        )
        return Finding(purpose, title, None, Effect.UNKNOWN, (said, *lines), basis)
    said = f"Take {evidence.reference}" + (f": {why}." if why else ".")
    return Finding(purpose, title, evidence.reference, _moved_clusters(clusters), (said, *lines), basis)


def _visualisation(evidence: Evidence) -> Finding:
    purpose, title = "visualisation", "Drawing maps"
    if not evidence.maps:
        return _unanswered(purpose, title, evidence)
    # So far from 5 % the share of this many texts may lie by chance.
    lines, worst, chance = [], 0.0, 1.96 * math.sqrt(0.05 * 0.95 / evidence.n)
    for each in evidence.maps:
        moved = [f"{share:.0%} of the texts of {name}" for name, share in each.moved.items()]
        if moved:
            lines.append(
                f"{each.method} of {each.reference}: {_and(moved)} lie further off than 95% of {each.against}; "
                f"without a difference {max(0.05 - chance, 0):.0%} to {0.05 + chance:.0%} would."
            )
        if each.trustworthiness is not None and each.trustworthiness < TRUSTED:
            lines.append(
                f"The {each.method} of {each.reference} keeps neighbourhoods poorly (trustworthiness "
                f"{each.trustworthiness:.2f}): do not read single points off it."
            )
        made = [share for name, share in each.moved.items() if not _foreign(name)]
        worst = max([worst, *(share - 0.05 for share in made if share - 0.05 > chance)])
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
    best = max(own, key=lambda each: each.score)
    if evidence.majority is not None and best.score <= evidence.majority + TOLERANCE:
        said = (
            f"The labels cannot be read off any variant: {evidence.classifier} reaches {best.score:.0%}, and always "
            f"answering the most frequent class {evidence.majority:.0%}."
        )
        return Finding(purpose, title, None, Effect.UNKNOWN, (said, *flips), basis)
    better = [each for each in own if each.low > TOLERANCE / 2 and _fixed(each.trained)]
    take = max(better, key=lambda each: each.difference).trained if better else evidence.reference
    score = next(each for each in own if each.trained == take)
    said = f"Take {take}: {evidence.classifier} reads the labels off it with {score.score:.0%}"
    said += f", {_points(score.difference)} more than off {evidence.reference}" if better else ""
    guess = "" if evidence.majority is None else f" (always the most frequent class: {evidence.majority:.0%})"
    said += f"{guess}."
    others = [each for each in own if each.trained not in (evidence.reference, take)]
    crossed = [each for each in evidence.readings if each.trained == evidence.reference != each.tested]
    lines = [
        *_read(others, "Trained and tested on the variant", evidence.reference),
        *_read(crossed, f"Trained on {evidence.reference}, tested on the variant", evidence.reference),
    ]
    # Other places in the model, and other models, are another question than what dropout does.
    masked = [each for each in [*own, *crossed] if _same_place(each, evidence)]
    told = [abs(each.difference) for each in masked if each.low > 0 or each.high < 0]
    # Where no answer at all differs the interval is a point, but what none of n texts showed may still befall 3 of n
    # (the rule of three, Hanley & Lippman-Hand 1983).
    unseen = 3 / evidence.n_labelled if evidence.n_labelled else 0.0
    hidden = max(
        (max(-each.low, each.high, unseen) for each in masked if each.tested != evidence.reference), default=0.0
    )
    effect = Effect.of(max(told, default=0.0))
    # In whole points, as they are told: what rounds to the tolerance is not told apart from it.
    if effect is Effect.NONE and round(100 * hidden) > 100 * TOLERANCE:
        effect = Effect.UNKNOWN
        lines.append(f"So few labels could hide a difference of up to {_points(hidden)}.")
    return Finding(purpose, title, take, effect, (said, *lines, *flips), basis)


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


def _moved_clusters(clusters: Clusters) -> Effect:
    """Of what two starts of the method do not do by themselves."""
    made = [each.observed for each in clusters.agreements if _by_dropout(each)]
    lowest = 1.0 if clusters.restarts is None else clusters.restarts[1]
    told = [ari for ari in made if ari < lowest or ari >= 1 - TOLERANCE]
    if made and not told:
        return Effect.UNKNOWN
    return Effect.of(1 - min(told, default=1.0))


def _kept(each: Beside, k: int, reference: str) -> str:
    """How many neighbours a variant keeps, and what that cannot be told from."""
    share = f"{each.observed:.0%}" + (f" ({each.low:.0%} to {each.high:.0%})" if each.low < each.high else "")
    start = f"{each.variant} keeps {share} of the {k} nearest neighbours"
    if each.observed <= each.chance:
        return f"{start}: no more than chance, which gives up to {each.chance:.0%}."
    if _foreign(each.variant) != _foreign(reference):
        return f"{start}: it is another model, and no mask explains the difference."
    if each.expected is None:
        return f"{start}: it is another place in the model, and no mask explains the difference."
    if each.encoder and each.expected == 1.0:
        if each.observed < 1 - TOLERANCE:
            return f"{start}. No head mask lies between them: all of it is the encoder's dropout."
        return f"{start}: the encoder's dropout hardly shows."
    start += f", where the mask alone predicts {each.expected:.0%}"
    more, beyond = each.expected - each.observed, _beyond(each)
    if beyond == 0:
        if each.encoder:
            return f"{start}: the encoder's dropout adds nothing that shows beside the mask."
        return f"{start}: the mask explains it, and nothing else shows."
    if more < 0:
        return f"{start}: {_points(-more)} more than the mask alone would leave."
    if each.encoder:
        return f"{start}: the encoder's dropout takes another {_points(more)}."
    return f"{start}: {_points(more)} less than the mask explains; look at these vectors."


def _beyond(each: Beside) -> float:
    """What a variant loses beyond the mask, 0 where it cannot be told from what the mask does."""
    assert each.expected is not None
    more = each.expected - each.observed
    # Masks of one pass err together, which the interval over texts does not see: hence the tolerance on top of it.
    return more if abs(more) > TOLERANCE + (each.high - each.low) / 2 else 0.0


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


def _by_dropout(each: Beside) -> bool:
    """Whether dropout alone lies between a variant and the reference; other places in the model ask something else."""
    return each.expected is not None or each.encoder


def _foreign(variant: str) -> bool:
    """Whether it is of the second of two sets."""
    return variant.startswith(OTHER)


def _same_place(each: Reading, evidence: Evidence) -> bool:
    place = {"pre_dropout", "post_dropout"}
    taps = {name.partition(".")[0] for name in (each.trained, each.tested, evidence.reference)}
    return taps <= place or len(taps) == 1


def _points(share: float) -> str:
    points = f"{share * 100:.0f}"
    return f"{points} point" + ("" if points == "1" else "s")


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _and_of(findings: Sequence[Finding]) -> str:
    return _and([each.purpose for each in findings])


def _fixed(variant: str) -> bool:
    return variant.endswith(".inference")


def _few(evidence: Evidence) -> str:
    return f" {evidence.n} texts are few: take this as a hint." if evidence.n < FEW_TEXTS else ""


def _basis(evidence: Evidence, purpose: str) -> str:
    return evidence.basis.get(purpose, f"{evidence.n:,} texts.")
