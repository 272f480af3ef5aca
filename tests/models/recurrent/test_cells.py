"""The cells against TensorFlow's own, against the equations in numpy, and against TF 1's figures."""

from dataclasses import replace

import numpy as np
import pytest

from embedsvc.models.recurrent.config import RecurrentConfig, initial_weights
from embedsvc.models.recurrent.policy import RecurrentDropout

pytestmark = pytest.mark.tensorflow

RATES = {"input": 0.3, "output": 0.4, "state": 0.5}
RNG = np.random.default_rng(4)


def run(config, weights, x, kept, lengths=None):
    """Outputs of a one-layer network on vectors x of shape (n, steps, width), as its layer gives them for each step."""
    import tensorflow as tf

    from embedsvc.models.recurrent.graph import forward_graph

    n, steps, width = x.shape
    ids = np.arange(n * steps, dtype=np.int32).reshape(n, steps)
    weights = {**weights, "embedding": x.reshape(-1, width)}
    outputs = []
    # The last output of the text cut after each step.
    for step in range(1, steps + 1):
        out = forward_graph(
            config, weights, tf.constant(ids[:, :step]), tf.constant([step] * n), [cut(mask, step) for mask in kept]
        )
        outputs.append(out["pre_dropout"].numpy())
    return np.stack(outputs, 1)


def cut(mask, steps):
    import tensorflow as tf

    return tf.constant(mask[:, :steps] if mask.shape[1] > 1 else mask)


def named(parts):
    return {f"layer.0.{name}": np.asarray(value, np.float32) for name, value in parts.items()}


def shape_of(cell, policy, width=4, units=6, n=3, steps=5):
    return RecurrentConfig(cell, n * steps, embedding=width, units=units, dropout=policy)


CASES = [
    ("wrapper", "lstm", "recurrent"),  # LSTMStateTuple: the filter lets h be dropped and keeps c
    ("keras simple", "simple", "state"),
    ("keras gru", "gru", "state"),
    ("keras lstm", "lstm", "state"),  # a list [h, c]: the filter lets both be dropped
]


@pytest.mark.parametrize("variational", [True, False], ids=["variational", "per step"])
@pytest.mark.parametrize(("case", "cell", "of_state"), CASES)
def test_a_cell_gives_what_tensorflows_wrapper_gives_under_its_masks(oracle, case, cell, of_state, variational):
    found = oracle[0][f"{case} {'variational' if variational else 'per step'}"]
    policy = RecurrentDropout(
        input=RATES["input"], output=RATES["output"], variational=variational, **{of_state: RATES["state"]}
    )
    x = found["x"]
    n, steps, _ = x.shape
    kept = {}
    for kind in ("input", "state", "output"):
        mask = found[f"{kind}_mask"]  # variational: (states, 1, d), one for all rows; else (steps * states, n, d)
        if variational:
            mask = np.broadcast_to(mask.transpose(1, 0, 2)[:, None], (n, 1, *mask.shape[::2]))
        else:
            mask = mask.reshape(steps, -1, n, mask.shape[-1]).transpose(2, 0, 1, 3)
            if kind == "state":  # the wrapper drops what a step hands on, ours what the next step gets
                mask = np.concatenate([np.ones_like(mask[:, :1]), mask[:, :-1]], axis=1)
        kept[kind] = mask.astype(bool)
    if of_state == "recurrent" and variational:
        kept["state"] = kept["state"][:, :, 1:]  # noise is drawn for c too, and not used
    order = ["input", "state", "output"]
    weights = named({name: found[name] for name in ("kernel", "recurrent_kernel", "bias")})
    ours = run(shape_of(cell, policy), weights, x, [kept[kind] for kind in order])
    np.testing.assert_allclose(ours, found["outputs"], atol=1e-6)
    dropped = kept["output"][:, :, 0] == 0
    assert dropped.any()
    assert (ours[np.broadcast_to(dropped, ours.shape)] == 0).all()


