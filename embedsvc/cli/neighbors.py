"""``embedsvc neighbors``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from embedsvc.cli.loading import load_options

if TYPE_CHECKING:
    from embedsvc.retrieval import Hit, Retrieval

__all__ = ["neighbors"]

_MARKS = {"kept": " ", "gained": "+", "lost": "-"}


@click.command(epilog='Example:  embedsvc neighbors reviews.parquet "a dull film" -k 5')
@click.argument("path", type=click.Path(), metavar="SET")
@click.argument("text", required=False)
@click.option("--text", "named", metavar="TEXT", help="The new text, as the argument.")
@click.option("--id", "text_id", metavar="ID", help="A text of the set, instead of a new one.")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Neighbours in each variant.")
@click.option("--variants", metavar="A,B,…", help="The first is the reference. [default: one of each kind]")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "euclidean"]),
    default="cosine",
    show_default=True,
    help="Distance that decides who is near.",
)
@click.option("--dropout-layer", metavar="NAME", help="As it was given to `extract`.")
@click.option("--preprocess", metavar="HANDLE", help="As it was given to `extract`.")
@click.option("--trust-model", "trust", is_flag=True, help="As it was given to `extract`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def neighbors(path: str, text: str | None, **options: Any) -> None:  # noqa: ANN401 - click's own
    """Show the nearest texts in each variant, side by side.

    Beside the first variant, + marks a text that is gained and - one that is lost. A text that is not in the set is
    encoded by the set's model, which must still be there.
    """
    from embedsvc import retrieval
    from embedsvc.cli.options import split
    from embedsvc.embeddings import EmbeddingSet

    if options["named"] is not None and text is not None:
        raise click.UsageError("the text is given twice")
    text = options["named"] if text is None else text
    found = retrieval.neighbors(
        EmbeddingSet.read(path),
        text=text,
        id=options["text_id"],
        k=options["k"],
        variants=split(options["variants"]) or None,
        metric=options["metric"],
        load_options=load_options(options),
    )
    if options["as_json"]:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    print_retrieval(found)


def print_retrieval(found: Retrieval) -> None:
    """Columns of variants; what was lost below a line."""
    from embedsvc.cli.tables import print_table, print_text

    click.echo(f"{found.query.id}: {_short(found.query.text, 100)}\n")
    names = list(found.hits)
    rows = [
        (str(rank + 1), *(_cell(found.hits[name][rank], name == found.reference) for name in names))
        for rank in range(found.k)
    ]
    for rank in range(max(len(lost) for lost in found.lost.values())):
        cells = [found.lost[name][rank : rank + 1] for name in names]
        rows.append(("lost", *(_cell(cell[0], False) if cell else "" for cell in cells)))
    print_table(("", *names), rows)
    print_text(f"\n{found.n:,} texts; {found.method}.")
    if not any(hit.mark == "gained" for hits in found.hits.values() for hit in hits):
        click.echo("Nothing gained, nothing lost.")


def _cell(hit: Hit, is_reference: bool) -> str:
    mark = " " if is_reference else _MARKS[hit.mark]
    return f"{mark} {hit.distance:.3f}  {_short(hit.text, 34)}"


def _short(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
