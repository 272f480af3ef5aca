"""``embedsvc models``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

__all__ = ["models"]


@click.command(epilog="Example:  embedsvc extract reviews.txt -o out.parquet --model hf:/models/my-bert")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(*, as_json: bool) -> None:
    """List named models, and the ways to load your own."""
    from embedsvc import catalog
    from embedsvc.cli.tables import print_table
    from embedsvc.models.load import SCHEMES

    entries = catalog.entries()
    if as_json:
        click.echo(
            json.dumps({"models": [asdict(entry) for entry in entries], "schemes": SCHEMES}, indent=2, default=str)
        )
        return
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
