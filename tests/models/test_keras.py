"""Finding the head in a Keras file, whatever stands around it, and saying so when there is none."""

import json
import warnings
import zipfile
from importlib import import_module

import numpy as np
import pytest

from embedsvc.errors import EmbedsvcError, ModelError, ModelFormatError, UnknownTapError, UnsafeModelError
from embedsvc.models.base import LoadOptions, forward
from embedsvc.types import Mode, Pass, Text

pytestmark = pytest.mark.tensorflow

WORDS = ["the", "film", "was", "good", "bad"]
TEXTS = ["the film", "good film was", "?", "film the the", "bad"]
TRAINING = Pass(Mode.TRAINING, 0, 7)


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def k(request):
    keras = import_module(request.param)
    keras.utils.set_random_seed(3)
    return keras


@pytest.fixture
def load(tmp_path):
    """Saves a model and loads it as embedsvc does."""

    def save_and_load(model, name="model.keras", **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that HDF5 is legacy
            model.save(tmp_path / name)
        return load_file(tmp_path / name, **options)

    return save_and_load


def load_file(path, **options):
    from embedsvc.models.keras import load

    return load(str(path), LoadOptions(**options))


def run(encoder, tap="pre_dropout", pass_=None, texts=TEXTS):
    return forward(encoder, [Text(text, text) for text in texts], taps=[tap], pass_=pass_).vectors[tap]


def words(k, **options):
    """Strings and their embedded tokens."""
    inputs = k.Input((1,), dtype="string")
    ids = k.layers.TextVectorization(vocabulary=WORDS, **options)(inputs)
    return inputs, k.layers.Embedding(10, 8, embeddings_initializer="normal")(ids)


def pooled(k):
    inputs, x = words(k)
    return inputs, k.layers.Dense(8, activation="tanh")(k.layers.GlobalAveragePooling1D()(x))


def classify(k, inputs, x, **options):
    x = k.layers.Dropout(0.3, name="head")(x)
    return k.Model(inputs, k.layers.Dense(2, name="classifier", **options)(x))


# Where the head is


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_head_in_a_sub_model_is_found(k, load, name):
    body = k.Sequential([k.layers.Embedding(10, 8), k.layers.Dropout(0.2), k.layers.GlobalAveragePooling1D()])
    head = k.Sequential([k.layers.Dense(8), k.layers.Dropout(0.3, name="d"), k.layers.Dense(2)], name="head")
    vectors = k.layers.TextVectorization(vocabulary=WORDS)
    encoder = load(k.Sequential([k.Input((), dtype="string"), vectors, body, head]), name)
    assert [site.rate for site in encoder.spec.sites] == [0.3, 0.2]
    assert encoder.spec.sites[0].path == "head/d"
    assert encoder.spec.taps == {"pre_dropout": 8, "post_dropout": 8, "logits": 2}


def test_layers_that_change_nothing_may_follow_the_dropout(k, load):
    inputs, x = pooled(k)
    x = k.layers.Activation("linear")(k.layers.Flatten()(k.layers.Dropout(0.3)(x)))
    assert "logits" in load(k.Model(inputs, k.layers.Dense(2)(x))).spec.taps


def test_other_layers_behind_the_dropout_cost_the_logits(k, load):
    inputs, x = pooled(k)
    x = k.layers.LayerNormalization()(k.layers.Dropout(0.3, name="head")(x))
    encoder = load(k.Model(inputs, k.layers.Dense(2)(x)))
    assert "logits" not in encoder.spec.taps
    with pytest.raises(UnknownTapError, match="other layers stand between the dropout head and the last dense layer"):
        run(encoder, "logits")


def test_two_dense_layers_behind_the_dropout_cost_the_logits(k, load):
    inputs, x = pooled(k)
    x = k.layers.Dropout(0.3)(x)
    encoder = load(k.Model(inputs, [k.layers.Dense(2, name="tone")(x), k.layers.Dense(3, name="topic")(x)]))
    assert "logits" not in encoder.spec.taps
    assert "several dense layers follow the dropout (tone, topic)" in encoder.spec.notes[0]


def test_two_heads_are_an_error_that_lists_their_paths_and_one_can_be_chosen(k, load):
    inputs, x = pooled(k)
    tone = k.layers.Dense(2)(k.layers.Dropout(0.3, name="tone_dropout")(x))
    topic = k.layers.Dense(3)(k.layers.Dropout(0.4, name="topic_dropout")(x))
    model = k.Model(inputs, [tone, topic])
    with pytest.raises(ModelError, match="several dropouts") as caught:
        load(model)
    assert "tone_dropout (rate 0.3)" in caught.value.hint
    assert "topic_dropout (rate 0.4)" in caught.value.hint
    assert "--dropout-layer" in caught.value.hint
    chosen = load(model, dropout_layer="topic_dropout")
    assert chosen.head.rate == 0.4
    assert chosen.spec.taps["logits"] == 3
    # The other head's dropout decides nothing that is handed out.
    assert [site.modes for site in chosen.spec.sites if site.path == "tone_dropout"] == [()]
    assert chosen.spec.digest != load(model, dropout_layer="tone_dropout").spec.digest


def test_a_dropout_name_that_fits_none_is_an_error_that_lists_them(k, load):
    with pytest.raises(ModelError, match="no dropouts .* fit 'haed'") as caught:
        load(classify(k, *pooled(k)), dropout_layer="haed")
    assert "head (rate 0.3)" in caught.value.hint


def test_a_model_without_dropout_is_an_error(k, load):
    inputs, x = pooled(k)
    with pytest.raises(ModelError, match="no dropout before the last dense layer") as caught:
        load(k.Model(inputs, k.layers.Dense(2)(x)))
    assert "no dropout layer" in caught.value.hint


def test_a_dropout_over_tokens_is_no_head(k, load):
    inputs, x = words(k)
    x = k.layers.GlobalAveragePooling1D()(k.layers.Dropout(0.2, name="over_tokens")(x))
    with pytest.raises(ModelError) as caught:
        load(k.Model(inputs, k.layers.Dense(2)(x)))
    assert "over_tokens (rate 0.2: it drops before pooling" in caught.value.hint


def test_a_model_without_dense_layer_is_an_error(k, load):
    inputs, x = words(k)
    with pytest.raises(ModelError, match="no dense layer"):
        load(k.Model(inputs, k.layers.GlobalMaxPooling1D()(k.layers.Dropout(0.2)(x))))


def test_logits_are_those_before_the_activation(k, load):
    model = classify(k, *pooled(k), activation="sigmoid", use_bias=False)
    encoder = load(model)
    assert encoder.spec.notes == ("Logits are those before the sigmoid of classifier.",)
    assert encoder.head.bias is None
    import tensorflow as tf

    plain = np.asarray(model(tf.constant([["the film"]])))
    np.testing.assert_allclose(1 / (1 + np.exp(-run(encoder, "logits", texts=["the film"]))), plain, atol=1e-6)


def test_a_head_at_rate_zero_says_that_it_drops_nothing(k, load):
    inputs, x = pooled(k)
    encoder = load(k.Model(inputs, k.layers.Dense(2)(k.layers.Dropout(0.0)(x))))
    assert encoder.spec.sites[0].modes == ()
    assert "drops nothing" in encoder.spec.notes[0]
    np.testing.assert_array_equal(run(encoder, "post_dropout", Pass(Mode.HEAD, 0, 1)), run(encoder))


def test_the_digest_sees_the_body_as_well_as_the_head(k, load):
    inputs, x = pooled(k)
    model = classify(k, inputs, x)
    before = load(model, "model.h5").spec.digest
    assert load(model, "model.h5").spec.digest == before
    body = model.layers[-3]
    body.set_weights([weight + 1 for weight in body.get_weights()])
    assert load(model, "model.h5").spec.digest != before


# What is live, and whose masks


def test_a_dropout_called_twice_draws_twice(k, load):
    inputs, x = pooled(k)
    shared = k.layers.Dropout(0.5, name="shared")
    x = k.layers.Concatenate()([shared(x), shared(x)])
    encoder = load(classify(k, inputs, x))
    assert [site.path for site in encoder.spec.sites] == ["head", "shared", "shared#2"]
    first, second = np.split(run(encoder, pass_=TRAINING) == 0, 2, axis=1)
    assert (first != second).any()


def test_dropouts_inside_attention_are_found(k, load):
    inputs, x = words(k)
    x = k.layers.MultiHeadAttention(2, 4, dropout=0.4, name="attention")(x, x)
    encoder = load(classify(k, inputs, k.layers.GlobalAveragePooling1D()(x)))
    assert [site.path for site in encoder.spec.sites] == ["head", "attention/dropout"]
    assert not np.allclose(run(encoder, pass_=TRAINING), run(encoder))


def test_spatial_dropout_drops_whole_features(k, load):
    inputs, x = words(k)
    x = k.layers.SpatialDropout1D(0.5)(x)
    encoder = load(classify(k, inputs, k.layers.GlobalAveragePooling1D()(x)))
    assert encoder.spec.sites[1].kind == "spatial"
    assert encoder.spec.masks == "keyed"
    # Three tokens, one mask: a feature is gone from their mean, or whole.
    still, live = run(encoder)[1], run(encoder, pass_=TRAINING)[1]
    assert set(np.round(live / still, 4)) == {0.0, 2.0}


def test_time_distributed_dropout_draws_for_every_step(k, load):
    inputs, x = words(k)
    x = k.layers.TimeDistributed(k.layers.Dropout(0.5))(x)
    encoder = load(classify(k, inputs, k.layers.GlobalAveragePooling1D()(x)))
    assert encoder.spec.masks == "keyed"
    still, live = run(encoder)[3], run(encoder, pass_=TRAINING)[3]
    assert len(set(np.round(live / still, 4))) > 2
    np.testing.assert_allclose(run(encoder, texts=["the film film"] * 2), run(encoder, texts=["the film film"])[[0, 0]])


def test_gaussian_dropout_and_a_mask_shared_by_the_batch_are_positional(k, load):
    for layer in (k.layers.GaussianDropout(0.3, name="own"), k.layers.Dropout(0.5, (1, 1, 8), name="own")):
        inputs, x = words(k)
        encoder = load(classify(k, inputs, k.layers.GlobalAveragePooling1D()(layer(x))))
        assert encoder.spec.masks == "positional"
        assert encoder.spec.notes == ("Masks of own follow the row's place in its batch, not the text.",)
        live = run(encoder, pass_=TRAINING)
        assert live.tobytes() == run(encoder, pass_=TRAINING).tobytes()
        assert not np.allclose(live, run(encoder))


def test_batch_normalisation_stays_as_it_is_in_training_mode(k, load):
    inputs, x = pooled(k)
    encoder = load(classify(k, inputs, k.layers.BatchNormalization(name="norm")(x)))
    assert encoder.spec.notes == ("Batch normalisation norm keeps its moving averages in every mode.",)
    assert run(encoder, pass_=TRAINING).tobytes() == run(encoder).tobytes()


def test_a_dropout_that_is_always_on_is_off_in_inference(k, load):
    inputs, x = pooled(k)
    encoder = load(classify(k, inputs, k.layers.Dropout(0.5)(x, training=True)))
    assert (run(encoder) != 0).all()
    assert (run(encoder, pass_=TRAINING) == 0).any()


def test_a_dropout_switched_off_in_the_model_is_listed_as_dead(load):
    import tf_keras

    inputs, x = pooled(tf_keras)
    encoder = load(classify(tf_keras, inputs, tf_keras.layers.Dropout(0.5, name="off")(x, training=False)))
    assert encoder.spec.sites[1].path == "off"
    assert encoder.spec.sites[1].modes == ()
    assert run(encoder, pass_=TRAINING).tobytes() == run(encoder).tobytes()


# Texts and tokens


def test_a_fixed_length_is_the_limit(k, load):
    inputs, x = words(k, output_sequence_length=4)
    encoder = load(classify(k, inputs, k.layers.GlobalAveragePooling1D()(x)))
    assert encoder.spec.max_tokens == 4
    result = forward(encoder, [Text("a", "the film was good bad"), Text("b", "the film")], taps=["pre_dropout"])
    assert result.n_tokens.tolist() == [4, 2]
    assert result.truncated.tolist() == [True, False]


def test_a_model_whose_tokens_cannot_be_counted_runs_texts_alone(k, load):
    inputs, x = words(k)
    other = k.layers.TextVectorization(vocabulary=WORDS, split="character")(inputs)
    y = k.layers.Embedding(10, 8)(other)
    x = k.layers.Concatenate()([k.layers.GlobalAveragePooling1D()(x), k.layers.GlobalAveragePooling1D()(y)])
    encoder = load(classify(k, inputs, x))
    assert encoder.tokenize(["the film"]).counts.tolist() == [-1]
    np.testing.assert_array_equal(run(encoder)[0], run(encoder, texts=["the film"])[0])


def test_a_model_that_takes_ids_is_an_error_that_says_what_is_needed(k, load):
    inputs = k.Input((None,), dtype="int32", name="words")
    x = k.layers.GlobalAveragePooling1D()(k.layers.Embedding(10, 8)(inputs))
    with pytest.raises(ModelError, match="takes numbers, not texts") as caught:
        load(classify(k, inputs, x))
    assert "TextVectorization" in caught.value.hint
    assert "vocab.txt" in caught.value.hint


def test_a_bert_without_vocabulary_is_an_error_that_names_it(k, load):
    inputs = [k.Input((None,), dtype="int32", name=name) for name in ("input_word_ids", "input_mask")]
    x = k.layers.GlobalAveragePooling1D()(k.layers.Embedding(10, 8)(inputs[0]), mask=inputs[1])
    with pytest.raises(ModelFormatError, match=r"vocab\.txt"):
        load(classify(k, inputs, x))


def test_a_bert_of_fixed_length_pads_to_it(k, load, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]) + "\n")
    inputs = [k.Input((12,), dtype="int32", name=name) for name in ("input_word_ids", "input_mask")]
    x = k.layers.Flatten()(k.layers.Embedding(10, 2)(inputs[0]))
    encoder = load(classify(k, inputs, x), "bert.h5")
    assert (encoder.spec.max_tokens, encoder.spec.special_tokens) == (12, 2)
    assert len(encoder.spec.vocab_digest) == 64
    assert run(encoder).shape == (5, 24)


