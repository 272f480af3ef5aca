"""TensorFlow's own dropout wrappers, run as they are. Started as a program with TF_USE_LEGACY_KERAS=1.

`cases.npz`: outputs of a wrapped cell, with its weights and the masks it drew. `probes.json`: what each keep
probability masks, seen through a cell that hands on whatever it is given.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow.python.keras.layers.legacy_rnn import rnn_cell_wrapper_impl
from tf_keras.src.layers.rnn import legacy_cell_wrappers

v1 = tf.compat.v1
ROWS, STEPS, WIDTH, UNITS = 3, 5, 4, 6
KEEP = {"input_keep_prob": 0.7, "output_keep_prob": 0.6, "state_keep_prob": 0.5}


def wrapped(wrapper, cell, width, keep, *, variational):
    extra = {"variational_recurrent": True, "input_size": tf.TensorShape([width]), "dtype": tf.float32}
    return wrapper(cell, **keep, **(extra if variational else {}))


class Recorder:
    """Keeps what went in and out of each dropout that a wrapper calls, in order."""

    # Where the two wrappers look their dropout up.
    places = ((rnn_cell_wrapper_impl.nn_ops, "dropout_v2"), (legacy_cell_wrappers.tf.nn, "dropout"))

    def __init__(self):
        self.originals = [getattr(module, name) for module, name in self.places]
        self.calls = []

    def __call__(self, x, rate, seed=None):
        y = self.originals[0](x, rate=rate, seed=seed)
        self.calls.append((x, y))
        return y

    def __enter__(self):
        for module, name in self.places:
            setattr(module, name, self)
        return self

    def __exit__(self, *_):
        for (module, name), original in zip(self.places, self.originals, strict=True):
            setattr(module, name, original)


def masks_of_noise(cell):
    """Masks of a variational wrapper, from the noise that it drew."""
    found = {}
    for kind in ("input", "state", "output"):
        noise = tf.nest.flatten(getattr(cell, f"_recurrent_{kind}_noise"))
        found[kind] = [tf.floor(KEEP[f"{kind}_keep_prob"] + each) for each in noise]
    return found


def lstm_case(variational):
    """`DropoutWrapper(LSTMCell)`: by dynamic_rnn if variational, else unrolled, so that its masks can be seen."""
    x = np.random.default_rng(1).standard_normal((ROWS, STEPS, WIDTH)).astype(np.float32)
    with tf.Graph().as_default(), Recorder() as recorder:
        v1.set_random_seed(5)
        inner = v1.nn.rnn_cell.LSTMCell(UNITS, initializer=v1.random_uniform_initializer(-0.8, 0.8))
        cell = wrapped(v1.nn.rnn_cell.DropoutWrapper, inner, WIDTH, KEEP, variational=variational)
        if variational:
            outputs, last = v1.nn.dynamic_rnn(cell, tf.constant(x), dtype=tf.float32)
            masks = masks_of_noise(cell)
        else:
            steps, last = v1.nn.static_rnn(cell, tf.unstack(tf.constant(x), axis=1), dtype=tf.float32)
            outputs = tf.stack(steps, 1)
            names = ["input", "state", "output"]
            masks = {
                name: [tf.cast(tf.not_equal(y, 0.0), tf.float32) for _, y in recorder.calls[at :: len(names)]]
                for at, name in enumerate(names)
            }
            assert len(recorder.calls) == 3 * STEPS
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            kernel, bias, outputs, masks, last = session.run([inner._kernel, inner._bias, outputs, masks, last])
    # i, j, f, o to Keras' i, f, g, o; the forget bias is added by the cell.
    order = np.concatenate([np.arange(UNITS) + UNITS * gate for gate in (0, 2, 1, 3)])
    kernel, bias = kernel[:, order], bias[order]
    bias[UNITS : 2 * UNITS] += 1
    stacked = {f"{name}_mask": np.stack(value) for name, value in masks.items()}
    return {
        "x": x, "outputs": outputs, "kernel": kernel[:WIDTH], "recurrent_kernel": kernel[WIDTH:], "bias": bias,
        "last_c": last.c, "last_h": last.h, **stacked,
    }  # fmt: skip


def keras_case(kind, variational):
    """`tf.nn.RNNCellDropoutWrapper` around a cell of tf_keras, step by step."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((ROWS, STEPS, WIDTH)).astype(np.float32)
    inner = {
        "simple": tf_keras.layers.SimpleRNNCell,
        "gru": tf_keras.layers.GRUCell,
        "lstm": tf_keras.layers.LSTMCell,
    }[kind](UNITS)
    inner.build((None, WIDTH))
    inner.set_weights([rng.uniform(-0.8, 0.8, weight.shape) for weight in inner.get_weights()])
    tf.random.set_seed(9)
    with Recorder() as recorder:
        cell = wrapped(tf.nn.RNNCellDropoutWrapper, inner, WIDTH, KEEP, variational=variational)
        sizes = tf.nest.flatten(inner.state_size)
        state = [tf.zeros((ROWS, size)) for size in sizes]
        state = state if len(state) > 1 else state[0]
        outputs = []
        for step in range(STEPS):
            y, state = cell(tf.constant(x[:, step]), state)
            outputs.append(y)
    if variational:
        masks = {
            f"{name}_mask": np.stack([each.numpy() for each in value]) for name, value in masks_of_noise(cell).items()
        }
    else:
        kept = [(y.numpy() != 0).astype(np.float32) for _, y in recorder.calls]
        names = ["input", *["state"] * len(sizes), "output"]
        assert len(kept) == len(names) * STEPS
        masks = {
            f"{name}_mask": np.stack([kept[at] for at in range(len(kept)) if names[at % len(names)] == name])
            for name in ("input", "state", "output")
        }
    kernel, recurrent, bias = inner.get_weights()
    return {
        "x": x, "outputs": tf.stack(outputs, 1).numpy(), "kernel": kernel, "recurrent_kernel": recurrent, "bias": bias,
        **masks,
    }  # fmt: skip


