import sys
from importlib.metadata import EntryPoint

import pytest

from embedsvc import registry
from embedsvc.errors import UnknownNameError
from embedsvc.registry import Registry


@pytest.fixture
def shapes() -> Registry[object]:
    return Registry("shape", {"line": "builtins:list", "point": 1})


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two entries of another package, one of them under a name that is taken; the groups that were asked for."""
    asked = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint("circle", "builtins:set", group), EntryPoint("line", "builtins:dict", group)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    return asked


def test_a_name_gives_the_object(shapes):
    assert shapes["point"] == 1
    assert shapes["line"] is list


def test_an_entry_is_imported_when_it_is_asked_for_and_not_before():
    assert "antigravity" not in sys.modules
    jokes = Registry("joke", {"fly": "antigravity:geohash"})
    assert (list(jokes), len(jokes), "fly" in jokes) == (["fly"], 1, True)
    assert "antigravity" not in sys.modules


def test_an_unknown_name_is_an_error_with_a_guess_and_the_known_names(shapes):
    with pytest.raises(UnknownNameError) as caught:
        shapes["lien"]
    assert str(caught.value) == "no shape named 'lien'\nDid you mean 'line'? Known: line, point"


def test_no_guess_is_made_where_nothing_is_near(shapes):
    with pytest.raises(UnknownNameError) as caught:
        shapes["pentagon"]
    assert str(caught.value) == "no shape named 'pentagon'\nKnown: line, point"


def test_it_is_a_mapping(shapes):
    assert dict(shapes) == {"line": list, "point": 1}
    assert shapes.get("lien") is None
    assert shapes.get("lien", 0) == 0
    assert 3 not in shapes


def test_a_new_name_can_be_registered_and_a_taken_one_cannot(shapes):
    shapes.register("circle", "builtins:set")
    assert shapes["circle"] is set
    with pytest.raises(UnknownNameError, match="the shape 'circle' is registered already"):
        shapes.register("circle", dict)
    assert shapes["circle"] is set


def test_other_packages_add_theirs_by_entry_points(shapes, plugged):
    assert list(shapes) == ["line", "point", "circle"]
    assert shapes["circle"] is set
    assert plugged == ["embedsvc.shape"], "the installed packages are searched once"


@pytest.mark.parametrize("ask", [len, list, lambda shapes: "circle" in shapes, lambda shapes: shapes["circle"]])
def test_plug_ins_are_found_whatever_is_asked_first(shapes, plugged, ask):
    assert ask(shapes) in (3, ["line", "point", "circle"], True, set)


def test_a_plug_in_does_not_replace_what_is_ours(shapes, plugged):
    assert "circle" in shapes
    assert shapes["line"] is list


def test_plug_ins_are_not_searched_for_a_name_that_is_ours(shapes, plugged):
    assert shapes["point"] == 1
    assert not plugged


def test_plug_ins_are_among_the_known_names(shapes, plugged):
    with pytest.raises(UnknownNameError, match=r"Did you mean 'circle'\? Known: circle, line, point"):
        shapes["circel"]
