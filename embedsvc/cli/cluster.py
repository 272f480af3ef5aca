"""``embedsvc cluster``."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

import click

from embedsvc.cli.parameters import CLUSTERS, Named

if TYPE_CHECKING:
    from embedsvc.agreement import Spread
    from embedsvc.clusters import Clustering
    from embedsvc.embeddings import EmbeddingSet

__all__ = ["cluster"]


@click.command(epilog="Example:  embedsvc cluster reviews.parquet --method kmeans -k 8 --out clusters.parquet")
@click.argument("path", type=click.Path(), metavar="SET")
@click.option(
    "--method",
    type=Named("embedsvc.clusterers:CLUSTERERS"),
    default="kmeans",
    show_default=True,
    metavar="NAME",
    help="kmeans, agglomerative, hdbscan (finds k itself, leaves noise) or gmm.",
)
@click.option(
    "-k",
    type=CLUSTERS,
    default="auto",
    show_default=True,
    help="Clusters; auto asks the silhouette.",
)
@click.option("--variants", metavar="A,B,…", help="[default: all, of stochastic ones the first pass]")
@click.option(
    "--resamples",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="Bootstrap resamples that stability is measured over.",
)
@click.option(
    "--passes",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="Head passes to draw, and stored training passes to use at most.",
)
@click.option(
    "--max-texts",
    type=click.IntRange(min=2),
    metavar="N",
    help="Of more texts clusters are fitted on so many, which the others join. [default: as many as the method allows]",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of starts and samples."
)
@click.option(
    "-o",
    "--out",
    type=click.Path(),
    metavar="PATH",
    help="A Parquet file for the cluster of every text in each variant.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cluster(
    path: str,
    *,
    method: str,
    k: int | str,
    variants: str | None,
    resamples: int,
    passes: int,
    max_texts: int | None,
    seed: int,
    out: str | None,
    as_json: bool,
) -> None:
    """Cluster every variant alike: how far do the clusters agree, and how stable are they?

    Clusters are found and measured in the space of the vectors, never on a map. Beside each agreement stands what the
    head's dropout does by itself.
    """
    from embedsvc.cli.options import split
    from embedsvc.clustering import cluster
    from embedsvc.embeddings import EmbeddingSet

    embeddings = EmbeddingSet.read(path)
    found = cluster(
        embeddings,
        method=method,
        k="auto" if isinstance(k, str) else k,
        variants=split(variants) or None,
        n_resamples=resamples,
        n_passes=passes,
        max_texts=max_texts,
        seed=seed,
    )
    if out is not None:
        found.write(out)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
        return
    _print(found, embeddings)
    if out is not None:
        click.echo(f"\nThe cluster of every text: {out}")


def _print(found: Clustering, embeddings: EmbeddingSet) -> None:
    from embedsvc.cli.tables import print_pairs, print_table, print_text

    print_pairs(
        [
            ("texts", f"{found.n:,}" + (f", {found.n_duplicates:,} vectors twice" if found.n_duplicates else "")),
            ("method", found.sentence),
            ("sampling", found.sampling),
            ("seed", str(found.seed)),
        ]
    )
    click.echo("\nVariants")
    noisy = any(each.n_noise for each in found.variants)
    labelled = any(each.against_labels is not None for each in found.variants)
    print_table(
        (
            *("variant", "clusters", *(["noise"] if noisy else []), "silhouette", "stability"),
            *(("ARI with labels", "AMI") if labelled else ()),
        ),
        [
            (
                each.variant,
                str(len(each.clusters)),
                *([str(each.n_noise)] if noisy else []),
                _number(each.silhouette),
                _range([one.stability for one in each.clusters if one.stability is not None]),
                *((_number(each.against_labels.ari), _number(each.against_labels.ami)) if each.against_labels else ()),
            )
            for each in found.variants
            if each.same_as is None
        ],
    )
    for each in found.variants:
        if each.same_as is not None:
            print_text(f"{each.variant} is {each.same_as}, bit for bit.")
    distinct = {each.variant for each in found.variants if each.same_as is None}
    agreements = {pair: each for pair, each in found.agreements.items() if distinct.issuperset(pair)}
    if agreements:
        click.echo("\nAgreement" + (" (noise texts as singletons)" if noisy else ""))
        print_table(
            ("variants", "ARI", "AMI", "ARI by the mask alone"),
            [
                (f"{a} × {b}", _number(each.ari), _number(each.ami), _spread(found.expected(a, b)))
                for (a, b), each in agreements.items()
            ],
        )
        if noisy:
            click.echo("\nAgreement over the texts that both put in a cluster")
            print_table(
                ("variants", "ARI", "AMI", "their share"),
                [
                    (f"{a} × {b}", _number(each.ari_clustered), _number(each.ami_clustered), f"{each.coverage:.2f}")
                    for (a, b), each in agreements.items()
                ],
            )
    click.echo("\nWhat ARI is without a difference between variants")
    print_pairs(
        [
            *((f"{each.stem}, {len(each.passes)} passes", _spread(each.between)) for each in found.passes),
            ("other starts", _spread(found.restarts) if found.restarts.n else "1 (nothing is drawn)"),
            ("chance", _spread(found.chance)),
        ]
    )
    click.echo(f"\nClusters of {found.reference.variant}")
    texts = dict(zip(embeddings.ids, embeddings.texts, strict=True))
    print_table(
        ("cluster", "texts", "stability", "verdict", *(f"in {each.stem}" for each in found.passes)),
        [
            (
                *(str(each.number), str(each.size), _number(each.stability), each.verdict),
                *(_number(one.stability.get(each.number)) for one in found.passes),
            )
            for each in found.reference.clusters
        ],
    )
    if found.reference.clusters:
        click.echo("\nNearest to the centre of each cluster")
        print_pairs(
            [
                (str(each.number), textwrap.shorten(texts[each.representatives[0]], 100, placeholder=" …"))
                for each in found.reference.clusters
            ]
        )
    for note in found.notes:
        print_text(f"\nNote: {note}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} … {max(values):.2f}" if values else "-"


def _spread(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.mean:.3f} ({spread.low:.3f} … {spread.high:.3f})"
