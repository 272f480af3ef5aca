"""Whether the loss a classifier was compiled with fits what its last layer gives.

Cross-entropy wants logits. Keras' losses take probabilities by default and are told otherwise by ``from_logits=True``;
a model that ends in a sigmoid or softmax and a loss that expects logits, or the other way round, train to something,
and nothing says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Ending", "Fit", "fit", "read_loss"]

_BINARY, _ONE_OF_MANY = "binary cross-entropy", "categorical cross-entropy"
_CROSS_ENTROPIES = {
    "binarycrossentropy": _BINARY,
    "bce": _BINARY,
    "bcewithlogits": _BINARY,
    "binaryfocalcrossentropy": _BINARY,
    "categoricalcrossentropy": _ONE_OF_MANY,
    "sparsecategoricalcrossentropy": _ONE_OF_MANY,
    "categoricalfocalcrossentropy": _ONE_OF_MANY,
    "crossentropy": _ONE_OF_MANY,
}
# Written by Keras as functions, these cannot carry from_logits; the classes can.
_CLASSES = {_BINARY: "BinaryCrossentropy", _ONE_OF_MANY: "SparseCategoricalCrossentropy"}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a classifier ends.

    Attributes
    ----------
    activation : str or None
        Of its last layer, as Keras names it; None where there is no trained head.
    units : int or None
        Width of its output.
    loss : str or None
        Name of the loss it was compiled with; None where the file holds none.
    from_logits : bool or None
        Whether that loss was told to expect logits.
    """

    activation: str | None = None
    units: int | None = None
    loss: str | None = None
    from_logits: bool | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """A verdict: `fits` is None where nothing can be said; `what` is wrong or right, `fix` is one line."""

    fits: bool | None
    what: str
    fix: str = ""


def fit(ending: Ending) -> Fit:
    """Judge the end of a classifier.

    >>> fit(Ending("sigmoid", 1, "BinaryCrossentropy", True)).fix
    'Dense(1) without an activation, and keep from_logits=True'
    """
    activation, units = ending.activation, ending.units
    if activation is None:
        return Fit(None, "the model has no trained head")
    if activation == "softmax" and units == 1:
        return Fit(
            False,
            "a softmax over one unit is 1.0 whatever the text: the model can learn nothing",
            "Dense(1) without an activation, and BinaryCrossentropy(from_logits=True)",
        )
    kind = None if ending.loss is None else _CROSS_ENTROPIES.get(_plain(ending.loss))
    if ending.loss is None:
        return Fit(None, f"the file holds no loss; the head gives {_gives(activation)}", _advice(activation, units))
    if kind is None:
        return Fit(None, f"the loss {ending.loss} is no cross-entropy that is known here")
    if kind is _BINARY and activation == "softmax":
        return Fit(
            False,
            "a binary loss asks about each class alone, but softmax lets the classes share one probability",
            f"Dense({units}) without an activation, and SparseCategoricalCrossentropy(from_logits=True)",
        )
    if kind is _ONE_OF_MANY and (activation == "sigmoid" or units == 1):
        return Fit(
            False,
            "a categorical loss wants one probability shared by two classes or more",
            "Dense(1) without an activation, and BinaryCrossentropy(from_logits=True)"
            if units == 1
            else f"Dense({units}) without an activation, and {_CLASSES[kind]}(from_logits=True)",
        )
    if activation in {"sigmoid", "softmax"} and ending.from_logits:
        return Fit(
            False,
            f"the loss expects logits and gets probabilities, so the {activation} is applied twice (Keras takes one "
            "back, with a warning, only where the loss sees the very tensor of the activation)",
            f"Dense({units}) without an activation, and keep from_logits=True",
        )
    if activation == "linear" and not ending.from_logits:
        return Fit(
            False,
            "the loss expects probabilities and gets logits: outside 0 to 1 they are clipped, and teach nothing",
            f"{ending.loss if _is_class(ending.loss) else _CLASSES[kind]}(from_logits=True)",
        )
    if activation in {"sigmoid", "softmax"}:
        return Fit(
            True,
            f"probabilities into a loss of probabilities; where Keras cannot see the {activation} behind them, the "
            "loss is capped and its gradient 0 beyond |logit| of about 16",
            f"Better: Dense({units}) without an activation, and from_logits=True",
        )
    if activation == "linear":
        return Fit(True, "logits into a loss of logits")
    return Fit(None, f"the activation {activation} gives neither logits nor probabilities")


def read_loss(config: object) -> tuple[str | None, bool | None]:
    """Name and ``from_logits`` out of what Keras writes about a compiled loss; of one loss only.

    Parameters
    ----------
    config : object
        The ``loss`` of ``compile_config`` or ``training_config``: a name, or a class with its configuration, in the
        forms of Keras 2 and 3.
    """
    if isinstance(config, str) and config:
        return config, False
    if isinstance(config, list) and len(config) == 1:
        return read_loss(config[0])
    if not isinstance(config, Mapping):
        return None, None
    name, inner = config.get("class_name"), config.get("config")
    if name == "function":
        return (str(inner), False) if isinstance(inner, str) else (None, None)
    if isinstance(name, str) and isinstance(inner, Mapping):
        return name, inner.get("from_logits") is True
    # Several outputs, each with a loss.
    return read_loss(next(iter(config.values()))) if len(config) == 1 and name is None else (None, None)


def _plain(name: str) -> str:
    return name.rpartition(">")[2].replace("_", "").lower()


def _is_class(name: str) -> bool:
    return name[:1].isupper()


def _gives(activation: str) -> str:
    return {"linear": "logits", "sigmoid": "probabilities", "softmax": "probabilities"}.get(
        activation, f"the output of {activation}"
    )


def _advice(activation: str, units: int | None) -> str:
    if activation == "linear":
        return "Train it with a loss of from_logits=True."
    return f"Dense({units}) without an activation, and a loss of from_logits=True, say the same and are exact."
