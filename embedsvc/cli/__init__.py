"""The command line: one command for each public verb; a command parses, calls and prints.

Results go to stdout, progress and messages to stderr. Exit codes: 0 it worked, 1 it failed and said why, 2 the
command line was wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from embedsvc.cli.groups import CommandGroup
from embedsvc.errors import EmbedsvcError

__all__ = ["cli", "main", "show_error"]

# In the order of --help. Each lives in the module of its name.
_COMMANDS = (
    *("extract", "show", "train"),
    *("compare", "cluster", "project", "stability", "probe", "neighbors"),
    *("report", "export", "models", "inspect", "bench", "doctor"),
    *("run", "jobs", "serve"),
)


class _Commands(CommandGroup):
    """Commands imported when they are named, so that --help is instant whatever they need."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"embedsvc.cli.{cmd_name}"), cmd_name)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example:  embedsvc extract reviews.txt -o reviews.parquet && embedsvc report reviews.parquet",
)
@click.version_option(package_name="embedsvc", prog_name="embedsvc")
def cli() -> None:
    """Embeddings of a text classifier before and after dropout, in inference and training modes."""


def main() -> None:
    """Run the command line; every expected error becomes one message and exit code 1."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except EmbedsvcError as error:
        show_error(error)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); that is no failure of ours, but there is nobody to tell.
        sys.stderr.close()
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def show_error(error: EmbedsvcError) -> None:
    """What went wrong and what to do, on stderr."""
    click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(str(error), err=True)
