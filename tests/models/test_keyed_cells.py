"""Recurrent layers of Keras in `extract`: masks keyed by the text, the same at every step, where Keras puts them."""

from importlib import import_module

import numpy as np
import pytest

from embedsvc import masks
from embedsvc.models.base import LoadOptions, forward
from embedsvc.types import Mode, Pass, Text

pytestmark = pytest.mark.tensorflow

WORDS = ["the", "film", "was", "good", "bad"]
TEXTS = ["the film", "good film was", "?", "film the the bad was good", "bad"]
TRAINING = Pass(Mode.TRAINING, 0, 7)
SEED, RATE = 7, 0.5


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def k(request):
    keras = import_module(request.param)
    keras.utils.set_random_seed(3)
    return keras


def load(path, model):
    from embedsvc.models.keras import load as load_keras

    model.save(path / "model.keras")
    return load_keras(str(path / "model.keras"), LoadOptions())


def classifier(k, *layers):
    """Text → embedding → layers → dropout → logits."""
    inputs = k.Input((1,), dtype="string")
    x = k.layers.TextVectorization(vocabulary=WORDS)(inputs)
    x = k.layers.Embedding(10, 8, embeddings_initializer="normal")(x)
    for layer in layers:
        x = layer(x)
    return k.Model(inputs, k.layers.Dense(2)(k.layers.Dropout(0.3, name="head")(x)))


def run(encoder, pass_=None, texts=TEXTS):
    return forward(encoder, [Text(text, text) for text in texts], taps=["pre_dropout"], pass_=pass_).vectors[
        "pre_dropout"
    ]


def sites(encoder):
    return {site.path: (site.rate, site.kind) for site in encoder.spec.sites[1:]}


def build(k, name):
    layers = k.layers
    return {
        "simple": lambda: [layers.SimpleRNN(4, dropout=0.3, recurrent_dropout=0.2, name="rnn")],
        "gru": lambda: [layers.GRU(4, dropout=0.3, recurrent_dropout=0.2, name="rnn")],
        "lstm": lambda: [layers.LSTM(4, dropout=0.3, recurrent_dropout=0.2, name="rnn")],
        "lstm whose kernel may be fused": lambda: [layers.LSTM(4, dropout=0.3, name="rnn")],
        "bidirectional": lambda: [layers.Bidirectional(layers.GRU(4, dropout=0.3, recurrent_dropout=0.2), name="both")],
        "stacked layers": lambda: [
            layers.LSTM(4, recurrent_dropout=0.3, return_sequences=True, name="first"),
            layers.SimpleRNN(4, recurrent_dropout=0.2, name="second"),
        ],
        "stacked cells": lambda: [
            layers.RNN(
                [layers.LSTMCell(4, dropout=0.3, name="a"), layers.GRUCell(4, dropout=0.2, name="b")], name="rnn"
            )
        ],
    }[name]()


EXPECTED = {
    "simple": {"rnn/dropout": (0.3, "input"), "rnn/recurrent_dropout": (0.2, "recurrent")},
    "gru": {"rnn/dropout": (0.3, "input"), "rnn/recurrent_dropout": (0.2, "recurrent")},
    "lstm": {"rnn/dropout": (0.3, "input"), "rnn/recurrent_dropout": (0.2, "recurrent")},
    "lstm whose kernel may be fused": {"rnn/dropout": (0.3, "input")},
    "bidirectional": {
        f"both/{way}_gru/{name}": site
        for way in ("forward", "backward")
        for name, site in {"dropout": (0.3, "input"), "recurrent_dropout": (0.2, "recurrent")}.items()
    },
    "stacked layers": {
        "first/recurrent_dropout": (0.3, "recurrent"),
        "second/recurrent_dropout": (0.2, "recurrent"),
    },
    "stacked cells": {"rnn/a/dropout": (0.3, "input"), "rnn/b/dropout": (0.2, "input")},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_masks_of_recurrent_layers_follow_the_text(k, tmp_path, name):
    encoder = load(tmp_path, classifier(k, *build(k, name)))
    assert sites(encoder) == EXPECTED[name]
    assert encoder.spec.masks == "keyed"
    live = run(encoder, TRAINING)
    assert not np.allclose(live, run(encoder))
    for other in (Pass(Mode.TRAINING, 1, 7), Pass(Mode.TRAINING, 0, 8)):
        assert not np.allclose(live, run(encoder, other))
    backwards = run(encoder, TRAINING, TEXTS[::-1])[::-1]
    np.testing.assert_allclose(backwards, live, atol=1e-6)
    alone = np.concatenate([run(encoder, TRAINING, [text]) for text in TEXTS])
    np.testing.assert_allclose(alone, live, atol=1e-6)


def kept(site, units, rate, text):
    """The mask that numpy draws for a text, in the pass TRAINING."""
    return masks.keep(masks.row_keys([text]), seed=7, passes=[0], site=site, units=units, rate=rate)[0, 0]


@pytest.mark.parametrize("arguments", [{"dropout": 0.5}, {"recurrent_dropout": 0.5}, {"dropout": 0.5, "unroll": False}])
def test_a_simple_rnn_is_its_equation_under_one_mask_for_all_steps(k, tmp_path, arguments):
    layer = k.layers.SimpleRNN(6, name="rnn", **arguments)
    model = classifier(k, layer)
    table = model.layers[2].get_weights()[0]
    kernel, recurrent, bias = layer.get_weights()
    encoder = load(tmp_path, model)
    vocabulary = ["", "[UNK]", *WORDS]
    for text in TEXTS[:2]:
        x = table[[vocabulary.index(word) for word in text.split()]]
        on_input = kept(1, 8, 0.5, text) / 0.5 if "dropout" in arguments else np.ones(8)
        on_state = kept(1, 6, 0.5, text) / 0.5 if "recurrent_dropout" in arguments else np.ones(6)
        h = np.zeros(6)
        for step in x:
            h = np.tanh((step * on_input) @ kernel + bias + (h * on_state) @ recurrent)
        np.testing.assert_allclose(run(encoder, TRAINING, [text])[0], h, atol=1e-5)


def test_an_lstm_under_recurrent_dropout_has_a_mask_for_each_gate(k, tmp_path):
    layer = k.layers.LSTM(6, recurrent_dropout=0.5, name="rnn")
    model = classifier(k, layer)
    table = model.layers[2].get_weights()[0]
    kernel, recurrent, bias = layer.get_weights()
    encoder = load(tmp_path, model)
    text = "the film was good"
    x = table[[["", "[UNK]", *WORDS].index(word) for word in text.split()]]
    on_state = kept(1, 4 * 6, 0.5, text).reshape(4, 6) / 0.5
    assert (on_state[0] != on_state[1]).any()
    h = c = np.zeros(6)
    for step in x:
        z = step @ kernel + bias
        z = z.reshape(4, 6) + np.stack(
            [(h * on_state[gate]) @ recurrent[:, 6 * gate : 6 * gate + 6] for gate in range(4)]
        )
        i, f, o = (1 / (1 + np.exp(-z[gate])) for gate in (0, 1, 3))
        c = f * c + i * np.tanh(z[2])
        h = o * np.tanh(c)
    np.testing.assert_allclose(run(encoder, TRAINING, [text])[0], h, atol=1e-5)
