"""``embedsvc show`` and ``embedsvc models``."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from embedsvc import Settings, extract_files
from embedsvc.cli import cli
from embedsvc.errors import StoreError
from embedsvc.types import Mode


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("show")
    source = folder / "texts.txt"
    source.write_text("one\ntwo\nthree\n")
    settings = Settings(modes=tuple(Mode), passes=3, seed=5)
    extract_files([str(source)], folder / "set", model="fake:", settings=settings)
    return folder / "set"


def shown(*arguments):
    done = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False, standalone_mode=False)
    return done.stdout


def test_a_set_is_summed_up_in_the_words_of_its_manifest(made):
    out = shown("show", made)
    for words in (
        "texts      3",
        "post_dropout.inference = pre_dropout.inference",
        "post_dropout.head.0 … 2",
        "seed 5",
    ):
        assert words in out


def test_the_whole_manifest_comes_as_json(made):
    assert json.loads(shown("show", made, "--json"))["passes"] == 3


def test_verify_notices_a_changed_part(made, tmp_path):
    assert "every row agrees" in shown("show", made, "--verify")
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    part = copy / "part-00000.parquet"
    raw = bytearray(part.read_bytes())
    # Within the first column's data, behind the four magic bytes: the middle of a small file is its footer.
    raw[len(raw) // 8] ^= 0xFF
    part.write_bytes(raw)
    with pytest.raises(StoreError, match="part-00000"):
        shown("show", copy, "--verify")


def test_models_lists_names_licences_and_schemes():
    out = shown("models")
    for words in ("minilm-l6", "Apache-2.0", "hub:", "savedmodel:", "hf:"):
        assert words in out
    listed = json.loads(shown("models", "--json"))
    assert listed["models"][0]["name"] == "minilm-l6"
