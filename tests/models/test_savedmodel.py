"""``savedmodel:`` on classifiers saved as TensorFlow's BERT tutorial saves them, and on what is none."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedsvc.errors import ModelError, ModelFormatError, UnsafeModelError
from embedsvc.models.base import LoadOptions, forward
from embedsvc.models.load import load_model
from embedsvc.models.savedmodel import SavedModelEncoder, load
from embedsvc.types import Mode, Pass, Text
from tests.models.tiny_saved_models import PADDED, save_classifier, save_encoder, save_preprocess

pytestmark = pytest.mark.tensorflow

TEXTS = ["the film was good", "a", "", "The plot was VERY bad , und the actors ?!", "good " * 40]
ROWS = [Text(f"row {number}", text) for number, text in enumerate(TEXTS)]
TRAINING = Pass(Mode.TRAINING, 0, 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("live") / "classifier", 3)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> SavedModelEncoder:
    return load(str(folder), LoadOptions())


def save_keras(model: Any, folder: Path) -> str:
    model.save(str(folder), save_format="tf", include_optimizer=False)
    return str(folder)


def bag_of_words(*tail: Any, inputs: Any = None) -> Any:
    """A small Functional classifier of strings with the given layers at its end."""
    import tensorflow as tf
    import tf_keras as keras

    vectorize = keras.layers.TextVectorization(output_mode="multi_hot", vocabulary=["film", "good", "bad"])
    x = vectorize(texts := keras.Input((), dtype=tf.string) if inputs is None else inputs)
    x = keras.layers.Dense(16, activation="relu", name="hidden")(x)
    for layer in tail:
        x = layer(x)
    return keras.Model(texts, x)


def test_a_plain_path_to_it_is_enough(folder: Path, encoder: SavedModelEncoder) -> None:
    assert load_model(str(folder)).spec == encoder.spec
    assert encoder.spec.uri == f"savedmodel:{folder}"


def test_logits_and_taps_are_those_of_the_model_as_saved(folder: Path, encoder: SavedModelEncoder) -> None:
    import tensorflow as tf
    import tf_keras as keras

    model = keras.models.load_model(str(folder), compile=False)
    parts = keras.Model(model.inputs, [model.get_layer("BERT_encoder").output, model.get_layer("preprocessing").output])
    out, packed = parts(tf.constant(TEXTS))
    mask = packed["input_mask"].numpy()[:, :, None]
    expected = {
        "logits": model(tf.constant(TEXTS)).numpy(),
        "pre_dropout": out["pooled_output"].numpy(),
        "pooled_output": out["pooled_output"].numpy(),
        "cls": out["sequence_output"].numpy()[:, 0],
        "mean": (out["sequence_output"].numpy() * mask).sum(1) / mask.sum(1),
        "layer.0": (out["encoder_outputs"][0].numpy() * mask).sum(1) / mask.sum(1),
        "layer.1": (out["encoder_outputs"][1].numpy() * mask).sum(1) / mask.sum(1),
    }
    assert set(encoder.spec.taps) == {*expected, "post_dropout"}
    vectors = forward(encoder, ROWS, taps=list(expected)).vectors
    for tap, value in expected.items():
        np.testing.assert_allclose(vectors[tap], value, atol=1e-5, err_msg=tap)


def test_tokens_are_counted_by_its_own_tokenizer_and_its_padding_is_told(encoder: SavedModelEncoder) -> None:
    result = forward(encoder, ROWS, taps=["pre_dropout"])
    assert result.n_tokens.tolist() == [6, 3, 2, 14, PADDED]
    assert result.truncated.tolist() == [False, False, False, False, True]
    assert encoder.tokenize(TEXTS).counts[-1] == 40
    assert any(f"{PADDED} tokens" in note for note in encoder.spec.notes)
    assert encoder.spec.vocab_digest


def test_the_head_and_the_dropouts_inside_the_graph_are_sites(encoder: SavedModelEncoder) -> None:
    head, *inside = encoder.spec.sites
    assert (head.path, head.rate, head.modes) == ("head_dropout", 0.2, (Mode.TRAINING, Mode.HEAD))
    assert len(inside) == 7
    assert all(site.rate == 0.1 and site.modes == (Mode.TRAINING,) for site in inside)
    assert encoder.spec.masks == "keyed"


def test_a_training_pass_is_a_function_of_the_row(encoder: SavedModelEncoder) -> None:
    together = forward(encoder, ROWS, taps=["pre_dropout"], pass_=TRAINING).vectors["pre_dropout"]
    for number, row in enumerate(ROWS):
        alone = forward(encoder, [row], taps=["pre_dropout"], pass_=TRAINING).vectors["pre_dropout"]
        np.testing.assert_allclose(alone[0], together[number], atol=1e-5)


def test_a_frozen_encoder_has_no_live_dropout_and_says_so(tmp_path: Path) -> None:
    frozen = load(str(save_classifier(tmp_path / "classifier", 3, trainable=False)), LoadOptions())
    still = forward(frozen, ROWS, taps=["pre_dropout"]).vectors["pre_dropout"]
    trained = forward(frozen, ROWS, taps=["pre_dropout"], pass_=TRAINING).vectors["pre_dropout"]
    assert trained.tobytes() == still.tobytes()
    assert len(frozen.spec.sites) == 8
    assert all(site.modes == () for site in frozen.spec.sites[1:])
    assert any("frozen" in note for note in frozen.spec.notes)


def test_a_dropout_that_mixes_rows_makes_masks_positional(tmp_path: Path) -> None:
    mixed = load(str(save_classifier(tmp_path / "classifier", 3, odd="folded")), LoadOptions())
    assert mixed.spec.masks == "positional"
    assert any("place in the batch" in note or "place in its batch" in note for note in mixed.spec.notes)
    first, again = (forward(mixed, ROWS, taps=["pre_dropout"], pass_=TRAINING).vectors for _ in range(2))
    assert first["pre_dropout"].tobytes() == again["pre_dropout"].tobytes()


def test_a_classifier_without_graph_dropout_is_tapped_by_its_layers(tmp_path: Path) -> None:
    import tf_keras.layers as layers

    path = save_keras(bag_of_words(layers.Dropout(0.5), layers.Dense(2)), tmp_path / "model")
    spec = load(path, LoadOptions(rate=0.25)).spec
    assert [site.rate for site in spec.sites] == [0.25]
    assert not any("frozen" in note for note in spec.notes), "there is no encoder to be frozen"
    assert spec.taps == {"pre_dropout": 16, "post_dropout": 16, "logits": 2}


def test_several_dropouts_are_listed_and_one_can_be_named(tmp_path: Path) -> None:
    import tf_keras as keras

    layers = keras.layers
    model = bag_of_words(
        layers.Dropout(0.3, name="early"), layers.Dense(8, name="middle"), layers.Dropout(0.2, name="late")
    )
    two = keras.Model(model.inputs, layers.Dense(2, name="out")(layers.Activation("relu")(model.output)))
    path = save_keras(two, tmp_path / "model")
    with pytest.raises(ModelError, match="several") as caught:
        load(path, LoadOptions())
    assert "early" in caught.value.hint
    assert "late" in caught.value.hint
    assert "--dropout-layer" in caught.value.hint
    assert load(path, LoadOptions(dropout_layer="late")).spec.sites[0].path == "late"


def test_no_dropout_before_the_last_dense_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    import tf_keras.layers as layers

    path = save_keras(bag_of_words(layers.Dense(2, name="out")), tmp_path / "model")
    with pytest.raises(ModelError, match="model: no dropout before the last dense layer"):
        load(path, LoadOptions())


def test_other_kinds_of_saved_models_are_told_apart(tmp_path: Path) -> None:
    import tensorflow as tf

    with pytest.raises(ModelFormatError) as caught:
        load(str(save_encoder(tmp_path / "encoder", 1)), LoadOptions())
    assert f"hub:{tmp_path / 'encoder'}" in caught.value.hint
    with pytest.raises(ModelFormatError) as caught:
        load(str(save_preprocess(tmp_path / "preprocess")), LoadOptions())
    assert "--preprocess" in caught.value.hint

    class Plain(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
        def score(self, texts: Any) -> Any:
            return {"length": tf.strings.length(texts)}

    module = Plain()
    tf.saved_model.save(module, str(tmp_path / "plain"), signatures={"score": module.score})
    with pytest.raises(ModelFormatError, match=r"no Keras layers.*score \(words\) -> length"):
        load(str(tmp_path / "plain"), LoadOptions())


def test_a_keras_3_export_lists_what_it_gives(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.1), keras.layers.Dense(2)])
    model.export(str(tmp_path / "export"), verbose=False)
    with pytest.raises(ModelFormatError, match=r"no Keras layers.*serving_default"):
        load(str(tmp_path / "export"), LoadOptions())


def test_a_model_of_numbers_is_an_error_that_lists_its_inputs(tmp_path: Path) -> None:
    import tf_keras as keras

    model = keras.Sequential([keras.Input((4,), name="petals"), keras.layers.Dropout(0.1), keras.layers.Dense(2)])
    with pytest.raises(ModelError, match="takes no texts: its inputs are petals float32"):
        load(save_keras(model, tmp_path / "model"), LoadOptions())


def test_a_subclassed_model_is_an_error(tmp_path: Path) -> None:
    import tensorflow as tf
    import tf_keras as keras

    class Subclassed(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    model = Subclassed()
    model(tf.zeros([1, 3]))
    with pytest.raises(ModelFormatError, match="subclassed"):
        load(save_keras(model, tmp_path / "model"), LoadOptions())


def test_a_lambda_layer_is_refused(tmp_path: Path) -> None:
    import tf_keras.layers as layers

    model = bag_of_words(layers.Lambda(lambda x: x * 2), layers.Dropout(0.5), layers.Dense(2))
    with pytest.raises(UnsafeModelError, match="Lambda"):
        load(save_keras(model, tmp_path / "model"), LoadOptions())


@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index", "keras_metadata.pb"])
def test_a_torn_file_is_an_error_that_names_the_folder(folder: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(folder, tmp_path / "torn")
    data = (tmp_path / "torn" / file).read_bytes()
    (tmp_path / "torn" / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelFormatError, match="torn") as caught:
        load(str(tmp_path / "torn"), LoadOptions())
    assert "embedsvc-" not in str(caught.value), "the temporary copy is nobody's business"


def test_missing_weights_are_an_error_that_names_the_users_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "torn", ignore=shutil.ignore_patterns("variables.*"))
    with pytest.raises(ModelFormatError) as caught:
        load(str(tmp_path / "torn"), LoadOptions())
    assert f"{tmp_path / 'torn' / 'variables'}" in caught.value.problem
    assert "embedsvc-" not in str(caught.value)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="no folder"):
        load(str(tmp_path / "nowhere"), LoadOptions())


def test_the_real_recipe_agrees_with_itself_as_saved(tmp_path: Path) -> None:
    models = Path(os.environ.get("EMBEDSVC_TEST_MODELS", "/nonexistent"))
    if not (models / "minilm_l6_encoder").is_dir():
        pytest.skip("set EMBEDSVC_TEST_MODELS to a folder with minilm_l6_encoder and bert_en_uncased_preprocess")
    import tensorflow as tf
    import tensorflow_hub as hub
    import tensorflow_text  # noqa: F401
    import tf_keras as keras

    texts = keras.Input((), dtype=tf.string)
    packed = hub.KerasLayer(str(models / "bert_en_uncased_preprocess"))(texts)
    out = hub.KerasLayer(str(models / "minilm_l6_encoder"), trainable=True)(packed)
    model = keras.Model(texts, keras.layers.Dense(3)(keras.layers.Dropout(0.1)(out["pooled_output"])))
    encoder = load(save_keras(model, tmp_path / "classifier"), LoadOptions())
    logits = forward(encoder, ROWS, taps=["logits"]).vectors["logits"]
    np.testing.assert_allclose(logits, model(tf.constant(TEXTS)).numpy(), atol=1e-5)
    assert [site.rate for site in encoder.spec.sites] == [0.1] * 20
    assert encoder.spec.masks == "keyed"
