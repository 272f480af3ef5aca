"""The report's numbers as tables of text, the same on the page and in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedsvc.agreement import Spread
from embedsvc.figures import Figure
from embedsvc.reporting.panels import groups, matrices, moved, neighbors_of, ranking, shortened
from embedsvc.reporting.report import Report
from embedsvc.reporting.scores import scores

__all__ = ["Table", "tables"]

_MOST = 12
_NEIGHBORS = 2
_SNIPPET = 60
_NUMBER = re.compile(r"[-+]?[\d.,]+(e-?\d+)?%?( (to|\() ?[-+]?[\d.,]+%?( to [-+]?[\d.,]+%?)?\)?)?|–|")
_WORDS = {
    "variance": "variance over passes, all units",
    "cosine_to_pre": "cosine of post and pre, same pass",
    "cosine_between": "cosine of two passes",
    "predictive_entropy": "predictive entropy (nats)",
    "expected_entropy": "expected entropy (nats)",
    "bald": "BALD (nats)",
    "variation_ratio": "variation ratio",
    "class_flip": "class is not that of inference",
    "neighbor_flip": "nearest neighbours lost",
    "cluster_flip": "cluster is not that of inference",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table: a name for machines, a title, what it is of, and cells of text; `wide` columns hold sentences."""

    name: str
    title: str
    about: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    wide: tuple[int, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """Columns that hold nothing but numbers, and so are aligned at their right."""
        return tuple(at for at, cells in enumerate(zip(*self.rows, strict=True)) if all(map(_NUMBER.fullmatch, cells)))


def tables(report: Report) -> dict[str, Table]:
    """Every table there is something for, by name."""
    every = (_changed, _groups, _clusters, _clusterings, _maps, _pairs, _curve, _passes, _probe)
    return {table.name: table for table in (make(report) for make in every) if table is not None and table.rows}


def _changed(report: Report) -> Table | None:
    ranked = scores(report)
    if report.focus is None or report.focus not in report.graphs or not ranked:
        return None
    lost, gained = neighbors_of(report, report.focus)
    excess, change = ranked[0], report.change(report.focus)
    rows = []
    for row in ranking(excess.values)[:_MOST]:
        if np.isnan(excess.values[row]):
            break
        rows.append(
            (
                report.ids[row],
                shortened(report.texts[row]),
                report.labels[row] or "",
                f"{excess.values[row]:+.2f}",
                "" if change is None else f"{change[row]:.0%}",
                _snippets(report, lost.get(int(row), [])),
                _snippets(report, gained.get(int(row), [])),
            )
        )
    return Table(
        "changed",
        "Most changed texts",
        f"{excess.about} The {len(rows)} texts where it is highest, each with up to {_NEIGHBORS} of its "
        "lost and gained neighbours.",
        ("id", "text", "label", excess.name.removesuffix(f" {report.focus}"), "changed", "lost", "gained"),
        tuple(rows),
        (1, 5, 6),
    )


def _snippets(report: Report, rows: Sequence[int]) -> str:
    more = f" (+{len(rows) - _NEIGHBORS})" if len(rows) > _NEIGHBORS else ""
    return " · ".join(shortened(report.texts[at], _SNIPPET) for at in rows[:_NEIGHBORS]) + more


def _groups(report: Report) -> Table | None:
    rows = tuple(
        (each.kind, each.name, f"{each.n:,}", f"{each.mean:+.3f}", f"{each.low:+.3f} to {each.high:+.3f}")
        for each in groups(report)
    )
    ranked = moved(report)
    if ranked is None:
        return None
    what = ranked[1]
    zero = "; 0 is what the mask alone does" if what == "excess change" else ""
    about = (
        f"Mean over the texts of a group of the {what} of neighbours in {report.focus}{zero}. Labels, and clusters of "
        f"{report.reference}, of 5 texts or more of {_searched(report)}. Intervals: 95%, normal."
    )
    return Table("groups", f"Groups by {what}", about, ("kind", "group", "texts", f"mean {what}", "95%"), rows)


def _searched(report: Report) -> str:
    found = 0 if report.comparison is None else len(report.comparison.queries)
    return f"all {report.n:,}" if found == report.n else f"{found:,} sampled of {report.n:,}"


def _clusters(report: Report) -> Table | None:
    made = report.clustering
    if made is None:
        return None
    where = {id_: row for row, id_ in enumerate(report.ids)}
    stems = [each.stem for each in made.passes]
    rows = tuple(
        (
            str(each.number),
            report.topics.get(each.number, ""),
            f"{each.size:,}",
            _number(each.stability),
            each.verdict,
            *(_number(passes.stability.get(each.number)) for passes in made.passes),
            shortened(report.texts[where[each.representatives[0]]], _SNIPPET * 2),
        )
        for each in made.reference.clusters
    )
    header = (
        "cluster",
        "words",
        "texts",
        "found again",
        "verdict",
        *(f"in {stem}" for stem in stems),
        "nearest to the centre",
    )
    return Table(
        "clusters",
        f"Clusters of {made.reference.variant}",
        f"{made.sentence}. Found again: mean Jaccard with the most similar cluster over {made.n_resamples} resamples, "
        f"and over passes; n = {made.n:,}, {made.sampling}, seed {made.seed}.",
        header,
        rows,
        (len(header) - 1,),
    )


def _clusterings(report: Report) -> Table | None:
    made = report.clustering
    if made is None:
        return None
    base, rows = made.reference, []
    for each in made.variants:
        agreement = made.agreements.get((base.variant, each.variant))
        truth = each.against_labels
        rows.append(
            (
                each.variant + (f" (= {each.same_as})" if each.same_as else ""),
                str(len(each.clusters)),
                f"{each.n_noise:,}",
                _number(each.silhouette),
                "" if agreement is None else _number(agreement.ari),
                "" if agreement is None else _number(agreement.ami),
                "" if agreement is None else _number(agreement.ari_clustered),
                "" if agreement is None else f"{agreement.coverage:.0%}",
                "" if agreement is None else _spread(made.expected(base.variant, each.variant)),
                "" if truth is None else _number(truth.ari),
            )
        )
    starts = _spread(made.restarts) if made.restarts.n else "1 (nothing is drawn)"
    return Table(
        "clusterings",
        "Clusterings of the variants",
        f"Agreement with {base.variant}; noise texts as singletons, and (ARI |) over texts in a cluster of both. "
        f"Without a difference ARI is {starts} over starts of the method, {_spread(made.chance)} by chance. "
        f"n = {made.n:,}.",
        (
            "variant",
            "clusters",
            "noise",
            "silhouette",
            "ARI",
            "AMI",
            "ARI |",
            "coverage",
            "ARI, mask alone",
            "ARI with labels",
        ),
        tuple(rows),
    )


def _maps(report: Report) -> Table | None:
    rows = []
    for each in report.projections.values():
        for found in each.to_json()["variants"]:
            rows.append(
                (
                    found["variant"],
                    f"{each.name} of {each.reference}",
                    _number(found["trustworthiness"]),
                    _number(found["continuity"]),
                    f"{found['median_displacement'] / each.extent:.2%}" if each.extent else "",
                    "" if found["moved"] is None else f"{found['moved']:.0%}",
                )
            )
    about = " ".join(
        dict.fromkeys(f"{each.method} {each.sampling} Seed {each.seed}." for each in report.projections.values())
    )
    return Table(
        "maps",
        "How the maps are made, and how good they are",
        f"{about} Moved: share of texts beyond the 95th percentile of what moves without a reason; 5% would.",
        ("variant", "map", "trustworthiness", "continuity", "median displacement, of the map's size", "moved"),
        tuple(rows),
    )


def _pairs(report: Report) -> Table | None:
    made = report.comparison
    if made is None:
        return None
    rows = [
        (pair.a, pair.b, measure, *_cells(figure))
        for matrix in matrices(report)
        for pair in made.pairs
        for measure, figure in pair.figures.items()
        if measure == matrix.measure
    ]
    same = "".join(f" {name} is {other}, bit for bit." for name, other in made.identical.items())
    without = dict.fromkeys(f"{measure} ({why})" for pair in made.pairs for measure, why in pair.omitted.items())
    left_out = f" Left out where it has no value: {'; '.join(without)}." if without else ""
    return Table(
        "pairs",
        "Variants, pair by pair",
        f"{made.method} {made.sampling}; {made.n_permutations} permutations, {made.n_bootstrap} bootstrap draws, "
        f"{made.n_simulations} drawn masks, seed {made.seed}.{same}{left_out}",
        ("variant", "variant", "measure", "observed", "95%", "mask alone", "by", "null, 95%"),
        tuple(rows),
    )


def _cells(figure: Figure) -> tuple[str, ...]:
    return (
        f"{figure.observed:.3f}",
        f"{figure.interval.low:.3f} to {figure.interval.high:.3f}",
        _number(figure.expected),
        figure.expected_by,
        f"{figure.null.low:.3f} to {figure.null.high:.3f}",
    )


def _curve(report: Report) -> Table | None:
    if report.stability is None:
        return None
    curve = report.stability.curve
    rows = tuple(
        (f"{passes:,}", f"{observed:.5f}", f"{low:.5f} to {high:.5f}", f"{expected:.5f}")
        for passes, observed, low, high, expected in zip(
            curve.passes, curve.observed, curve.low, curve.high, curve.expected, strict=True
        )
    )
    about = (
        f"Cosine of the mean of T head passes with pre_dropout: mean over {report.stability.n:,} texts beside "
        f"1/√(1 + p/(qT)), p = {report.stability.rate:g}."
    )
    return Table(
        "curve",
        "How many passes make up for one inference",
        about,
        ("T", "observed", "5 to 95% of texts", "closed form"),
        rows,
    )


def _passes(report: Report) -> Table | None:
    made = report.stability
    if made is None:
        return None
    columns, training = made.columns(), made.training
    rows = []
    for name, words in _WORDS.items():
        if f"head.{name}" in columns:
            cells = [_mean(columns.get(f"{stem}{name}")) for stem in ("head.", "head.expected_", "training.")]
            rows.append((words, *cells[: 3 if training else 2]))
    split = ""
    if made.split is not None:
        share = made.split.encoder_share
        split = (
            f" In training mode the encoder makes {share:.0%} of the variance of post_dropout, the head's mask "
            f"{1 - share:.0%}."
        )
    if made.restarts is not None:
        split += (
            f" Other starts of the clustering alone put {float(np.nanmean(made.restarts)):.1%} of the texts elsewhere."
        )
    header = ("mean over texts", f"{made.head.passes:,} head passes", "mask alone predicts")
    return Table(
        "passes",
        "Dropout variability",
        f"{made.method}{split} {made.sampling} Seed {made.seed}.",
        (*header, *([f"{training.passes} training passes"] if training else [])),
        tuple(rows),
    )


def _probe(report: Report) -> Table | None:
    made = report.probe
    if made is None:
        return None
    rows = [
        (
            each["classifier"],
            each["trained"],
            each["tested"],
            f"{each['mean']:.1%}",
            f"{each['low']:.1%} to {each['high']:.1%}",
            *(("–", "–") if each["trained"] == each["tested"] == made.reference else _points(each["difference"])),
        )
        for each in made.to_json()["scores"]
        if each["metric"] == "accuracy"
        and (each["trained"] == each["tested"] or each["trained"] == made.reference)
        and not {each["trained"], each["tested"]} & made.same_as.keys()
    ]
    return Table(
        "probe",
        "Reading the labels off each variant",
        f"Accuracy; {made.sentence}; {made.sampling}; n = {made.n_used:,}, seed {made.seed}. The most frequent class "
        f"alone gives {made.baseline('accuracy'):.1%}. Differences are to {made.reference}, in points, paired by fold.",
        ("classifier", "trained on", "tested on", "accuracy", "95%", "difference", "95%"),
        tuple(rows),
    )


def _points(difference: Mapping[str, float]) -> tuple[str, str]:
    mean, low, high = (f"{difference[name] * 100:+.1f}" for name in ("mean", "low", "high"))
    return mean, f"{low} to {high}"


def _number(value: float | None) -> str:
    # A zero that rounding made has no sign.
    return "–" if value is None else f"{value:.3f}".replace("-0.000", "0.000")


def _mean(values: np.ndarray | None) -> str:
    if values is None or np.isnan(values).all():
        return ""
    return f"{float(np.nanmean(values)):.4g}"


def _spread(spread: Spread | None) -> str:
    return "–" if spread is None else f"{_number(spread.mean)} ({_number(spread.low)} to {_number(spread.high)})"
