"""``embedsvc inspect``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from embedsvc.cli.loading import load_options
from embedsvc.cli.parameters import Named

if TYPE_CHECKING:
    from embedsvc.inspection import InspectedSite, Inspection

__all__ = ["inspect"]


@click.command(epilog="Example:  embedsvc inspect keras:model.keras")
@click.argument("model", type=Named("embedsvc.catalog:MODELS", files=True), metavar="MODEL")
@click.option("--preprocess", metavar="HANDLE", help="Text preprocessing model, for hub:.")
@click.option("--dropout-layer", metavar="NAME", help="Name or path of the head's dropout, where several qualify.")
@click.option("--trust-model", "trust", is_flag=True, help="Load the model although it could run code or touch files.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(model: str, **options: Any) -> None:  # noqa: ANN401 - click's own
    """Show a model's taps and every dropout in it, and whether its loss fits its head.

    The model runs a few words: in which modes a dropout is live, what it drops, and whether every time step gets the
    same mask are seen, not only read from the configuration.
    """
    from embedsvc.inspection import inspect

    found = inspect(model, load_options(options))
    if options["as_json"]:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _print(found)


def _print(found: Inspection) -> None:
    from embedsvc.cli.tables import print_pairs, print_text

    spec, ending = found.spec, found.ending
    layers = [tap for tap in spec.taps if tap.startswith("layer.")]
    taps = [f"{tap} {width}" for tap, width in spec.taps.items() if tap not in layers]
    if layers:
        span = layers[0] if len(layers) == 1 else f"{layers[0]} … {layers[-1]}"
        taps.append(f"{span} {spec.taps[layers[0]]}")
    head = "no trained classifier" if ending.activation is None else f"{ending.units} units, {ending.activation}"
    loss = "none in the file"
    if ending.loss is not None:
        loss = f"{ending.loss} of {'logits' if ending.from_logits else 'probabilities'}"
    print_pairs(
        [
            ("model", f"{spec.uri} ({spec.digest[:12]})"),
            *([("family", found.family)] if found.family else []),
            ("taps", ", ".join(taps)),
            ("reads", "texts of any length" if spec.max_tokens is None else f"up to {spec.max_tokens:,} tokens"),
            ("masks", spec.masks),
            ("head", head),
            ("loss", loss),
            ("fits", {True: "yes", False: "NO", None: "cannot say"}[found.fit.fits] + f": {found.fit.what}"),
            *([("fix" if found.fit.fits is False else "advice", found.fit.fix)] if found.fit.fix else []),
        ]
    )
    click.echo("\nDropouts (the head's first)")
    _print_sites(found.sites, mixed=len({site.masks for site in found.sites}) > 1)
    for note in found.notes:
        print_text(f"\nNote: {note}")


def _print_sites(sites: Sequence[InspectedSite], *, mixed: bool) -> None:
    """A row for each kind of site: what every layer has is told once."""
    from embedsvc.cli.tables import print_table, print_text

    rows: dict[tuple[str, ...], list[InspectedSite]] = {}
    for site in sites:
        place = re.sub(r"\blayer\.\d+", "layer.*", site.path)
        said = (
            *(site.kind, f"{site.rate:g}", ", ".join(site.modes) or "no mode", _shared(site)),
            *([site.masks] if mixed else []),
        )
        rows.setdefault((place, *said), []).append(site)
    print_table(
        ("path", "kind", "rate", "live in", "same at every step", *(["masks"] if mixed else []), "dropped"),
        [
            ((place if len(found) > 1 else found[0].path), *said, _dropped(found))
            for (place, *said), found in rows.items()
        ],
    )
    click.echo()
    if any(len(found) > 1 for found in rows.values()):
        print_text(f"layer.* stands for each layer: {len(sites)} sites in all; --json lists them one by one.")
    seen: dict[str, list[str]] = {}
    for site in sites:
        seen.setdefault(site.seen or "its declaration only", []).append(site.path)
    for how, paths in seen.items():
        print_text(f"{paths[0] if len(paths) == 1 else f'{len(paths)} sites'} seen by {how}.")


def _dropped(sites: Sequence[InspectedSite]) -> str:
    """The fraction of units seen to be dropped, over all of them."""
    found = [site.dropped for site in sites if site.dropped is not None]
    return f"{sum(found) / len(found):.2f}" if found else "-"


def _shared(site: InspectedSite) -> str:
    if site.shared is None:
        return "-"
    gates = f", one a gate ({site.gates})" if site.gates > 1 else ""
    return f"{'yes' if site.shared else 'no'}{gates}"
