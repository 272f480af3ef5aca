"""``embedsvc show``."""

from __future__ import annotations

import click

__all__ = ["show"]


@click.command(epilog="Example:  embedsvc show out.parquet")
@click.argument("path", type=click.Path(), metavar="SET")
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as JSON.")
@click.option("--verify", is_flag=True, help="Read every row and check it against its digest.")
def show(path: str, *, as_json: bool, verify: bool) -> None:
    """Show what a set of embeddings is: model, settings, sources, variants."""
    from embedsvc.cli.tables import print_pairs, print_text
    from embedsvc.embeddings import EmbeddingSet
    from embedsvc.manifest import summarise

    if verify:
        from embedsvc.stored import verify as verify_set

        verify_set(path)
    manifest = EmbeddingSet.read(path).manifest
    if as_json:
        click.echo(manifest.to_json(), nl=False)
        return
    model = manifest.model
    pairs = [
        ("set", str(path)),
        ("texts", f"{manifest.rows or 0:,}"),
        ("tokens", f"{manifest.tokens or 0:,}"),
        ("truncated", f"{manifest.truncated or 0:,}"),
        ("skipped", f"{manifest.rejected or 0:,}"),
        ("model", f"{model.uri} ({model.digest[:12]})"),
        (
            "head",
            f"dropout {manifest.head.rate:g}"
            + (f" → {manifest.head.n_classes} classes" if manifest.head.n_classes else ", no trained classifier"),
        ),
        ("masks", f"{model.masks}" + (f", seed {manifest.seed}" if manifest.seed is not None else "")),
        ("stored", summarise(manifest.stored)),
        ("identical", ", ".join(f"{name} = {other}" for name, other in manifest.identical.items()) or "none"),
        ("virtual", summarise(manifest.virtual) or "none"),
        (
            "sources",
            ", ".join(str(source.get("name")) for source in manifest.sources[:5])
            + (" …" if len(manifest.sources) > 5 else ""),
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
    ]
    if verify:
        pairs.append(("verified", "every row agrees with its digest"))
    print_pairs(pairs)
    for note in model.notes:
        print_text(f"\nNote: {note}")
