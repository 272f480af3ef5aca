"""How a model is to be loaded: the options that every command that encodes has, and what they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from embedsvc.models.base import LoadOptions

__all__ = ["load_options", "loading_options"]

Command = Callable[..., Any]

_OPTIONS = (
    click.option(
        "--rate",
        type=click.FloatRange(0, 1, max_open=True),
        metavar="P",
        help="Rate of the head's dropout. [default: the model's]",
    ),
    click.option("--dropout-layer", metavar="NAME", help="The head's dropout, where several layers qualify."),
    click.option("--preprocess", metavar="HANDLE", help="Preprocessing model of a hub: encoder."),
    click.option(
        "--engine",
        type=click.Choice(["auto", "openvino", "tensorflow"]),
        default="auto",
        show_default=True,
        help="What runs a BERT; auto takes OpenVINO where it is installed.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16", "int8"]),
        default="float32",
        show_default=True,
        help="Of a BERT's products; the reduced ones are faster and less exact, and need OpenVINO.",
    ),
    click.option(
        "--trust-model", "trust", is_flag=True, help="Load a model although it could run code or touch files."
    ),
)


def loading_options(command: Command) -> Command:
    """Decorator: give a command the options that `load_options` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def load_options(options: Mapping[str, Any]) -> LoadOptions:
    """What `load_model` is told, out of a command's options."""
    from embedsvc.models.base import LoadOptions
    from embedsvc.types import named_fields

    return LoadOptions(**named_fields(LoadOptions, options))
