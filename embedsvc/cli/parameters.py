"""Kinds of option values that click does not know. Imports nothing else, since `--help` imports it."""

from __future__ import annotations

from importlib import import_module

import click
from click.shell_completion import CompletionItem

__all__ = ["CLUSTERS", "Named"]


class _Clusters(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.2
    """A number of clusters from 2, or auto."""

    name = "N|auto"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        text = str(value)
        if text == "auto":
            return text
        if not text.isdecimal() or int(text) < 2:
            self.fail(f"{text!r} is neither a whole number from 2 nor auto.", param, ctx)
        return int(text)


CLUSTERS = _Clusters()


class Named(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.2
    """A text that the shell completes out of a registry, which is imported when Tab is pressed.

    What is not registered is refused by whoever looks it up, who knows what else there is.

    Parameters
    ----------
    registry : str
        As ``"module:ATTRIBUTE"``.
    files : bool
        A path will do as well.
    listed : bool
        Several, with commas.
    """

    name = "NAME"

    def __init__(self, registry: str, *, files: bool = False, listed: bool = False) -> None:
        self._registry = registry
        self._files = files
        self._listed = listed

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that begin as the last one typed does."""
        module, _, attribute = self._registry.partition(":")
        before, comma, last = incomplete.rpartition(",") if self._listed else ("", "", incomplete)
        names = sorted(getattr(import_module(module), attribute))
        found = [CompletionItem(f"{before}{comma}{name}") for name in names if name.startswith(last)]
        return found or ([CompletionItem(incomplete, type="file")] if self._files else [])
