"""``embedsvc bench``: timings that answer a question, on the machine of whoever asks."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from embedsvc.cli.groups import CommandGroup
from embedsvc.errors import SettingsError

__all__ = ["bench"]


@click.group(cls=CommandGroup, epilog="Example:  embedsvc bench recurrent")
def bench() -> None:
    """Time things on this machine."""


@bench.command(epilog="Example:  embedsvc bench recurrent --settings question,medium")
@click.option(
    "--settings",
    default="question,medium",
    show_default=True,
    metavar="A,B,…",
    help="question: 80 steps, 2,000 words, embedding 128, 8 units, batch 32; medium: 128 units; large: 512 units.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="Interleaved.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.01), default=0.3, show_default=True, metavar="X", help="Of a layer's turn."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recurrent(*, settings: str, rounds: int, seconds: float, as_json: bool) -> None:
    """Time a training step of SimpleRNN, GRU and LSTM, and say which implementation ran, and why.

    A ratio below 1 is a layer faster than the simple RNN.
    """
    from embedsvc.cli.options import split
    from embedsvc.cli.tables import print_table
    from embedsvc.models.quiet import import_tensorflow

    import_tensorflow()
    from embedsvc.models.recurrent.timing import SETTINGS, time_steps

    names = split(settings)
    unknown = [name for name in names if name not in SETTINGS]
    if unknown or not names:
        raise SettingsError(f"--settings is {settings!r}", f"Expected some of: {', '.join(SETTINGS)}, with commas.")
    found = time_steps(
        [SETTINGS[name] for name in names],
        rounds=rounds,
        seconds=seconds,
        told=lambda line: click.echo(f"embedsvc: {line}", err=True),
    )
    if as_json:
        sizes = {name: asdict(SETTINGS[name]) for name in names}
        click.echo(
            json.dumps({"settings": sizes, "rounds": rounds, "timings": [asdict(each) for each in found]}, indent=2)
        )
        return
    print_table(
        ("setting", "device", "layer", "ms a step", "against simple", "ran as", "why"),
        [
            (
                each.setting,
                each.device,
                each.cell,
                f"{each.seconds * 1e3:.2f}",
                f"{each.ratio:.2f} ({each.low:.2f} … {each.high:.2f})",
                each.implementation,
                each.why,
            )
            for each in found
        ],
    )
    if not any("GPU" in each.device for each in found):
        click.echo(
            "\nNo GPU here, so no layer could run on a fused cuDNN kernel: docs/questions/lstm-speed.md says more."
        )
