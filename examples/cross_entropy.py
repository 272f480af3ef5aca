"""Why not a sigmoid before the loss: the loss and its gradient at one positive text, by the logit the model gives it.

    python examples/cross_entropy.py

For each of the two Keras, five ways to write the same classifier. `loss` is what training sees; `gradient` is that of
the loss by the logit, so 0 means that the text teaches nothing. Exact are log(1 + exp(-logit)) and sigmoid(logit) - 1.
"""

import os
import warnings
from importlib import import_module

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

LOGITS = (-2.0, -8.0, -15.0, -17.0, -20.0, -40.0)

# How the output is made of the logits, and what the loss is told.
WAYS = {
    "logits, from_logits=True": (lambda k, x: x, True),
    "sigmoid layer, from_logits=False": (lambda k, x: k.activations.sigmoid(x), False),
    "sigmoid out of Keras' sight, from_logits=False": (lambda k, x: tf.identity(tf.sigmoid(x)), False),
    "sigmoid out of Keras' sight, from_logits=True": (lambda k, x: tf.identity(tf.sigmoid(x)), True),
    "logits, from_logits=False": (lambda k, x: x, False),
}


def loss_and_gradient(library: str, way: str, logit: float) -> tuple[float, float]:
    """What a positive text with that logit costs, and how the cost moves with the logit."""
    keras = import_module(library)
    output, from_logits = WAYS[way]
    loss = keras.losses.BinaryCrossentropy(from_logits=from_logits)
    x = tf.constant([[logit]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of a sigmoid that it takes back
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(tf.ones((1, 1)), output(keras, x))
    return float(value), float(tape.gradient(value, x)[0, 0])


def table() -> str:
    """All of it, as Markdown."""
    lines = ["| Keras | output and loss | " + " | ".join(f"logit {logit:g}" for logit in LOGITS) + " |"]
    lines.append("| --- | --- |" + " ---: |" * len(LOGITS))
    exact = [(np.log1p(np.exp(-logit)), 1 / (1 + np.exp(-logit)) - 1) for logit in LOGITS]
    rows = [("", "exact", exact)]
    for library, name in (("keras", "3"), ("tf_keras", "2")):
        rows += [(name, way, [loss_and_gradient(library, way, logit) for logit in LOGITS]) for way in WAYS]
    for name, way, cells in rows:
        shown = (f"{value:.2f} ({gradient:.2g})" for value, gradient in cells)
        lines.append(f"| {name} | {way} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(__doc__)
    print(table(), end="")