# What is masked: seen through a cell that gives back what it gets


class Mirror(v1.nn.rnn_cell.RNNCell):
    """Gives [x, c, h] out, and hands ones on as c and h."""

    @property
    def state_size(self):
        return v1.nn.rnn_cell.LSTMStateTuple(PROBED, PROBED)

    @property
    def output_size(self):
        return 3 * PROBED

    def call(self, inputs, state):
        ones = tf.ones_like(inputs)
        return tf.concat([inputs, *state], 1), v1.nn.rnn_cell.LSTMStateTuple(ones, ones)


class KerasMirror(tf_keras.layers.Layer):
    """The same as a Keras cell, whose states are a list: h first, then c."""

    state_size = property(lambda self: [PROBED, PROBED])
    output_size = property(lambda self: 3 * PROBED)

    def call(self, inputs, states):
        h, c = states
        ones = tf.ones_like(inputs)
        return tf.concat([inputs, c, h], 1), [ones, ones]


PROBED, PROBED_STEPS, PROBED_ROWS, RUNS = 64, 6, 4, 2


def seen(runs):
    """What outputs of shape (run, row, step, 3 * width) show of what was given to the mirror as ones."""
    found = {}
    for at, name in enumerate(("input", "c", "h")):
        part = runs[..., at * PROBED : (at + 1) * PROBED]
        if name != "input":
            part = part[:, :, 1:]  # before the first step there is no state to drop
        dropped = part == 0
        found[name] = {
            "dropped": float(dropped.mean()),
            "scale": float(part.max()),
            "same_at_every_step": bool((dropped == dropped[:, :, :1]).all()),
            "same_for_every_row": bool((dropped == dropped[:, :1]).all()),
            "same_in_every_run": bool((dropped == dropped[:1]).all()),
        }
    return found


def graph_probe(keep, variational):
    with tf.Graph().as_default():
        v1.set_random_seed(3)
        cell = wrapped(v1.nn.rnn_cell.DropoutWrapper, Mirror(), PROBED, keep, variational=variational)
        outputs, state = v1.nn.dynamic_rnn(
            cell, tf.ones((PROBED_ROWS, PROBED_STEPS, PROBED)), dtype=tf.float32,
            initial_state=v1.nn.rnn_cell.LSTMStateTuple(*[tf.ones((PROBED_ROWS, PROBED))] * 2),
        )  # fmt: skip
        with v1.Session() as session:
            return seen(np.stack([session.run(outputs) for _ in range(RUNS)]))


def keras_probe(keep, variational):
    tf.random.set_seed(3)
    cell = wrapped(tf.nn.RNNCellDropoutWrapper, KerasMirror(), PROBED, keep, variational=variational)
    runs = []
    for _ in range(RUNS):
        state, outputs = [tf.ones((PROBED_ROWS, PROBED))] * 2, []
        for _ in range(PROBED_STEPS):
            y, state = cell(tf.ones((PROBED_ROWS, PROBED)), state)
            outputs.append(y)
        runs.append(tf.stack(outputs, 1).numpy())
    return seen(np.stack(runs))


def main(folder):
    cases = {f"wrapper {kind}": lstm_case(kind == "variational") for kind in ("variational", "per step")}
    for cell in ("simple", "gru", "lstm"):
        cases |= {
            f"keras {cell} {kind}": keras_case(cell, kind == "variational") for kind in ("variational", "per step")
        }
    np.savez(
        folder / "cases.npz",
        **{f"{case}/{name}": value for case, found in cases.items() for name, value in found.items()},
    )
    probes = {}
    for wrapper, probe in (("DropoutWrapper", graph_probe), ("RNNCellDropoutWrapper", keras_probe)):
        for name in KEEP:
            for variational in (False, True):
                probes[f"{wrapper} {name}{' variational' if variational else ''}"] = probe({name: 0.5}, variational)
    (folder / "probes.json").write_text(json.dumps(probes, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
