"""A group of commands, and how --help lists them."""

from __future__ import annotations

import click

__all__ = ["CommandGroup"]


class CommandGroup(click.Group):
    """What a command does is said in its whole first sentence, on as many lines as it takes."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List every command with its sentence."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(limit=1000)) for name, each in commands if each])
