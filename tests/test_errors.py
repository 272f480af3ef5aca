import inspect
import pickle
import re

import pytest

from embedsvc import errors
from embedsvc.errors import EmbedsvcError, MissingExtraError, UnknownNameError, did_you_mean

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, EmbedsvcError)]


def drawn_tree() -> dict[str, str | None]:
    """Class to base, as the docstring of the module draws it."""
    bases: dict[str, str | None] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)(\w+Error)  ", line)
        if match:
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            bases[match[2]] = above[depth - 1] if depth else None
    return bases


def test_the_docstring_draws_the_tree_as_it_is():
    real = {cls.__name__: None if cls is EmbedsvcError else cls.__bases__[0].__name__ for cls in CLASSES}
    assert drawn_tree() == real


def test_every_error_is_exported():
    assert {cls.__name__ for cls in CLASSES} <= set(errors.__all__)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_is_its_problem_and_on_the_next_line_its_hint(cls):
    assert str(cls("it broke")) == "it broke"
    error = cls("it broke", "Mend it.")
    assert str(error) == "it broke\nMend it."
    assert (error.problem, error.hint) == ("it broke", "Mend it.")


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_the_way_from_another_process(cls):
    error = pickle.loads(pickle.dumps(cls("it broke", "Mend it.")))
    assert type(error) is cls
    assert (error.problem, error.hint) == ("it broke", "Mend it.")


def test_an_unknown_name_is_a_key_error_that_prints_plainly():
    error = UnknownNameError("no metric named 'x'")
    assert isinstance(error, KeyError)
    assert str(error) == "no metric named 'x'"


def test_a_missing_extra_names_the_command_that_installs_it():
    error = MissingExtraError.of("keras_hub", "kerashub")
    assert str(error) == (
        "this needs the package 'keras_hub', which is not installed\nRun: pip install \"embedsvc[kerashub]\""
    )


def test_a_slip_is_answered_with_the_known_name_most_like_it():
    known = ["inference", "training", "Label"]
    assert did_you_mean("trainin", known) == "Did you mean 'training'? "
    assert did_you_mean("LABEL", known) == "Did you mean 'Label'? "
    assert did_you_mean("weather", known) == ""
    assert did_you_mean("train", known, cutoff=0.9) == ""
    assert did_you_mean("anything", []) == ""
