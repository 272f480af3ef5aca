"""Kinds of option values that click does not know. Imports nothing else, since `--help` imports it."""

from __future__ import annotations

import click

__all__ = ["CLUSTERS"]


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
