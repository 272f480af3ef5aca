"""``embedsvc extract``."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from embedsvc.cli.invocation import program
from embedsvc.cli.loading import load_options, loading_options
from embedsvc.cli.parameters import Named
from embedsvc.cli.reading import read_options, reading_options
from embedsvc.cli.tables import print_pairs, print_text

if TYPE_CHECKING:
    from embedsvc.extraction import Summary

__all__ = ["extract"]

_REPORT_ROWS = 50  # with fewer, a report can say little beyond that they are few


@click.command(
    epilog="Example:  embedsvc extract reviews.csv --modes inference,training,head --passes 8 -o reviews.parquet"
)
@click.argument("sources", type=click.Path(), nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    type=click.Path(),
    required=True,
    metavar="PATH",
    help="A folder, or a .parquet, .npz, .csv or .jsonl file.",
)
@click.option(
    "-m",
    "--model",
    type=Named("embedsvc.catalog:MODELS", files=True),
    default="minilm-l6-sentiment",
    show_default=True,
    metavar="URI",
    help="A name (see `embedsvc models`), a path, or scheme:location.",
)
@click.option(
    "--taps", metavar="A,B,…", help="Where to tap. [default: pre_dropout,post_dropout and, if trained, logits]"
)
@click.option(
    "--modes",
    default="inference,head",
    show_default=True,
    metavar="A,B,…",
    help="inference, training (every dropout live), head (the head's only).",
)
@click.option("--passes", type=click.IntRange(min=1), metavar="N", help="Passes of each stochastic mode. [default: 1]")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    help="Of the dropout masks; recorded in the manifest. [default: 0]",
)
@click.option(
    "--format",
    "format_",
    type=Named("embedsvc.formats:FORMATS"),
    metavar="NAME",
    help="parquet, npz, csv or jsonl. [default: by the ending of --out]",
)
@reading_options
@click.option(
    "--on-long",
    type=click.Choice(["truncate", "fail", "chunk-mean"]),
    default="truncate",
    show_default=True,
    help="For texts longer than the model reads.",
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), metavar="N", help="Longest text in tokens. [default: the model's limit]"
)
@loading_options
@click.option("--overwrite", is_flag=True, help="Replace a set made under other settings.")
@click.option(
    "--token-budget", type=click.IntRange(min=1), default=1024, show_default=True, metavar="N", help="Tokens a batch."
)
@click.option(
    "--rows-per-part",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    metavar="N",
    help="What a kill can cost.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def extract(sources: tuple[str, ...], out: str, **options: Any) -> None:  # noqa: ANN401 - click's own
    """Extract embeddings of texts, before and after dropout.

    SOURCES are .txt, .csv, .tsv, .jsonl or .parquet files (also .gz), globs, folders, or - for standard input. A run
    that was stopped goes on where it was when the same command is given again.
    """
    from embedsvc.cli import progress
    from embedsvc.cli.options import parse_modes, split
    from embedsvc.extraction import Settings, extract_files

    modes, taps = parse_modes(options["modes"]), tuple(split(options["taps"]))
    settings = Settings.asked({**options, "modes": modes, "taps": taps})
    with progress.reporter(quiet=options["quiet"]) as started:
        try:
            summary = extract_files(
                sources,
                out,
                format_=options["format_"],
                model=options["model"],
                settings=settings,
                read_options=read_options(options),
                load_options=load_options(options),
                overwrite=options["overwrite"],
                started=started,
            )
        except KeyboardInterrupt:
            click.echo("Interrupted. What is done is kept: give the same command again to go on.", err=True)
            raise click.exceptions.Exit(130) from None
    print_summary(summary, as_json=options["as_json"])


def print_summary(summary: Summary, *, as_json: bool) -> None:
    """What was done, and what to try next."""
    from embedsvc.manifest import summarise
    from embedsvc.types import Variant

    manifest = summary.manifest
    rate = summary.new_rows / summary.seconds if summary.new_rows else 0.0
    if as_json:
        facts = {
            "path": str(summary.path),
            "texts": manifest.rows,
            "tokens": manifest.tokens,
            "truncated": manifest.truncated,
            "skipped": manifest.rejected,
            "rejected_path": summary.rejected_path and str(summary.rejected_path),
            "new_texts": summary.new_rows,
            "texts_per_second": round(rate, 1),
            "seconds": round(summary.seconds, 3),
            "encoder_waiting": None if summary.waiting is None else round(summary.waiting, 4),
            "variants": list(manifest.variants),
            "notes": list(manifest.model.notes),
        }
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    passes = len({(variant.mode, variant.index) for variant in map(Variant.parse, manifest.stored)})
    speed = f"{rate:,.0f} texts/s" + (f" through {passes} passes each" if passes > 1 else "")
    skipped = f"{manifest.rejected:,}" + (f", listed in {summary.rejected_path}" if summary.rejected_path else "")
    print_pairs(
        [
            (
                "texts",
                f"{manifest.rows:,}" + (f" ({summary.new_rows:,} new)" if summary.new_rows != manifest.rows else ""),
            ),
            ("tokens", f"{manifest.tokens:,}"),
            ("truncated", f"{manifest.truncated:,}"),
            ("skipped", skipped),
            ("speed", speed if summary.new_rows else "nothing new to do"),
            ("model", manifest.model.uri),
            ("stored", summarise(manifest.stored)),
            *(("identical", f"{name} = {other}") for name, other in manifest.identical.items()),
            *([("virtual", f"{summarise(manifest.virtual)} (drawn when read)")] if manifest.virtual else []),
            ("file", str(summary.path)),
        ]
    )
    for note in manifest.model.notes:
        print_text(f"\nNote: {note}")
    if summary.path.suffix in (".csv", ".jsonl"):
        print_text("\nThis file is for other programs. For reports and all else write a folder, .parquet or .npz.")
        return
    path = shlex.quote(str(summary.path))
    click.echo("\nTry next:")
    if (manifest.rows or 0) >= _REPORT_ROWS:
        click.echo(f"  {program()} report {path} -o report.html")
    click.echo(f"  {program()} show {path}")
    click.echo("\nOr in Python:")
    click.echo("  from embedsvc import EmbeddingSet")
    click.echo(f'  EmbeddingSet.read({json.dumps(str(summary.path))})["{manifest.variants[0]}"]')
