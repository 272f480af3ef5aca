"""What the figures of a report show, as plain numbers: each is drawn twice, for the page and as an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedsvc.agreement import NOISE
from embedsvc.clusters import VariantClusters
from embedsvc.figures import Figure
from embedsvc.reporting.explorer import Explorer
from embedsvc.reporting.report import Report
from embedsvc.reporting.scores import Score, scores
from embedsvc.variants import space

__all__ = [
    "Flow",
    "Group",
    "Matrix",
    "Ribbon",
    "cluster_name",
    "explored",
    "flow_ends",
    "flows",
    "group_names",
    "groups",
    "matrices",
    "moved",
    "neighbors_of",
    "ranking",
    "ribbons",
    "shortened",
]

Floats = NDArray[np.float64]

_FEWEST = 5  # texts in a group that is ranked
_MOST_GROUPS = 20
_MOST_FLOWING = 6  # variants; the flows between them are twice as many as their pairs
_LONG = 20_000  # texts above which the page cuts them
_CUT = 300
_NAMED = 5  # lost or gained neighbours named in the table
_QUOTED, _QUOTE = 2_000, 60  # texts up to which those are quoted, so many characters of each


@dataclass(frozen=True, slots=True)
class Matrix:
    """One measure between every two variants; a figure is None on the diagonal and between identical ones."""

    measure: str
    variants: tuple[str, ...]
    own: float
    figures: Mapping[tuple[str, str], Figure]

    def cells(self) -> Iterator[tuple[str, str, float, Figure | None]]:
        """Row, column, value and figure of every cell that has a value."""
        for a in self.variants:
            for b in self.variants:
                figure = self.figures.get((a, b))
                if figure is not None:
                    yield a, b, figure.observed, figure
                elif a == b:
                    yield a, b, self.own, None


@dataclass(frozen=True, slots=True)
class Flow:
    """How many texts of each cluster of one variant are in each cluster of another."""

    reference: str
    variant: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    counts: NDArray[np.int64]
    ari: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """Mean excess change of the texts of a label or cluster, with its 95% interval."""

    kind: str
    name: str
    n: int
    mean: float
    low: float
    high: float


def cluster_name(number: int, words: str = "") -> str:
    """``3: pan, oven``; noise is called so."""
    return "noise" if number == NOISE else f"{number}: {words}" if words else str(number)


def group_names(report: Report) -> dict[str, list[str]]:
    """What texts can be told apart by: labels, and clusters of the reference and the variant beside it."""
    found: dict[str, list[str]] = {}
    if any(label is not None for label in report.labels):
        found["label"] = [label or "" for label in report.labels]
    if report.clustering is not None:
        names = [report.reference, *([report.focus] if report.focus else [])]
        for variant in names:
            made = report.clustering[variant]
            words = report.topics if variant == report.reference else {}
            called = {int(number): cluster_name(int(number), words.get(int(number), "")) for number in set(made.labels)}
            found[f"cluster in {variant}"] = [called[int(number)] for number in made.labels]
    return found


def explored(report: Report) -> Explorer | None:
    """What the linked maps show, the most changed texts first; None where there is no map."""
    maps = {name: each.coordinates[name] for each in report.projections.values() for name in each.coordinates}
    maps = {name: maps[name] for name in report.variants if name in maps}
    if not maps:
        return None
    every = scores(report)
    order = ranking(every[0].values) if every else np.arange(report.n)
    names = list(maps)
    first = report.reference if report.reference in maps else names[0]
    second = report.focus if report.focus in maps else names[-1]
    notes = {}
    if report.focus is not None and report.focus in report.graphs:
        lost, gained = neighbors_of(report, report.focus)
        few = report.n <= _QUOTED
        # Above a size only sampled texts have neighbours at all, and their ids are all that the page has room for.
        notes = {
            title: [
                (" · " if few else ", ").join(
                    shortened(report.texts[at], _QUOTE) if few else report.ids[at]
                    for at in found.get(int(row), [])[:_NAMED]
                )
                for row in order
            ]
            for title, found in (("lost neighbours", lost), ("gained neighbours", gained))
        }
    cut = report.n > _LONG
    return Explorer(
        ids=[report.ids[row] for row in order],
        texts=[shortened(report.texts[row]) if cut else report.texts[row] for row in order],
        maps={name: places[order] for name, places in maps.items()},
        spaces={name: space(name) for name in maps},
        first=first,
        second=second or first,
        groups={name: [values[row] for row in order] for name, values in group_names(report).items()},
        scores=[Score(each.name, each.values[order], each.about, each.null, each.null_name) for each in every],
        notes=notes,
    )


def shortened(text: str, most: int = _CUT) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def ranking(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Rows from the highest value to the lowest; those without one come last, ties stay in order."""
    return np.asarray(np.argsort(-np.nan_to_num(np.asarray(values, dtype=np.float64), nan=-np.inf), kind="stable"))


