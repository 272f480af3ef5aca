"""The words of job files are those of the command line and of the public functions: they cannot drift apart."""

import dataclasses
import inspect
from importlib import import_module

import click
import pytest

from embedsvc.extraction import Settings
from embedsvc.jobs.keys import STEP_KEYS, Key
from embedsvc.models.base import LoadOptions
from embedsvc.texts import ReadOptions

KEYS = [pytest.param(kind, key, id=f"{kind}.{key.name}") for kind, keys in STEP_KEYS.items() for key in keys]
# Sets and sources are arguments there; files, formats and what is printed are the job's own business.
ARGUMENTS = {"set", "other-set", "sources"}
NO_KEYS = {"out", "scores", "json", "quiet", "format", "stdin-format", "overwrite", "help"}
FUNCTIONS = {
    "compare": "embedsvc.comparison",
    "cluster": "embedsvc.clustering",
    "project": "embedsvc.projection",
    "stability": "embedsvc.uncertainty",
    "probe": "embedsvc.probing",
    "report": "embedsvc.reporting.run",
}


def options(kind: str) -> dict[str, click.Option]:
    """Options of the command of that name, by the first of their long spellings."""
    command = getattr(import_module(f"embedsvc.cli.{kind}"), kind)
    spelled = {max(param.opts, key=lambda name: name.startswith("--")): param for param in command.params}
    return {name.lstrip("-"): param for name, param in spelled.items() if isinstance(param, click.Option)}


@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_a_key_is_an_option_with_the_same_default(kind: str, key: Key):
    if key.name in ARGUMENTS:
        return
    option = options(kind)[key.name]
    default = option.to_info_dict()["default"]
    if key.kind in ("names", "counts") and isinstance(default, str):
        default = tuple(default.split(","))
    assert (None if default is None else key.default) == (None if key.default is None else default)


@pytest.mark.parametrize("kind", STEP_KEYS)
def test_every_option_is_a_key(kind: str):
    assert set(options(kind)) - NO_KEYS == {key.name for key in STEP_KEYS[kind]} - ARGUMENTS


@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_a_key_becomes_a_parameter_of_the_public_function(kind: str, key: Key):
    if kind == "extract":
        fields = {field.name for each in (Settings, ReadOptions, LoadOptions) for field in dataclasses.fields(each)}
        known = fields | {"sources", "model"}
    else:
        known = set(inspect.signature(getattr(import_module(FUNCTIONS[kind]), kind)).parameters) | {"also"}
    assert key.parameter in known


@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_a_key_refuses_what_the_option_refuses(kind: str, key: Key):
    if key.name in ARGUMENTS:
        return
    type_ = options(kind)[key.name].type
    if isinstance(type_, (click.IntRange, click.FloatRange)):
        assert key.least == type_.min
    if isinstance(type_, click.Choice):
        assert key.choices == tuple(type_.choices)
