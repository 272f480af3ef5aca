"""JSON of strangers: one reading of it, within bounds, or one clear error."""

import json
import zipfile

import pytest

from embedsvc.errors import ModelFormatError
from embedsvc.models.keras import _read_head
from embedsvc.models.safety import json_files
from embedsvc.models.safety.json_files import parse_json, parse_object, read_json

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1, "a": 2}', "a key appears twice"),
        ('{"a": [{"b": 1, "b": 1}]}', "a key appears twice"),
        (b'{"a": "\xff"}', "invalid start byte"),
        ('{"a": ', "Expecting value"),
        pytest.param(DEEP, "recursion", id="deep"),
    ],
)
def test_what_readers_may_disagree_on_is_refused_with_its_place(content, words):
    with pytest.raises(ModelFormatError, match=rf"^x/config\.json is torn: .*{words}"):
        parse_json(content, "x/config.json")


def test_an_object_is_expected_where_one_is_read():
    assert parse_object(b'{"a": 1}', "x") == {"a": 1}
    with pytest.raises(ModelFormatError, match="x: expected a JSON object, found list"):
        parse_object("[1]", "x")


def test_a_file_is_measured_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"a": "b" * 100}))
    assert read_json(path) == {"a": "b" * 100}
    monkeypatch.setattr(json_files, "_MAX_SIZE", 100)
    with pytest.raises(ModelFormatError, match="has 109 bytes, expected at most 100"):
        read_json(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelFormatError, match=r"absent\.json cannot be read: No such file"):
        read_json(tmp_path / "absent.json")


def test_what_an_archive_says_of_itself_is_read_within_the_same_bounds(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("metadata.json", DEEP)
        archive.writestr("config.json", "{}")
    with pytest.raises(ModelFormatError, match=r"x\.keras, metadata\.json is torn"):
        _read_head(tmp_path / "x.keras", trust=True)
