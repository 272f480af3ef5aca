"""What `inspect` says is what the model does, also where its configuration says otherwise."""

import json
import warnings
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from click.testing import CliRunner

import embedsvc
from embedsvc.cli.inspect import inspect as command
from embedsvc.models.fake import FakeEncoder
from embedsvc.models.observation import Seen, observe
from embedsvc.types import Mode

WORDS = ["the", "film", "was", "good", "bad"]


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def k(request):
    return import_module(request.param)


def inspect_model(path, model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that HDF5 is legacy
        model.save(path / "model.keras")
    return embedsvc.inspect(f"keras:{path / 'model.keras'}", embedsvc.LoadOptions(**options))


def words(k):
    inputs = k.Input((1,), dtype="string")
    ids = k.layers.TextVectorization(vocabulary=WORDS)(inputs)
    return inputs, k.layers.Embedding(10, 12, embeddings_initializer="normal")(ids)


def classify(k, inputs, x, **options):
    return k.Model(inputs, k.layers.Dense(2, **options)(k.layers.Dropout(0.3, name="head")(x)))


def site(found, path):
    return next(site for site in found.sites if site.path == path)


# The numpy encoder


def test_the_fake_encoder_is_seen_as_it_is():
    found = embedsvc.inspect("fake:16", embedsvc.LoadOptions(rate=0.4))
    head, inner = found.sites
    assert head.modes == (Mode.TRAINING, Mode.HEAD)
    assert inner.modes == (Mode.TRAINING,)
    assert head.dropped == pytest.approx(0.4, abs=0.15)
    assert inner.dropped == pytest.approx(0.4, abs=0.1)
    assert inner.shared is False
    assert head.shared is None
    assert found.fit.fits is None


def test_an_encoder_that_is_not_what_it_declares_is_found_out():
    class Liar(FakeEncoder):
        """Declares a dropout and has none."""

        def encode(self, tokens, *, keys, taps, pass_):
            return super().encode(tokens, keys=keys, taps=taps, pass_=embedsvc.Pass())

    found = embedsvc.inspect(Liar())
    assert site(found, "embeddings/dropout").modes == ()
    assert any("declared live in training mode, but nothing was seen" in note for note in found.notes)


def test_an_encoder_that_cannot_be_watched_is_still_tried():
    class Closed(FakeEncoder):
        observe = None

    assert site(embedsvc.inspect(Closed()), "embeddings/dropout").seen == ""

    class Random(Closed):
        def encode(self, tokens, **rest):
            encoded = super().encode(tokens, **rest)
            return {tap: value + np.random.default_rng().random() for tap, value in encoded.items()}

    assert any("random in every mode" in note for note in embedsvc.inspect(Random()).notes)

    class Silent(Closed):
        @property
        def spec(self):
            spec = super().spec
            return replace(spec, sites=spec.sites[:1])

    assert any("no dropout site was seen to be live" in note for note in embedsvc.inspect(Silent()).notes)


def test_observing_stops_when_nothing_new_can_be_seen():
    runs = []

    def run(mode, number):
        runs.append(mode)
        return {"dead": Seen(False, None, False, "x")}

    [found] = observe(run)
    assert found.modes == ()
    assert found.dropped is None
    assert len(runs) < 6


@pytest.mark.parametrize(
    ("masks", "shared"),
    [
        ([[1, 0, 1], [1, 0, 1]], True),
        ([[1, 0, 1], [0, 1, 1]], False),
        ([[1, 1, 1], [1, 1, 1]], None),
        ([[np.nan, 0, 1], [np.nan, 0, np.nan]], True),
        ([[np.nan, 0, 1], [0, np.nan, np.nan]], None),
    ],
)
def test_masks_of_steps_are_compared_where_both_are_known(masks, shared):
    steps = np.array(masks, dtype=np.float32)[:, None]
    [found] = observe(lambda *_: {"a": Seen(True, steps, True, "x")})
    assert found.shared is shared


# Keras


@pytest.mark.tensorflow
def test_kinds_rates_and_sharing_of_keras_dropouts_are_seen(k, tmp_path):
    inputs, x = words(k)
    x = k.layers.Dropout(0.4, name="unit")(x)
    x = k.layers.SpatialDropout1D(0.4, name="spatial")(x)
    x = k.layers.MultiHeadAttention(2, 6, dropout=0.4, name="attention")(x, x)
    found = inspect_model(tmp_path, classify(k, inputs, k.layers.GlobalAveragePooling1D()(x)))
    seen = {each.path: (each.kind, each.shared) for each in found.sites}
    assert seen == {
        "head": ("unit", None),
        "unit": ("unit", False),
        "spatial": ("spatial", True),
        "attention/dropout": ("attention", False),
    }
    for each in found.sites[1:]:
        assert each.modes == (Mode.TRAINING,)
        assert each.dropped == pytest.approx(0.4, abs=0.25), each
        assert each.seen
    assert not any("declared" in note for note in found.notes)


@pytest.mark.tensorflow
def test_the_masks_of_keras_recurrent_layers_are_seen_step_by_step(k, tmp_path):
    inputs, x = words(k)
    x = k.layers.LSTM(12, dropout=0.4, recurrent_dropout=0.4, return_sequences=True, name="lstm")(x)
    x = k.layers.SimpleRNN(12, dropout=0.4, return_sequences=True, name="simple")(x)
    x = k.layers.GRU(12, dropout=0.4, name="gru")(x)
    found = inspect_model(tmp_path, classify(k, inputs, x))
    seen = {each.path: (each.kind, each.shared, each.gates) for each in found.sites[1:]}
    assert seen == {
        "lstm/dropout": ("input", True, 4),
        "lstm/recurrent_dropout": ("recurrent", True, 4),
        "simple/dropout": ("input", True, 1),
        # Where a fused kernel might run, tf_keras drops the whole sequence first, each step for itself.
        "gru/dropout": ("input", k.__name__ == "keras", 1),
    }
    for each in found.sites[1:]:
        assert each.dropped == pytest.approx(0.4, abs=0.2), each


@pytest.mark.tensorflow
def test_a_dropout_that_is_always_on_or_never_is_seen(k, tmp_path):
    inputs, x = words(k)
    x = k.layers.GlobalAveragePooling1D()(k.layers.Dropout(0.4, name="on")(x, training=True))
    found = inspect_model(tmp_path, classify(k, inputs, x))
    if k.__name__ == "keras":  # what a Keras 3 model is called with overrules what its layers were
        assert site(found, "on").modes == (Mode.TRAINING,)
    else:
        assert site(found, "on").modes == (Mode.INFERENCE, Mode.TRAINING)
        assert any("on is live in inference mode too" in note for note in found.notes)
        inputs, x = words(k)
        x = k.layers.GlobalAveragePooling1D()(k.layers.Dropout(0.4, name="off")(x, training=False))
        found = inspect_model(tmp_path, classify(k, inputs, x))
        assert site(found, "off").modes == ()
        assert any("No dropout before the head" in note for note in found.notes)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("activation", "loss", "from_logits", "fits"),
    [(None, "SparseCategoricalCrossentropy", True, True), ("softmax", "SparseCategoricalCrossentropy", True, False)],
)
def test_the_compiled_loss_is_read_and_judged(k, tmp_path, activation, loss, from_logits, fits):
    inputs, x = words(k)
    model = classify(k, inputs, k.layers.GlobalAveragePooling1D()(x), activation=activation)
    model.compile(loss=getattr(k.losses, loss)(from_logits=from_logits))
    found = inspect_model(tmp_path, model)
    assert (found.ending.activation, found.ending.units) == (activation or "linear", 2)
    assert (found.ending.loss, found.ending.from_logits) == (loss, from_logits)
    assert found.fit.fits is fits


