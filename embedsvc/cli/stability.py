"""``embedsvc stability``."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

import click

from embedsvc.cli.parameters import CLUSTERS, Named

if TYPE_CHECKING:
    from embedsvc.embeddings import EmbeddingSet
    from embedsvc.variability import Curve, Stability

__all__ = ["stability"]

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
_LISTED = 5  # texts under each score


@click.command(epilog="Example:  embedsvc stability reviews.parquet --passes 1000 --out scores.parquet")
@click.argument("path", type=click.Path(), metavar="SET")
@click.option(
    "--passes", type=click.IntRange(min=2), default=100, show_default=True, metavar="T", help="Head passes to draw."
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of the masks. [default: that of the set]")
@click.option(
    "-k", type=click.IntRange(min=1), default=10, show_default=True, metavar="K", help="Nearest neighbours to compare."
)
@click.option(
    "--neighbor-passes",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    metavar="N",
    help="Passes sampled for the comparison of neighbours; 0 for none.",
)
@click.option(
    "--cluster-passes",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    metavar="N",
    help="Passes whose clusters are compared with those of inference; 0 for none.",
)
@click.option(
    "--cluster-method",
    type=Named("embedsvc.clusterers:CLUSTERERS"),
    default="kmeans",
    show_default=True,
    metavar="NAME",
    help="See `embedsvc cluster --help`.",
)
@click.option("--clusters", type=CLUSTERS, default="auto", show_default=True, help="Number of clusters.")
@click.option("-o", "--out", type=click.Path(), metavar="PATH", help="A Parquet file for the scores of every text.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def stability(
    path: str,
    *,
    passes: int,
    seed: int | None,
    k: int,
    neighbor_passes: int,
    cluster_passes: int,
    cluster_method: str,
    clusters: int | str,
    out: str | None,
    as_json: bool,
) -> None:
    """Show how much each text depends on which units dropout drops.

    Head passes are drawn from the stored pre_dropout, not stored: any number of them. This is dropout variability,
    not calibrated uncertainty.
    """
    from embedsvc.embeddings import EmbeddingSet
    from embedsvc.uncertainty import stability

    embeddings = EmbeddingSet.read(path)
    found = stability(
        embeddings,
        passes=passes,
        seed=seed,
        k=k,
        neighbor_passes=neighbor_passes,
        cluster_passes=cluster_passes,
        cluster_method=cluster_method,
        clusters="auto" if isinstance(clusters, str) else clusters,
    )
    if out is not None:
        found.write(out)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _print(found, embeddings, out)


def _print(found: Stability, embeddings: EmbeddingSet, out: str | None) -> None:
    from embedsvc.cli.tables import print_text

    facts = found.to_json()
    print_text(f"{found.method}\n{found.sampling}\n")
    _print_scores(found, facts["scores"])
    _print_curve(found.curve)
    if found.split is not None:
        _print_split(found.split.encoder_share, facts["split"])
    if found.restarts is not None:
        moved = facts["scores"]["restarts.cluster_flip"]["mean"]
        print_text(
            f"\nOther starts of the clustering, on the very vectors of inference, move {moved:.1%} of the texts."
        )
    _print_most(facts["most"], dict(zip(embeddings.ids, embeddings.texts, strict=True)))
    click.echo(f"\nScores of every text: {out or 'add --out scores.parquet'}")


def _print_scores(found: Stability, scores: dict[str, dict[str, float | None]]) -> None:
    from embedsvc.cli.tables import print_table

    head, training = found.head, found.training
    header = ("mean over texts", f"head, {head.passes:,} passes", "mask alone predicts")
    rows = [
        (
            words,
            _mean(scores, f"head.{name}"),
            _mean(scores, f"head.expected_{name}"),
            *([_mean(scores, f"training.{name}")] if training else []),
        )
        for name, words in _WORDS.items()
        if f"head.{name}" in scores
    ]
    print_table((*header, *([f"training, {training.passes} passes"] if training else [])), rows)


def _print_curve(curve: Curve) -> None:
    from embedsvc.cli.tables import print_table

    click.echo("\nThe T-curve, cosine of the mean of T head passes with pre_dropout:")
    print_table(
        ("T", "observed", "5 to 95 % of texts", "1/√(1 + p/(qT))"),
        [
            (f"{passes:,}", f"{observed:.5f}", f"{low:.5f} to {high:.5f}", f"{expected:.5f}")
            for passes, observed, low, high, expected in zip(
                curve.passes, curve.observed, curve.low, curve.high, curve.expected, strict=True
            )
        ],
    )


def _print_split(encoder_share: float, split: dict[str, float]) -> None:
    from embedsvc.cli.tables import print_pairs

    click.echo("\nVariance of post_dropout in training mode, mean over texts:")
    print_pairs(
        [
            ("encoder", f"{split['encoder']:.4g} ({encoder_share:.1%})"),
            ("head mask", f"{split['head']:.4g} ({1 - encoder_share:.1%})"),
            ("observed", f"{split['observed']:.4g}"),
        ]
    )


def _print_most(most: dict[str, list[dict[str, Any]]], texts: dict[str, str]) -> None:
    from embedsvc.cli.tables import print_table

    for name, listed in most.items():
        mode, _, score = name.partition(".")
        rows = [
            (f"{each['value']:.3g}", each["id"], textwrap.shorten(texts[each["id"]], 80, placeholder=" …"))
            for each in listed[:_LISTED]
            if each["value"] > 0
        ]
        if rows:
            click.echo(f"\nHighest in {mode} passes: {_WORDS[score]}")
            print_table(("value", "id", "text"), rows)


def _mean(scores: dict[str, dict[str, float | None]], name: str) -> str:
    mean = scores.get(name, {}).get("mean")
    return "" if mean is None else f"{mean:#.4g}"
