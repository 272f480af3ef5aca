"""How files of texts are to be read: the options that every command that reads texts has, and what they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from embedsvc.texts import ReadOptions

__all__ = ["read_options", "reading_options"]

Command = Callable[..., Any]

_OPTIONS = (
    click.option("--text-column", metavar="NAME", help="Column or field of the text. [default: text]"),
    click.option("--label-column", metavar="NAME", help="Column of the labels. [default: label, if there]"),
    click.option("--id-column", metavar="NAME", help="Column of the ids. [default: ids are file:row]"),
    click.option("--whole-files", is_flag=True, help="Each .txt file is one text, instead of each line."),
    click.option(
        "--stdin-format",
        type=click.Choice(["txt", "csv", "tsv", "jsonl"]),
        default="txt",
        show_default=True,
        help="What `-` reads.",
    ),
    click.option(
        "--on-error",
        type=click.Choice(["fail", "skip"]),
        default="fail",
        show_default=True,
        help="For rows that cannot be read or, to train, have no label.",
    ),
)


def reading_options(command: Command) -> Command:
    """Decorator: give a command the options that `read_options` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_options(options: Mapping[str, Any]) -> ReadOptions:
    """What `read_texts` is told, out of a command's options."""
    from embedsvc.texts import ReadOptions
    from embedsvc.types import named_fields

    return ReadOptions(**named_fields(ReadOptions, options), stdin_suffix=f".{options['stdin_format']}")
