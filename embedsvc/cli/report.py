"""``embedsvc report``."""

from __future__ import annotations

import json

import click

from embedsvc.cli.parameters import CLUSTERS, Named

__all__ = ["report"]


@click.command(epilog="Example:  embedsvc report reviews.parquet -o report.html --also markdown,json,png")
@click.argument("path", type=click.Path(), metavar="SET")
@click.argument("other", type=click.Path(), metavar="OTHER_SET", required=False)
@click.option(
    "-o",
    "--out",
    type=click.Path(),
    default="report.html",
    show_default=True,
    metavar="PATH",
    help="A .html, .md, .json or .png file.",
)
@click.option(
    "--also",
    type=Named("embedsvc.reporting.renderers:RENDERERS", listed=True),
    metavar="A,B,…",
    help="More forms, next to it: html, markdown, json, png (one a figure).",
)
@click.option(
    "--join",
    type=click.Choice(["strict", "inner"]),
    default="strict",
    show_default=True,
    help="Whether all texts must be in both sets.",
)
@click.option("--variants", metavar="A,B,…", help="[default: the first pass of every tap and mode, at most 8]")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, metavar="K", help="Nearest neighbours.")
@click.option(
    "--passes",
    type=click.IntRange(min=2),
    metavar="T",
    help="Head passes to draw. [default: 100; 50 above 5,000 texts]",
)
@click.option("--clusters", type=CLUSTERS, default="auto", show_default=True, help="Number of clusters.")
@click.option(
    "--cluster-method",
    type=Named("embedsvc.clusterers:CLUSTERERS"),
    default="kmeans",
    show_default=True,
    metavar="NAME",
    help="See `embedsvc cluster --help`.",
)
@click.option(
    "--map-method",
    type=Named("embedsvc.projection:PROJECTORS"),
    metavar="NAME",
    help="pca, umap or aligned-umap. [default: umap, if installed]",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of everything drawn."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def report(
    path: str,
    other: str | None,
    *,
    join: str,
    out: str,
    also: str | None,
    variants: str | None,
    k: int,
    passes: int | None,
    clusters: int | str,
    cluster_method: str,
    map_method: str | None,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say which variant to take for what, with all the evidence, on one page.

    The page opens without a network. It compares, clusters and maps the variants of a set, and measures how much its
    texts depend on what dropout drops. With OTHER_SET, of the same texts by id, the variants of both are on the page:
    two checkpoints, or a model before and after it was tuned.

    Of many texts some analyses take a sample, drawn by --seed: above 10,000, neighbours are those of 1,000 texts among
    all; above 5,000, clusters are fitted on 4,000; labels are probed on 2,000, clusters are resampled on 2,000. Every
    panel says what it rests on; docs/report.md has the list.
    """
    from embedsvc.cli.options import split
    from embedsvc.cli.progress import steps
    from embedsvc.cli.tables import print_text
    from embedsvc.embeddings import EmbeddingSet
    from embedsvc.reporting.renderers import render
    from embedsvc.reporting.run import report

    told = steps(quiet=quiet)
    found = report(
        EmbeddingSet.read(path),
        other=EmbeddingSet.read(other) if other else None,
        join=join,
        variants=split(variants) or None,
        seed=seed,
        k=k,
        passes=passes,
        clusters="auto" if isinstance(clusters, str) else clusters,
        cluster_method=cluster_method,
        map_method=map_method,
        told=told,
    )
    told("Writing")
    written = render(found, out, also=split(also))
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
        return
    print_text(found.verdict.headline)
    for finding in found.verdict.findings:
        print_text(f"\n{finding.title} ({finding.effect.words})\n  {finding.sentences[0]}")
    click.echo(f"\nThe report: {', '.join(map(str, written[:3]))}" + (" …" if len(written) > 3 else ""))