def neighbors_of(report: Report, variant: str) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Neighbours that a variant loses from the reference, and those it gains, nearest first, by searched row."""
    a, b = (report.graphs[name].first(report.k) for name in (report.reference, variant))
    lost, gained = {}, {}
    for row, before, after in zip(a.queries.tolist(), a.indices.tolist(), b.indices.tolist(), strict=True):
        old, new = set(before), set(after)
        lost[row] = [each for each in before if each not in new]
        gained[row] = [each for each in after if each not in old]
    return lost, gained


def moved(report: Report) -> tuple[Floats, str] | None:
    """What groups are ranked by, and its name: excess change in the focus, or change where no mask lies between."""
    if report.focus is None:
        return None
    for values, name in ((report.excess(report.focus), "excess change"), (report.change(report.focus), "change")):
        if values is not None:
            return values, name
    return None


def groups(report: Report) -> list[Group]:
    """Labels and clusters of the reference, those that change most first; see `moved`."""
    ranked = moved(report)
    if ranked is None:
        return []
    excess = ranked[0]
    known = np.isfinite(excess)
    found = []
    for kind, values in group_names(report).items():
        if kind == f"cluster in {report.focus}":
            continue
        named = np.asarray(values, dtype=object)
        for name in sorted({value for value in values if value}):
            inside = excess[known & (named == name)]
            if len(inside) >= _FEWEST:
                mean, error = float(inside.mean()), float(inside.std(ddof=1) / np.sqrt(len(inside)))
                found.append(Group(kind, name, len(inside), mean, mean - 1.96 * error, mean + 1.96 * error))
    return sorted(found, key=lambda group: -group.mean)[:_MOST_GROUPS]


def flows(report: Report) -> list[Flow]:
    """Where the texts of each cluster of a variant are in each other variant; reference to focus comes first."""
    if report.clustering is None:
        return []
    distinct = [made for made in report.clustering.variants if made.same_as is None][:_MOST_FLOWING]
    found = [_flow(report, a, b) for a in distinct for b in distinct if a is not b]
    return sorted(found, key=lambda flow: (flow.reference != report.reference, flow.variant != report.focus))


def _flow(report: Report, a: VariantClusters, b: VariantClusters) -> Flow:
    left, right = np.unique(a.labels), np.unique(b.labels)
    counts = np.zeros((len(left), len(right)), dtype=np.int64)
    np.add.at(counts, (np.searchsorted(left, a.labels), np.searchsorted(right, b.labels)), 1)
    assert report.clustering is not None
    agreements = report.clustering.agreements
    agreement = agreements.get((a.variant, b.variant)) or agreements.get((b.variant, a.variant))
    names = [
        tuple(cluster_name(int(number), words.get(int(number), "")) for number in numbers)
        for numbers, words in ((left, _words(report, a)), (right, _words(report, b)))
    ]
    return Flow(a.variant, b.variant, names[0], names[1], counts, None if agreement is None else agreement.ari)


def _words(report: Report, made: VariantClusters) -> Mapping[int, str]:
    """The topics are those of the reference's clusters."""
    return report.topics if made.variant == report.reference else {}


def flow_ends(flow: Flow) -> tuple[Floats, Floats]:
    """Lower and upper end of every block, left and right, on a height of 1 a side."""
    found = []
    for counts in (flow.counts.sum(axis=1), flow.counts.sum(axis=0)):
        gap = 0.02 if len(counts) < 12 else 0.008
        heights = counts / counts.sum() * (1 - gap * (len(counts) - 1))
        tops = 1 - np.concatenate([[0.0], np.cumsum(heights[:-1] + gap)])
        found.append(np.stack([tops - heights, tops], axis=1))
    return found[0], found[1]


@dataclass(frozen=True, slots=True, eq=False)
class Ribbon:
    """The outline of a stream of `count` texts from one block to another, by their numbers."""

    left: int
    right: int
    count: int
    x: Floats
    y: Floats


def ribbons(flow: Flow) -> list[Ribbon]:
    """A ribbon for each pair of clusters that share texts; those of a block lie in the order of the other side."""
    left, right = flow_ends(flow)
    heights = [ends[:, 1] - ends[:, 0] for ends in (left, right)]
    sizes = flow.counts.sum(axis=1), flow.counts.sum(axis=0)
    at_left, at_right = left[:, 1].copy(), right[:, 1].copy()
    t = np.linspace(0, 1, 16)
    ease = t * t * (3 - 2 * t)
    found = []
    for i, j in zip(*np.nonzero(flow.counts), strict=True):
        count = int(flow.counts[i, j])
        high, low = heights[0][i] * count / sizes[0][i], heights[1][j] * count / sizes[1][j]
        upper = at_left[i] + (at_right[j] - at_left[i]) * ease
        lower = at_left[i] - high + (at_right[j] - low - at_left[i] + high) * ease
        at_left[i] -= high
        at_right[j] -= low
        outline = np.concatenate([upper, lower[::-1]])
        found.append(Ribbon(int(i), int(j), count, np.concatenate([t, t[::-1]]), outline))
    return found


def matrices(report: Report) -> list[Matrix]:
    """Every measure between every two variants that differ."""
    compared = report.comparison
    if compared is None or not compared.pairs:
        return []
    names = tuple(name for name in compared.variants if name not in compared.identical)
    measures = list(dict.fromkeys(name for pair in compared.pairs for name in pair.figures))
    first = f"knn_overlap_{report.k}"
    found = []
    for measure in sorted(measures, key=lambda name: name != first):
        figures = {}
        for pair in compared.pairs:
            if measure in pair.figures:
                figures[pair.a, pair.b] = figures[pair.b, pair.a] = pair.figures[measure]
        found.append(Matrix(measure, names, float(compared.matrix(measure)[0, 0]), figures))
    return found


def mapped(report: Report) -> Sequence[str]:
    """Variants on the map of the reference."""
    return [name for name in report.variants if space(name) == space(report.reference)]
