"""``embedsvc doctor``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from embedsvc.diagnosis import Diagnosis

__all__ = ["doctor"]


@click.command(epilog="Example:  embedsvc doctor --imports")
@click.option("--imports", is_flag=True, help="Also import each library in a process of its own, and time it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(*, imports: bool, as_json: bool) -> int:
    """Look for what is known to go wrong: versions, memory, graphics card, cache, models.

    Exits with 1 if something does not work; each problem comes with its fix.
    """
    from embedsvc.diagnosis import diagnose

    found = diagnose(imports=imports)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        _print(found)
    return 0 if found.healthy else 1


def _print(found: Diagnosis) -> None:
    from embedsvc.cli.tables import print_pairs, print_text

    missing = [f"{name} (without {', '.join(lacks)})" for name, lacks in found.extras.items() if lacks]
    installed = [name for name, lacks in found.extras.items() if not lacks]
    print_pairs(
        [
            *found.machine.items(),
            ("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items() if version)),
            ("extras", ", ".join(installed) or "none"),
            *([("not installed", ", ".join(missing))] if missing else []),
            ("models", ", ".join(f"{name} ({_cached(there)})" for name, there in found.models.items())),
            *((f"import {name}", f"{seconds:.1f} s") for name, seconds in found.imports.items()),
        ]
    )
    click.echo()
    for finding in found.findings:
        print_text(f"{finding.severity.capitalize()}: {finding.problem}\n  {finding.fix}\n")
    click.echo("No problem found." if not found.findings else f"{len(found.findings)} to look at.")


def _cached(there: bool) -> str:
    return "cached" if there else "fetched when first used"