def test_texts_run_padded_to_the_next_multiple_of_eight(k, load, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]) + "\n")
    inputs = [k.Input((None,), dtype="int32", name=name) for name in ("input_word_ids", "input_mask")]
    x = k.layers.GlobalAveragePooling1D()(k.layers.Embedding(10, 8)(inputs[0]), mask=inputs[1])
    encoder = load(classify(k, inputs, x))
    tokens = encoder.tokenize(["the " * n for n in (7, 1, 6, 20)])
    shapes = {tuple(rows): arrays[0].shape for rows, arrays in encoder._reader.batches(tokens)}
    assert shapes == {(1, 2): (2, 8), (0,): (1, 16), (3,): (1, 24)}


# Files


def test_no_file_is_an_error():
    with pytest.raises(ModelFormatError, match="is no file"):
        load_file("nowhere.keras")


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize("content", [b"", b"hello, I am a text file", b"PK\x03\x04 but no more", b"\x89HDF\r\n\x1a\n"])
def test_a_foreign_file_is_an_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFormatError, match=name):
        load_file(tmp_path / name)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_torn_file_is_an_error(k, load, tmp_path, name):
    load(classify(k, *pooled(k)), name)
    whole = (tmp_path / name).read_bytes()
    for part in (0.3, 0.9):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ModelFormatError):
            load_file(tmp_path / name)


