"""``embedsvc probe``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from embedsvc.probes import Estimate, Probe

__all__ = ["probe"]


@click.command(epilog="Example:  embedsvc probe reviews.parquet --folds 5 --repeats 4")
@click.argument("path", type=click.Path(), metavar="SET")
@click.option("--variants", metavar="A,B,…", help="[default: all, of stochastic ones the first pass]")
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, metavar="N", help="Of each repeat.")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=4, show_default=True, metavar="N", help="Of the cross-validation."
)
@click.option(
    "--max-texts",
    type=click.IntRange(min=1),
    default=5_000,
    show_default=True,
    metavar="N",
    help="Of more labelled texts so many are drawn.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of the folds and the sample."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def probe(
    path: str, *, variants: str | None, folds: int, repeats: int, max_texts: int, seed: int, as_json: bool
) -> None:
    """Show how well labels can be read off each variant, and what mixing variants costs.

    A logistic regression and a k-NN classifier are cross-validated on the same folds of every variant, and tested on
    the other variants too.
    """
    from embedsvc.cli.options import split
    from embedsvc.embeddings import EmbeddingSet
    from embedsvc.probing import probe

    found = probe(
        EmbeddingSet.read(path),
        variants=split(variants) or None,
        folds=folds,
        repeats=repeats,
        max_texts=max_texts,
        seed=seed,
    )
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _print(found)


def _print(found: Probe) -> None:
    from embedsvc.cli.tables import print_pairs, print_text

    print_pairs(
        [
            ("texts", f"{found.n_used:,} of {found.n:,}"),
            ("classes", ", ".join(f"{name} {count:,}" for name, count in found.classes.items())),
            ("method", found.sentence),
            ("sampling", found.sampling),
            ("seed", str(found.seed)),
        ]
    )
    for classifier in dict.fromkeys(name for name, _ in found.scores):
        _print_classifier(found, classifier)
    for name, other in found.same_as.items():
        print_text(f"\n{name} is {other}, bit for bit.")
    for note in found.notes:
        print_text(f"\nNote: {note}")


def _print_classifier(found: Probe, classifier: str) -> None:
    from embedsvc.cli.tables import print_table

    distinct = [name for name in found.variants if name not in found.same_as]
    words = {"logistic": "Logistic regression", "knn": "k-NN"}.get(classifier, classifier)
    click.echo(f"\n{words}, trained and tested on the same variant")
    for metric, name in (("accuracy", "accuracy"), ("macro_f1", "macro-F1")):
        rows = [("always the largest class", f"{found.baseline(metric):.3f}", "")]
        for variant in distinct:
            score = _interval(found.estimate(classifier, metric, variant))
            less = _interval(found.difference(classifier, metric, variant)) if variant != found.reference else ""
            rows.append((variant, score, less))
        print_table(("variant", name, f"less {found.reference}"), rows)
        click.echo()
    if len(distinct) > 1:
        click.echo(f"{words}: accuracy, trained on the row and tested on the column")
        print_table(
            ("trained on", "", *(str(at) for at in range(1, len(distinct) + 1))),
            [
                (trained, str(at), *(_mean(found.estimate(classifier, "accuracy", trained, each)) for each in distinct))
                for at, trained in enumerate(distinct, 1)
            ],
        )


def _interval(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.mean:.3f} ({estimate.low:.3f} … {estimate.high:.3f})"


def _mean(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.mean:.3f}"
