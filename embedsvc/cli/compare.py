"""``embedsvc compare``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from embedsvc.cli.parameters import Named

if TYPE_CHECKING:
    from embedsvc.comparisons import Comparison
    from embedsvc.figures import Figure

__all__ = ["compare"]

_FEW = 3  # pairs that a reader takes in without an overview
_DEFAULT = "cka,procrustes,rsa,cosine,knn_overlap,second_order_cosine"  # `comparison.DEFAULT_METRICS`, held by a test


@click.command(
    epilog="Example:  embedsvc compare reviews.parquet --variants pre_dropout.inference,post_dropout.training.0"
)
@click.argument("path", type=click.Path(), metavar="SET")
@click.argument("other", type=click.Path(), metavar="OTHER_SET", required=False)
@click.option("--variants", metavar="A,B,…", help="[default: two passes of each kind at most]")
@click.option(
    "--join",
    type=click.Choice(["strict", "inner"]),
    default="strict",
    show_default=True,
    help="Whether all texts must be in both sets.",
)
@click.option(
    "--metrics",
    "--measures",
    "measures",
    type=Named("embedsvc.metrics:METRICS", listed=True),
    default=_DEFAULT,
    metavar="A,B,…",
    help="[default: all six]",
)
@click.option("-k", "--ks", metavar="N,M,…", help="Neighbours for the overlap. [default: 10,50]")
@click.option(
    "--permutations",
    type=click.IntRange(min=20),
    default=100,
    show_default=True,
    metavar="N",
    help="Random matches of texts, for what chance gives.",
)
@click.option(
    "--bootstrap",
    type=click.IntRange(min=20),
    default=200,
    show_default=True,
    metavar="N",
    help="Resamples of the texts, for the intervals.",
)
@click.option(
    "--simulations",
    type=click.IntRange(min=2),
    metavar="N",
    help="Head masks drawn for what dropout alone would do. [default: 4; 2 above 5,000 texts]",
)
@click.option(
    "--sample",
    type=click.IntRange(10, 2000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Texts for RSA, permutations and intervals; above 10,000, for neighbours too.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of all draws.")
@click.option("--scores", type=click.Path(), metavar="PATH", help="Write per-text scores to a Parquet file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def compare(path: str, other: str | None, **options: Any) -> None:  # noqa: ANN401 - click's own
    """Compare variants pair by pair, beside what dropout alone would do and what chance gives.

    With OTHER_SET the variants of two sets of the same texts are compared, joined by id.
    """
    from embedsvc import comparison
    from embedsvc.cli.options import split
    from embedsvc.cli.progress import steps
    from embedsvc.embeddings import EmbeddingSet
    from embedsvc.errors import SettingsError

    try:
        ks = [int(k) for k in split(options["ks"])] or None
    except ValueError:
        raise SettingsError(f"--ks is {options['ks']!r}", "Expected whole numbers, for example 10,50.") from None
    found = comparison.compare(
        EmbeddingSet.read(path),
        variants=split(options["variants"]) or None,
        other=EmbeddingSet.read(other) if other else None,
        join=options["join"],
        measures=split(options["measures"]),
        ks=ks,
        n_permutations=options["permutations"],
        n_bootstrap=options["bootstrap"],
        n_simulations=options["simulations"],
        sample=options["sample"],
        seed=options["seed"],
        told=steps(quiet=options["quiet"]),
    )
    if options["scores"]:
        from embedsvc.scores import write_scores

        facts = {name: value for name, value in found.to_json().items() if name != "pairs"}
        write_scores(options["scores"], found.ids, found.scores(), facts=facts)
    if options["as_json"]:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    print_comparison(found)
    if options["scores"]:
        click.echo(f"Per-text scores: {options['scores']}")


def print_comparison(found: Comparison) -> None:
    """A table a pair, what is identical first, how it was done last."""
    from embedsvc.cli.tables import print_table, print_text
    from embedsvc.manifest import summarise

    click.echo(f"{found.n:,} texts\n")
    for name, same in found.identical.items():
        click.echo(f"{name} is {same}, bit for bit.\n")
    if len(found.pairs) > _FEW:
        _print_overview(found)
    for pair in found.pairs:
        click.echo(f"{pair.a}  ×  {pair.b}")
        print_text(f"dropout alone: {pair.mechanism or 'no theory applies'}")
        header = ("", "observed", "95 % interval", "dropout alone", "chance, 95 %")
        print_table(header, [(name, *_cells(figure)) for name, figure in pair.figures.items()])
        for name, why in pair.omitted.items():
            print_text(f"no {name}: {why}")
        click.echo()
    if found.left_out and not any(":" in name for name in found.left_out):
        print_text(f"Left out: {summarise(found.left_out)}")
    elif found.left_out:
        print_text(f"Left out: {len(found.left_out)} more variants of the two sets")
    for note in found.notes:
        print_text(f"Note: {note}.")
    print_text(f"{found.sampling}.\n{found.method}")
    print_text(
        f"Seed {found.seed}: {found.n_permutations} permutations, {found.n_bootstrap} bootstraps, "
        f"{found.n_simulations} head masks."
    )


def _print_overview(found: Comparison) -> None:
    """One measure of every pair: of the neighbours, where they were asked for."""
    from embedsvc.cli.tables import print_table

    measures = dict.fromkeys(name for pair in found.pairs for name in pair.figures)
    chosen = next((name for name in measures if name.startswith("knn_overlap")), next(iter(measures), None))
    if chosen is None:
        return
    rows = [(f"{p.a} × {p.b}", *_cells(p.figures[chosen])) for p in found.pairs if chosen in p.figures]
    click.echo(f"All pairs by {chosen}; every measure of each is below.")
    print_table(("", "observed", "dropout alone", "chance, 95 %"), [(row[0], row[1], *row[3:]) for row in rows])
    click.echo()


def _cells(figure: Figure) -> tuple[str, ...]:
    return (
        f"{figure.observed:.4f}",
        f"{figure.interval.low:.4f} to {figure.interval.high:.4f}",
        "" if figure.expected is None else f"{figure.expected:.4f}",
        f"{figure.null.low:.3f} to {figure.null.high:.3f}",
    )