def test_a_newer_file_says_so(k, load, tmp_path):
    load(classify(k, *pooled(k)))
    with zipfile.ZipFile(tmp_path / "model.keras") as old, zipfile.ZipFile(tmp_path / "newer.keras", "w") as new:
        for name in old.namelist():
            new.writestr(name, json.dumps({"keras_version": "9.1.0"}) if name == "metadata.json" else old.read(name))
    with pytest.raises(ModelFormatError, match=r"Keras 9\.1\.0, newer than 3\."):
        load_file(tmp_path / "newer.keras")


def test_weights_alone_are_no_model(k, tmp_path):
    classify(k, *pooled(k)).save_weights(tmp_path / "only.weights.h5")
    with pytest.raises(ModelFormatError, match="holds no model"):
        load_file(tmp_path / "only.weights.h5")


def test_a_layer_of_ones_own_is_refused(k, load):
    class Own(k.layers.Layer):
        def call(self, x):
            return x

    inputs, x = pooled(k)
    with pytest.raises(EmbedsvcError, match="Own"):
        load(classify(k, inputs, Own()(x)))


def test_a_lambda_layer_is_refused(k, load):
    inputs, x = pooled(k)
    with pytest.raises(UnsafeModelError, match="Lambda"):
        load(classify(k, inputs, k.layers.Lambda(lambda x: x * 2)(x)))


def test_a_lambda_layer_runs_if_trusted(load):
    import keras

    inputs, x = pooled(keras)
    encoder = load(classify(keras, inputs, keras.layers.Lambda(lambda x: x * 2, output_shape=(8,))(x)), trust=True)
    assert run(encoder).shape == (5, 8)