def test_tensorflows_wrappers_mask_what_the_docs_say(oracle):
    _, probes = oracle
    hit = {name: {part for part, seen in found.items() if seen["dropped"]} for name, found in probes.items()}
    for variational in ("", " variational"):
        assert hit[f"DropoutWrapper input_keep_prob{variational}"] == {"input"}
        assert hit[f"DropoutWrapper state_keep_prob{variational}"] == {"h"}
        assert hit[f"RNNCellDropoutWrapper input_keep_prob{variational}"] == {"input"}
        assert hit[f"RNNCellDropoutWrapper state_keep_prob{variational}"] == {"h", "c"}
        for wrapper in ("DropoutWrapper", "RNNCellDropoutWrapper"):
            assert hit[f"{wrapper} output_keep_prob{variational}"] == {"input", "c", "h"}, "the mirror's whole output"
    for name, found in probes.items():
        for seen in found.values():
            if seen["dropped"]:
                assert seen["dropped"] == pytest.approx(0.5, abs=0.2)
                assert seen["scale"] == 2
                assert seen["same_at_every_step"] == seen["same_for_every_row"] == ("variational" in name)
                # Called eagerly, the noise is drawn when the wrapper is made, and never again.
                assert (
                    seen["same_in_every_run"] == name.startswith("RNNCell")
                    and "variational" in name
                    or not seen["same_in_every_run"]
                )


def drawn(config, seed=0):
    from embedsvc import masks
    from embedsvc.models.recurrent.drawing import draw_masks
    from embedsvc.types import Mode, Pass

    return draw_masks(config, [5] * 3, masks.row_keys(["a", "b", "c"]), Pass(Mode.TRAINING, 0, seed))


def test_our_masks_have_the_distribution_of_theirs_but_one_for_each_row():
    shared = RecurrentConfig(
        "lstm", 9, embedding=64, units=64, dropout=RecurrentDropout(0.5, 0.5, 0.5, variational=True)
    )
    for kept in drawn(shared):
        assert kept.shape == (3, 1, 1, 64)
        assert kept.mean() == pytest.approx(0.5, abs=0.15)
        assert (kept[0] != kept[1]).any(), "TensorFlow's variational masks are one for the whole batch"
    for kept in drawn(replace(shared, dropout=replace(shared.dropout, variational=False))):
        assert kept.shape == (3, 5, 1, 64)
        assert kept.mean() == pytest.approx(0.5, abs=0.08)
        assert (kept[:, 0] != kept[:, 1]).any()


# Keras


@pytest.mark.parametrize("cell", ["simple", "gru", "lstm"])
def test_weights_of_keras_layers_fit_as_they_are(cell):
    import keras

    layer = {"simple": keras.layers.SimpleRNN, "gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[cell](
        6, return_sequences=True
    )
    x = RNG.standard_normal((3, 5, 4)).astype(np.float32)
    expected = np.asarray(layer(x))
    weights = named(dict(zip(("kernel", "recurrent_kernel", "bias"), layer.get_weights(), strict=True)))
    np.testing.assert_allclose(run(shape_of(cell, RecurrentDropout()), weights, x, []), expected, atol=1e-6)


# Semeniuta et al. 2016: the update alone is dropped


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normed(x, gamma, beta):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * gamma + beta


@pytest.mark.parametrize("cell", ["lstm", "layer_norm_lstm", "gru"])
def test_update_dropout_is_its_equation(cell):
    config = shape_of(cell, RecurrentDropout(update=0.5))
    weights = initial_weights(config, 1)
    for name in weights:
        weights[name] = weights[name] + RNG.normal(0, 0.3, weights[name].shape).astype(np.float32)
    x = RNG.standard_normal((3, 5, 4)).astype(np.float32)
    [kept] = drawn(config)
    kernel, recurrent = (weights[f"layer.0.{name}"] for name in ("kernel", "recurrent_kernel"))
    h = c = np.zeros((3, 6))
    expected = []
    for step in range(5):
        m = kept[:, step, 0] / 0.5
        if cell == "gru":
            bias = weights["layer.0.bias"]
            of_x, of_h = x[:, step] @ kernel + bias[0], h @ recurrent + bias[1]
            z, r = sigmoid(of_x[:, :6] + of_h[:, :6]), sigmoid(of_x[:, 6:12] + of_h[:, 6:12])
            h = z * h + (1 - z) * m * np.tanh(of_x[:, 12:] + r * of_h[:, 12:])
        else:
            a = x[:, step] @ kernel + h @ recurrent
            if cell == "lstm":
                i, f, g, o = np.split(a + weights["layer.0.bias"], 4, axis=1)
            else:
                gamma, beta = weights["layer.0.gamma"], weights["layer.0.beta"]
                i, f, g, o = (normed(part, gamma[at], beta[at]) for at, part in enumerate(np.split(a, 4, axis=1)))
                f = f + 1
            c = sigmoid(f) * c + sigmoid(i) * m * np.tanh(g)
            if cell == "layer_norm_lstm":
                c = normed(c, gamma[4], beta[4])
            h = sigmoid(o) * np.tanh(c)
        expected.append(h)
    np.testing.assert_allclose(run(config, weights, x, [kept]), np.stack(expected, 1), atol=2e-6)


