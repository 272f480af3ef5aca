"""``embedsvc export``."""

from __future__ import annotations

import click

from embedsvc.cli.parameters import Named

__all__ = ["export"]


@click.command(epilog="Example:  embedsvc export reviews.parquet --to tensorboard -o projector/")
@click.argument("path", type=click.Path(), metavar="SET")
@click.option(
    "--to",
    type=Named("embedsvc.exporting:EXPORTERS"),
    required=True,
    metavar="NAME",
    help="tensorboard, faiss, embedding-atlas, npz, csv, jsonl or parquet.",
)
@click.option("-o", "--out", type=click.Path(), required=True, metavar="PATH", help="A file; for tensorboard a folder.")
@click.option("--variants", metavar="A,B,…", help="[default: the first pass of every tap and mode]")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of approximate neighbours."
)
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
def export(path: str, *, to: str, out: str, variants: str | None, seed: int, overwrite: bool) -> None:
    """Write a set for another tool: a projector, a search index, an atlas, or a plain file."""
    from embedsvc.cli.options import split
    from embedsvc.embeddings import EmbeddingSet
    from embedsvc.exporting import export

    embeddings = EmbeddingSet.read(path)
    for written in export(embeddings, to, out, variants=split(variants) or None, seed=seed, overwrite=overwrite):
        click.echo(str(written))
