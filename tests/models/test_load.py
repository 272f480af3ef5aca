import os
from pathlib import Path

import pytest

from embedsvc import fetching
from embedsvc.errors import ModelFormatError, UnknownNameError
from embedsvc.models import load
from embedsvc.models.base import LoadOptions
from embedsvc.models.fake import FakeEncoder
from embedsvc.models.load import LOADERS, SCHEMES, load_model, recognise


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, LoadOptions]]:
    """Scheme, location and options that loaders are called with; none of them loads anything."""
    made: list[tuple[str, str, LoadOptions]] = []

    def loader(scheme: str):
        def call(location: str, options: LoadOptions) -> FakeEncoder:
            made.append((scheme, location, options))
            return FakeEncoder()

        return call

    monkeypatch.setattr(load, "LOADERS", {scheme: loader(scheme) for scheme in SCHEMES})
    monkeypatch.setattr(load, "import_tensorflow", lambda: None)
    return made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder(path: Path, *names: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).touch()
    return path


# --- which loader gets what ---


def test_every_scheme_has_a_loader_and_is_described():
    assert sorted(LOADERS) == sorted(SCHEMES)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_hands_its_location_to_its_loader(calls, here, scheme):
    load_model(f"{scheme}:some/place", rate=0.3, trust=True)
    assert calls == [(scheme, "some/place", LoadOptions(trust=True, rate=0.3))]


def test_a_location_may_hold_colons(calls, here):
    load_model("hub:https://tfhub.dev/x/1")
    assert calls[0][:2] == ("hub", "https://tfhub.dev/x/1")


def test_options_can_be_given_as_an_object_and_changed_by_name(calls, here):
    load_model("hf:x", LoadOptions(rate=0.3, dropout_layer="d"), rate=0.2)
    assert calls[0][2] == LoadOptions(rate=0.2, dropout_layer="d")


@pytest.mark.parametrize(
    ("names", "scheme"),
    [
        (["saved_model.pb", "keras_metadata.pb"], "savedmodel"),
        (["saved_model.pbtxt"], "savedmodel"),
        (["config.json", "model.safetensors", "vocab.txt"], "hf"),
        (["config.json", "pytorch_model.bin"], "hf"),
        (["config.json", "metadata.json", "task.json", "task.weights.h5", "tokenizer.json"], "kerashub"),
        (["config.json", "metadata.json", "model.weights.h5"], "kerashub"),
        (["config.json", "metadata.json"], "hf"),
        (["config.json", "task.json", "model.weights.h5"], "hf"),
    ],
)
def test_a_folder_is_recognised_by_what_is_in_it(calls, tmp_path, names, scheme):
    path = folder(tmp_path / "model", *names)
    assert recognise(path) == scheme
    load_model(str(path))
    assert calls == [(scheme, str(path), LoadOptions())]


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.hdf5"])
def test_a_file_is_recognised_by_its_suffix(tmp_path, name):
    (tmp_path / name).touch()
    assert recognise(tmp_path / name) == "keras"


def test_a_path_with_a_colon_is_a_path_if_it_is_there(calls, here):
    folder(here / "hf:model", "saved_model.pb")
    load_model("hf:model")
    assert calls[0][:2] == ("savedmodel", "hf:model")


# --- the catalogue ---


def test_a_name_of_the_catalogue_is_fetched_and_keeps_its_name(calls, here, monkeypatch):
    monkeypatch.setattr(fetching, "fetch", lambda named: Path("/fetched") / named.name)
    load_model("minilm-l6")
    assert calls == [("hf", os.path.join("/fetched", "minilm-l6"), LoadOptions(rate=0.1, name="minilm-l6"))]


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_rate_of_a_named_model_can_be_chosen(calls, here, monkeypatch, rate):
    monkeypatch.setattr(fetching, "fetch", lambda named: Path("/fetched") / named.name)
    load_model("minilm-l6", rate=rate)
    assert calls[0][2].rate == rate


def test_a_folder_does_not_take_the_name_of_the_catalogue(calls, here, monkeypatch):
    monkeypatch.setattr(fetching, "fetch", lambda named: Path("/fetched") / named.name)
    folder(here / "minilm-l6", "saved_model.pb")
    load_model("minilm-l6")
    load_model("./minilm-l6")
    assert [scheme for scheme, *_ in calls] == ["hf", "savedmodel"]


# --- what is not there ---


def test_a_mistyped_name_is_guessed(here):
    with pytest.raises(ModelFormatError) as caught:
        load_model("minilm-16")
    assert str(caught.value) == (
        "no model named 'minilm-16', and no such file or folder\n"
        "Did you mean 'minilm-l6'? Named models: minilm-l6, minilm-l6-sentiment. Or give a path, "
        "or scheme:location with a scheme out of: "
        "fake, hf, hub, keras, kerashub, recurrent, savedmodel. "
        "Download a model of the Hugging Face Hub first: hf download NAME --local-dir FOLDER, then --model FOLDER."
    )


def test_a_path_that_is_not_there_is_named_and_nothing_is_guessed(here):
    with pytest.raises(ModelFormatError, match=r"no model named '/nowhere/at all', and no such.*\nNamed models:"):
        load_model("/nowhere/at all")


def test_a_mistyped_scheme_is_guessed(here):
    with pytest.raises(UnknownNameError, match="no loader named 'hbu'\nDid you mean 'hub'\\? Known: fake, hf"):
        load_model("hbu:/models/x")


@pytest.mark.parametrize("uri", [r"C:\models\bert", "C:/models/bert", "c:bert"])
def test_a_drive_letter_is_no_scheme(here, uri):
    with pytest.raises(ModelFormatError, match="no such file or folder"):
        load_model(uri)


@pytest.mark.parametrize("uri", ["models/bert:v2", "./a:b", r"\\server\share:x"])
def test_a_path_with_a_colon_is_no_scheme(here, uri):
    with pytest.raises(ModelFormatError, match="no such file or folder"):
        load_model(uri)


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"fake"}))
def test_a_scheme_alone_is_told_what_follows_it(calls, here, scheme):
    """An empty location would be the current folder."""
    with pytest.raises(ModelFormatError, match=f"^{scheme}: names no model\n{scheme}: is followed by an? "):
        load_model(f"{scheme}:")
    assert not calls


def test_a_folder_that_holds_no_model_is_listed(tmp_path):
    path = folder(tmp_path / "x", "readme.md", "weights.bin")
    with pytest.raises(
        ModelFormatError, match="holds no model that is known here: found readme.md, weights.bin\nKnown"
    ):
        recognise(path)


def test_an_empty_folder_and_a_full_one_are_listed_shortly(tmp_path):
    with pytest.raises(ModelFormatError, match="found nothing\n"):
        recognise(folder(tmp_path / "empty"))
    with pytest.raises(ModelFormatError, match="found 00, 01, .*, 11\n"):
        recognise(folder(tmp_path / "full", *(f"{n:02}" for n in range(30))))


def test_a_file_of_another_kind_is_no_model(tmp_path):
    (tmp_path / "model.pt").touch()
    with pytest.raises(ModelFormatError, match=r"model\.pt is no model file\nKnown: \.keras, \.h5"):
        recognise(tmp_path / "model.pt")


def test_an_option_that_does_not_exist_is_an_error(here):
    with pytest.raises(TypeError, match="rates"):
        load_model("fake:", rates=0.1)