def test_a_dropped_update_leaves_the_memory_as_it_was():
    import tensorflow as tf

    from embedsvc.models.recurrent.cells import run_steps

    units, n, steps = 6, 2, 4
    memory = RNG.standard_normal((n, units)).astype(np.float32)
    z = tf.constant(RNG.standard_normal((steps, n, 4 * units)), tf.float32)
    weights = {
        "recurrent_kernel": tf.constant(RNG.standard_normal((units, 4 * units)), tf.float32),
        # The forget gate wide open: all that could change the memory is the update.
        "bias": tf.constant(np.repeat([0, 60, 0, 0], units), tf.float32),
    }
    lengths, initial = tf.constant([steps] * n), (tf.zeros((n, units)), tf.constant(memory))
    half = np.zeros((1, n, 1, units), np.float32)
    half[..., ::2] = 1
    _, (_, c) = run_steps("lstm", z, weights, {"update": half}, lengths=lengths, n_states=2, initial=initial)
    np.testing.assert_array_equal(c.numpy()[:, 1::2], memory[:, 1::2])
    assert (c.numpy()[:, ::2] != memory[:, ::2]).all()
    # What the other systems do to the same memory: dropped state is forgotten.
    state = np.stack([np.ones((1, n, units)), half[:, :, 0]], 2).astype(np.float32)
    _, (_, c) = run_steps("lstm", z, weights, {"state": state}, lengths=lengths, n_states=2, initial=initial)
    assert (np.abs(c.numpy()[:, 1::2] - memory[:, 1::2]) > 1e-3).all()


def test_tensorflow_1s_layer_norm_cell_gave_these_figures():
    """Expected values of tensorflow/contrib/rnn/python/kernel_tests/rnn_cell_test.py (TF 1.15), weights constant."""
    import tensorflow as tf

    from embedsvc.models.recurrent.cells import project, run_steps

    def one_step(cell, x, c, h, weight, update=None):
        units = len(c)
        weights = {"recurrent_kernel": tf.fill([units, 4 * units], weight)}
        if cell == "layer_norm_lstm":
            weights |= {"gamma": tf.ones([5, units]), "beta": tf.zeros([5, units])}
        else:  # its forget bias of 1 is a part of ours
            weights |= {"bias": tf.constant(np.repeat([0, 1, 0, 0], units), tf.float32)}
        z = project(tf.constant([[x]], tf.float32), tf.fill([len(x), 4 * units], weight), None)
        masks = {} if update is None else {"update": tf.constant(np.array(update, np.float32)[None, None, None])}
        initial = (tf.constant([h], tf.float32), tf.constant([c], tf.float32))
        y, (_, c) = run_steps(cell, z, weights, masks, lengths=tf.constant([1]), n_states=2, initial=initial)
        return y.numpy()[0, 0], c.numpy()[0]

    h, c = one_step("layer_norm_lstm", [1.0, 1.0], [0.0, 0.1], [0.2, 0.3], 0.5)
    np.testing.assert_allclose(h, [-0.38079708, 0.38079708], atol=1e-5)
    np.testing.assert_allclose(c, [-1.0, 1.0], atol=1e-4)
    # layer_norm=False, keep 0.5, all weights 1: a unit is one of two, kept or dropped.
    h, c = one_step("lstm", [1.0] * 5, [1.0] * 5, [1.0] * 5, 1.0, update=[2, 0, 2, 0, 0])
    np.testing.assert_allclose(c, np.where([1, 0, 1, 0, 0], 2.9998924946, 0.999983298578), atol=2e-5)
    np.testing.assert_allclose(h, np.where([1, 0, 1, 0, 0], 0.995008519604, 0.761552567265), atol=2e-5)
