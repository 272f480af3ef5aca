"""A group of commands, and how --help lists them."""

from __future__ import annotations

import click

from embedsvc.errors import did_you_mean

__all__ = ["CommandGroup"]


class CommandGroup(click.Group):
    """What a command does is said in its whole first sentence, on as many lines as it takes."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; of a name that is not there it says which is like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            guess = did_you_mean(args[0], self.list_commands(ctx)).rstrip()
            if not guess or "did you mean" in error.message.lower():
                raise
            raise click.UsageError(f"{error.message} {guess}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List every command with its sentence."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(limit=1000)) for name, each in commands if each])
