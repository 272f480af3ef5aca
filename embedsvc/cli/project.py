"""``embedsvc project``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from embedsvc.cli.parameters import Named

if TYPE_CHECKING:
    from embedsvc.projection import Projection

__all__ = ["project"]


@click.command(epilog="Example:  embedsvc project reviews.parquet --method umap --out map.parquet")
@click.argument("path", type=click.Path(), metavar="SET")
@click.option(
    "--method",
    type=Named("embedsvc.projection:PROJECTORS"),
    default="pca",
    show_default=True,
    metavar="NAME",
    help="pca, umap, aligned-umap, or a plug-in's.",
)
@click.option(
    "--variants", metavar="A,B,…", help="[default: the first pass of each tap and mode, in the space of pre_dropout]"
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Of the map and of what is sampled; UMAP runs in one thread under it.",
)
@click.option(
    "--neighbors",
    "n_neighbors",
    type=click.IntRange(min=2),
    default=15,
    show_default=True,
    metavar="N",
    help="Size of a neighbourhood.",
)
@click.option(
    "-o", "--out", type=click.Path(), metavar="PATH", help="A Parquet file for the coordinates of every text."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def project(
    path: str, *, method: str, variants: str | None, seed: int, n_neighbors: int, out: str | None, as_json: bool
) -> None:
    """Draw variants of the same texts on one map, fitted once.

    The map is fitted on pre_dropout.inference and every other variant is placed on it, so that displacements can be
    compared, each with what happens by itself: the head's mask on a PCA, a control on a UMAP.
    """
    from embedsvc.cli.options import split
    from embedsvc.embeddings import EmbeddingSet
    from embedsvc.projection import project

    embeddings = EmbeddingSet.read(path)
    names = split(variants) if variants is not None else None
    found = project(embeddings, method=method, variants=names, seed=seed, n_neighbors=n_neighbors)
    if out is not None:
        found.write(out)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _print(found, out)


def _print(found: Projection, out: str | None) -> None:
    from embedsvc.cli.tables import print_table, print_text

    facts = found.to_json()
    extent = facts["extent"]
    print_text(f"{found.method}\n{found.sampling}\n")
    rows = []
    for each in facts["variants"]:
        name = each["variant"]
        moved = "the same bits" if name in found.identical else ""
        if name in found.movements:
            moved = "not known" if each["moved"] is None else f"{each['moved']:.1%}"
        rows.append(
            (
                name,
                _share(each["trustworthiness"]),
                _share(each["continuity"]),
                f"{each['median_displacement'] / extent:.4f}" if extent else "",
                f"{each['p95_displacement'] / extent:.4f}" if extent else "",
                moved,
            )
        )
    header = ("variant", "trustworthiness", "continuity", "median shift", "95 % shift", "beyond 95 % of chance")
    print_table(header, rows)
    click.echo(f"\nShifts are shares of the map's diagonal, {extent:.3g}.", nl=False)
    if found.control is not None and extent:
        click.echo(f" The control's 95 % shift is {facts['control_p95'] / extent:.4f}.", nl=False)
    click.echo()
    click.echo(f"Coordinates of every text: {out}" if out else "Coordinates of every text: add --out map.parquet")


def _share(value: float | None) -> str:
    return "too few texts" if value is None else f"{value:.3f}"