@pytest.mark.tensorflow
def test_an_activation_layer_behind_the_last_dense_layer_counts(tmp_path):
    import keras as k

    inputs, x = words(k)
    model = classify(k, inputs, k.layers.GlobalAveragePooling1D()(x))
    model = k.Model(inputs, k.layers.Activation("sigmoid")(model.output))
    model.compile(loss=k.losses.BinaryCrossentropy(from_logits=True))
    found = inspect_model(tmp_path, model)
    assert found.ending.activation == "sigmoid"
    assert found.fit.fits is False


@pytest.mark.tensorflow
def test_a_saved_models_loss_and_a_file_in_hdf5_are_read_too(tmp_path):
    import tf_keras as k

    inputs, x = words(k)
    model = classify(k, inputs, k.layers.GlobalAveragePooling1D()(x), activation="sigmoid")
    model.compile(loss=k.losses.BinaryCrossentropy(from_logits=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "model.h5")
        model.save(tmp_path / "saved")
    for name in ("model.h5", "saved"):
        found = embedsvc.inspect(str(tmp_path / name))
        assert (found.ending.loss, found.ending.from_logits, found.fit.fits) == ("BinaryCrossentropy", True, False), (
            name
        )


# The command


def test_the_command_prints_a_table_and_json():
    shown = CliRunner().invoke(command, ["fake:16"], catch_exceptions=False).output
    assert "embeddings/dropout" in shown
    assert "same at every step" in shown
    found = json.loads(CliRunner().invoke(command, ["fake:16", "--json"], catch_exceptions=False).output)
    assert found["taps"]["pre_dropout"] == 16
    assert [each["path"] for each in found["sites"]] == ["head/dropout", "embeddings/dropout"]
    assert found["sites"][1]["modes"] == ["training"]
