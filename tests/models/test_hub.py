"""``hub:`` on tiny SavedModels built here, and on real ones where EMBEDSVC_TEST_MODELS names their folder."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from embedsvc.errors import FetchError, ModelFormatError, SettingsError, UnsafeModelError
from embedsvc.models.base import LoadOptions, forward
from embedsvc.models.bert import BertRunner
from embedsvc.models.hub import HubEncoder, load, load_recipe, resolve
from embedsvc.models.runner import GraphRunner, buckets
from embedsvc.types import Mode, Pass, Text
from tests.models.tiny_saved_models import call_plainly, save_encoder, save_preprocess

pytestmark = pytest.mark.tensorflow

TEXTS = ["the film was good", "a", "", "The plot was VERY bad , und the actors ?!", "films 日本 unknown \x00 word"]
TRAINING = Pass(Mode.TRAINING, 0, 7)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_preprocess(folder / "preprocess")
    save_encoder(folder / "encoder", 3)
    return folder


@pytest.fixture(scope="module")
def encoder(models: Path) -> HubEncoder:
    return load(str(models / "encoder"), LoadOptions())


def rows(texts: list[str] = TEXTS) -> list[Text]:
    return [Text(f"{text} {len(text)}", text) for text in texts]


def test_a_standard_bert_is_lifted_and_agrees_with_its_graph(models: Path, encoder: HubEncoder) -> None:
    assert isinstance(encoder.runner, BertRunner)
    plain = call_plainly(models / "preprocess", models / "encoder", TEXTS, 32)
    vectors = forward(encoder, rows(), taps=list(plain)).vectors
    assert set(plain) == {"pooled_output", "cls", "mean", "layer.0", "layer.1"}
    for tap, expected in plain.items():
        np.testing.assert_allclose(vectors[tap], expected, atol=1e-5, err_msg=tap)


@pytest.mark.parametrize("activation", ["gelu_tanh", "relu"])
def test_the_activation_is_found_by_trying(models: Path, tmp_path: Path, activation: str) -> None:
    folder = save_encoder(tmp_path / "encoder", 4, activation=activation, rate=0.2)
    found = load(str(folder), LoadOptions(preprocess=str(models / "preprocess"))).runner
    assert isinstance(found, BertRunner)
    assert (found.config.activation, found.config.hidden_rate, found.config.attention_rate) == (activation, 0.2, 0.2)


def test_an_activation_that_fits_none_is_not_lifted(models: Path, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder", 4, activation="swish")
    runner = load(str(folder), LoadOptions(preprocess=str(models / "preprocess"))).runner
    assert isinstance(runner, GraphRunner)


def test_a_lifted_and_a_called_encoder_agree_and_have_digests_of_their_own(models: Path, encoder: HubEncoder) -> None:
    called = load_recipe(str(models / "encoder"), LoadOptions(), lifting=False)
    assert isinstance(called.runner, GraphRunner)
    taps = list(encoder.spec.taps)
    ours, theirs = (forward(model, rows(), taps=taps).vectors for model in (encoder, called))
    for tap in taps:
        np.testing.assert_allclose(ours[tap], theirs[tap], atol=1e-5, err_msg=tap)
    assert [(site.rate, site.modes) for site in called.spec.sites] == [
        (site.rate, site.modes) for site in encoder.spec.sites
    ]
    # Their sites are numbered alike, but a graph pads its rows: masks differ, and so must the name of the model.
    assert called.spec.digest != encoder.spec.digest
    assert called.spec.masks == "keyed"


def test_padding_decides_no_mask(models: Path) -> None:
    called = load_recipe(str(models / "encoder"), LoadOptions(), lifting=False)
    short, long = rows(["a film", "the film was good " * 5])
    alone = forward(called, [short], taps=["pre_dropout"], pass_=TRAINING).vectors["pre_dropout"]
    beside = forward(called, [short, long], taps=["pre_dropout"], pass_=TRAINING).vectors["pre_dropout"]
    np.testing.assert_allclose(beside[:1], alone, atol=1e-6)


def test_buckets_follow_the_length_alone() -> None:
    found = {width: list(map(int, which)) for width, which in buckets(np.array([3, 9, 8, 30, 0]), 20)}
    assert found == {8: [0, 2, 4], 16: [1], 20: [3]}


def test_tokens_are_those_of_the_preprocess_model(models: Path, encoder: HubEncoder) -> None:
    import tensorflow as tf

    model = tf.saved_model.load(str(models / "preprocess"))
    packed = model.bert_pack_inputs([model.tokenize(tf.constant(TEXTS))], seq_length=tf.constant(128))
    ids = encoder.tokenize(TEXTS).ids
    assert ids is not None
    for row, mask, ours in zip(packed["input_word_ids"].numpy(), packed["input_mask"].numpy(), ids, strict=True):
        assert list(row[mask == 1]) == [2, *ours, 3]


def test_texts_that_are_no_utf8_are_read(encoder: HubEncoder) -> None:
    assert forward(encoder, rows(["a \ud800 film"]), taps=["mean"]).n_tokens.tolist() == [5]


def test_no_texts_give_no_vectors(encoder: HubEncoder, models: Path) -> None:
    called = load_recipe(str(models / "encoder"), LoadOptions(), lifting=False)
    for model in (encoder, called):
        assert forward(model, [], taps=["pre_dropout", "mean"]).vectors["mean"].shape == (0, 32)


def test_an_encoder_without_dropout_says_so(models: Path, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder", 4, odd="no dropout")
    for lifting in (True, False):
        spec = load_recipe(str(folder), LoadOptions(preprocess=str(models / "preprocess")), lifting=lifting).spec
        assert not any(site.modes for site in spec.sites[1:])
        assert not any("own dropout is live" in note for note in spec.notes)


def test_the_notes_tell_what_the_user_got(encoder: HubEncoder) -> None:
    notes = " ".join(encoder.spec.notes)
    assert "no logits" in notes
    assert "trainable=True" in notes
    assert encoder.spec.max_tokens == 32


def test_the_one_preprocess_folder_beside_it_is_taken_and_two_are_an_error(models: Path, tmp_path: Path) -> None:
    for name in ("encoder", "preprocess"):
        (tmp_path / name).symlink_to(models / name, target_is_directory=True)
    assert load(str(tmp_path / "encoder"), LoadOptions()).spec.vocab_digest
    (tmp_path / "other_preprocess").symlink_to(models / "preprocess", target_is_directory=True)
    with pytest.raises(SettingsError, match="other_preprocess, preprocess") as caught:
        load(str(tmp_path / "encoder"), LoadOptions())
    assert "--preprocess" in caught.value.hint
    shutil.copytree(models / "encoder", tmp_path / "alone" / "encoder")
    with pytest.raises(SettingsError, match="none lies beside it"):
        load(str(tmp_path / "alone" / "encoder"), LoadOptions())


def test_models_in_each_others_place_are_errors(models: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    pre, encoder = str(models / "preprocess"), str(models / "encoder")
    with pytest.raises(ModelFormatError, match="no tokenize"):
        load(encoder, LoadOptions(preprocess=encoder))
    with pytest.raises(ModelFormatError, match="input_word_ids"):
        load(pre, LoadOptions(preprocess=pre))
    classifier = tf.Module()
    classifier.__call__ = tf.function(tf.strings.length, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(classifier, str(tmp_path / "classifier"))
    with pytest.raises(ModelFormatError, match="savedmodel:"):
        load(str(tmp_path / "classifier"), LoadOptions(preprocess=pre))


def test_a_torn_model_is_an_error_that_names_it(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(models / "encoder", folder)
    data = next((folder / "variables").glob("*.data*"))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ModelFormatError, match=str(folder)) as caught:
        load(str(folder), LoadOptions(preprocess=str(models / "preprocess")))
    assert "embedsvc-" not in str(caught.value), "the temporary copy is nobody's business"


def test_a_hostile_graph_is_refused_before_it_is_loaded(models: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    class Spy(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def tokenize(self, texts: tf.Tensor) -> tf.Tensor:
            return tf.io.read_file(texts[0])

    tf.saved_model.save(Spy(), str(tmp_path / "spy"))
    with pytest.raises(UnsafeModelError, match="ReadFile"):
        load(str(models / "encoder"), LoadOptions(preprocess=str(tmp_path / "spy")))


def test_an_address_is_resolved_into_our_cache(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetched(handle: str) -> str:
        asked.append((handle, os.environ.get("TFHUB_CACHE_DIR", "")))
        return str(models / ("preprocess" if "preprocess" in handle else "encoder"))

    monkeypatch.setattr("tensorflow_hub.resolve", fetched)
    monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)
    options = LoadOptions(preprocess="https://tfhub.dev/x/preprocess/3")
    assert load("https://tfhub.dev/x/bert/4", options).spec.uri == "hub:https://tfhub.dev/x/bert/4"
    assert [handle for handle, _ in asked] == ["https://tfhub.dev/x/bert/4", "https://tfhub.dev/x/preprocess/3"]
    assert all(Path(cache).parts[-2:] == ("embedsvc", "tfhub") for _, cache in asked)
    monkeypatch.setenv("TFHUB_CACHE_DIR", "/mine")
    resolve("https://tfhub.dev/x/bert/4", "encoder")
    assert asked[-1][1] == "/mine"
    with pytest.raises(SettingsError, match="preprocess"):
        load("https://tfhub.dev/x/bert/4", LoadOptions())


def test_an_address_that_cannot_be_fetched_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(handle: str) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("tensorflow_hub.resolve", refused)
    with pytest.raises(FetchError, match="no route to host") as caught:
        resolve("https://tfhub.dev/x/bert/4", "encoder")
    assert "local copy" in caught.value.hint
    monkeypatch.setattr("tensorflow_hub.resolve", lambda handle: "/nowhere/at/all")
    with pytest.raises(FetchError, match="/nowhere/at/all"):
        resolve("https://tfhub.dev/x/bert/4", "encoder")


@pytest.mark.parametrize("handle", ["", "no/such/folder"])
def test_a_folder_that_is_not_there_is_an_error(handle: str) -> None:
    with pytest.raises(ModelFormatError, match="no such folder"):
        resolve(handle, "encoder")


@pytest.mark.parametrize("lifting", [True, False])
def test_the_real_models_give_what_they_give_when_called_plainly(lifting: bool) -> None:
    folder = Path(os.environ.get("EMBEDSVC_TEST_MODELS", "/nonexistent"))
    encoder, preprocess = folder / "minilm_l6_encoder", folder / "bert_en_uncased_preprocess"
    if not (encoder.is_dir() and preprocess.is_dir()):
        pytest.skip("set EMBEDSVC_TEST_MODELS to a folder with minilm_l6_encoder and bert_en_uncased_preprocess")
    texts = [*TEXTS, "Ünïcödé — naïve café 👩‍👩‍👧 שלום e\u0301", "It's (not) a U.S.-made film…", "long " * 100]
    model = load_recipe(str(encoder), LoadOptions(preprocess=str(preprocess)), lifting=lifting)
    assert isinstance(model.runner, BertRunner if lifting else GraphRunner)
    plain = call_plainly(preprocess, encoder, texts, 128)
    vectors = forward(model, rows(texts), taps=list(plain)).vectors
    for tap, expected in plain.items():
        np.testing.assert_allclose(vectors[tap], expected, atol=1e-5, err_msg=tap)
