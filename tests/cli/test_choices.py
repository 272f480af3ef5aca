"""The command line writes its choices out, so that --help loads nothing; they are those of the library all the same."""

from typing import get_args

import click
import pytest

from embedsvc.batching import OnLong
from embedsvc.cli import cli
from embedsvc.knn import Metric
from embedsvc.models.engines import AUTO, ENGINES, Precision
from embedsvc.texts.base import READERS, OnError
from embedsvc.training import settings
from embedsvc.training.labels import Task

READ = {suffix.removeprefix(".") for suffix in READERS}
KNOWN = {
    "--on-error": set(OnError),
    "--on-long": set(OnLong),
    "--engine": {AUTO, *ENGINES},
    "--precision": set(Precision),
    "--metric": set(get_args(Metric)),
    "--stdin-format": READ - {"parquet"},  # whose footer is at its end
    "--join": {"strict", "inner"},
    "--log-format": {"text", "json"},
    "serve --log-format": {"auto", "text", "json"},
    "serve --on-long": set(OnLong) - {OnLong.CHUNK_MEAN},  # a request is one batch
    "train --precision": set(settings.Precision),
    "train --decay": set(settings.Decay),
    "train --class-weights": set(settings.ClassWeights),
    "train --pooler": set(settings.Pooler),
    "train --task": set(Task),
}


def choices():
    """Command, option and choices of all there are."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        for option in command.params:
            if isinstance(option.type, click.Choice):
                yield pytest.param(
                    name, max(option.opts, key=len), set(option.type.choices), id=f"{name} {option.name}"
                )


@pytest.mark.parametrize(("command", "option", "offered"), [*choices()])
def test_what_is_offered_is_what_the_library_takes(command, option, offered):
    known = KNOWN.get(f"{command} {option}", KNOWN.get(option))
    assert known is not None, f"say in KNOWN where the choices of {option} come from"
    assert offered == {str(each) for each in known}
