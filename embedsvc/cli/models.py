"""``embedsvc models``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

__all__ = ["models"]


@click.command(epilog="Example:  embedsvc extract reviews.txt -o out.parquet --model hf:/models/my-bert")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(*, as_json: bool) -> None:
    """List named models and data sets, and the ways to load your own."""
    from embedsvc import catalog
    from embedsvc.cli.tables import print_table
    from embedsvc.models.load import SCHEMES

    found = {"models": catalog.entries(), "data": catalog.entries(catalog.DATA)}
    if as_json:
        listed = {kind: [asdict(entry) for entry in entries] for kind, entries in found.items()}
        click.echo(json.dumps(listed | {"schemes": SCHEMES}, indent=2, default=str))
        return
    for kind, entries in found.items():
        if kind == "data":
            click.echo("\nNamed data sets, read as data:NAME:")
        print_table(
            ("name", "size", "licence", "cached", "what"),
            [
                (
                    entry.name,
                    f"{entry.size / 1e6:.0f} MB",
                    entry.licence,
                    "yes" if entry.cached else "no",
                    entry.description,
                )
                for entry in entries
            ],
        )
    click.echo("\nYour own, with --model:")
    print_table(("scheme", "what"), [(f"{name}:", what) for name, what in SCHEMES.items()])
    click.echo("\nA plain path picks the loader by what lies there.")
