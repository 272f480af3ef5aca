"""Where a recurrent layer drops what, and for how many steps: one value for each system of the field.

Keras, ``LSTM(dropout=p, recurrent_dropout=r)``
    ``RecurrentDropout(input=p, recurrent=r, variational=True, untied=True)``
TF, ``DropoutWrapper(LSTMCell, input_keep_prob=, state_keep_prob=, output_keep_prob=)``
    ``RecurrentDropout(input=, recurrent=, output=)``, and with ``variational_recurrent=True``
    ``RecurrentDropout(input=, recurrent=, output=, variational=True)``
TF, ``RNNCellDropoutWrapper`` around a cell of Keras, whose state dropout takes an LSTM's c as well as its h
    ``RecurrentDropout(input=, state=, output=, variational=)``
Gal & Ghahramani 2016, tied weights
    ``RecurrentDropout(input=p, recurrent=p, variational=True)``
Semeniuta et al. 2016, TF 1's ``LayerNormBasicLSTMCell(dropout_keep_prob=)``
    ``RecurrentDropout(update=p)``

References
----------
Gal & Ghahramani (2016), "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks",
arXiv:1512.05287. Semeniuta, Severyn & Barth (2016), "Recurrent Dropout without Memory Loss", arXiv:1603.05118.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from embedsvc.errors import SettingsError, did_you_mean
from embedsvc.types import check_rate

__all__ = ["KINDS", "SYSTEMS", "RecurrentDropout", "parse_policy"]

# In the order of a layer's sites.
KINDS = ("input", "recurrent", "state", "output", "update")


@dataclass(frozen=True, slots=True)
class RecurrentDropout:
    """Dropout rates of a recurrent layer, each 0 <= rate < 1.

    Parameters
    ----------
    input : float
        Of x_t, before it meets the cell's weights.
    recurrent : float
        Of h_{t-1} where it meets the weights. A GRU goes on from its whole h_{t-1}: nothing is forgotten.
    output : float
        Of h_t on its way to the layer above or the head; the next step sees it whole.
    update : float
        Of the candidate (an LSTM's g_t, a GRU's h̃_t): a dropped unit keeps what it remembers.
    variational : bool
        One mask for all steps of a text, instead of one for each.
    state : float
        Of all that is carried to the next step: h, and an LSTM's c, each under a mask of its own. What is dropped is
        forgotten.
    untied : bool
        A mask of its own for each gate, for `input` and `recurrent` (Gal & Ghahramani's "untied weights").

    Raises
    ------
    SettingsError
        For a rate out of range.
    """

    input: float = 0.0
    recurrent: float = 0.0
    output: float = 0.0
    update: float = 0.0
    variational: bool = False
    state: float = 0.0
    untied: bool = False

    def __post_init__(self) -> None:
        for kind in KINDS:
            check_rate(self.rate(kind))

    def rate(self, kind: str) -> float:
        """The rate of a kind of site."""
        return float(getattr(self, kind))

    def __str__(self) -> str:
        parts = [f"{kind}={self.rate(kind):g}" for kind in KINDS if self.rate(kind)]
        parts += [name for name in ("variational", "untied") if getattr(self, name)]
        return ",".join(parts) or "none"

    @classmethod
    def from_json(cls, data: object) -> RecurrentDropout:
        """From plain JSON.

        Raises
        ------
        SettingsError
            For unknown keys or values of the wrong type.
        """
        if not isinstance(data, Mapping):
            raise SettingsError(f"the dropout is {data!r}, expected rates by name")
        for name, value in data.items():
            _check_name(name)
            is_flag = name in _FLAGS
            if isinstance(value, bool) != is_flag or not isinstance(value, (int, float)):
                raise SettingsError(f"the dropout's {name} is {value!r}, expected {_expected(name)}")
        return cls(**data)


_FLAGS = ("variational", "untied")

SYSTEMS: dict[str, Callable[[float], RecurrentDropout]] = {
    "keras": lambda rate: RecurrentDropout(input=rate, recurrent=rate, variational=True, untied=True),
    "wrapper": lambda rate: RecurrentDropout(input=rate, recurrent=rate, output=rate),
    "gal": lambda rate: RecurrentDropout(input=rate, recurrent=rate, variational=True),
    "semeniuta": lambda rate: RecurrentDropout(update=rate),
}


def parse_policy(text: str) -> RecurrentDropout:
    """A policy out of ``none``, a system with its rate (``gal=0.25``), or rates (``input=0.2,output=0.5,variational``).

    Raises
    ------
    SettingsError
        If it is none of these.

    >>> parse_policy("gal=0.25")
    RecurrentDropout(input=0.25, recurrent=0.25, output=0.0, update=0.0, variational=True, state=0.0, untied=False)
    >>> str(parse_policy("update=0.1,variational"))
    'update=0.1,variational'
    """
    values: dict[str, Any] = {}
    for part in (part.strip() for part in text.split(",")):
        name, equals, value = part.partition("=")
        if part == "none":
            continue
        if name in _FLAGS and not equals:
            values[name] = True
            continue
        _check_name(name)
        try:
            rate = float(value)
        except ValueError as error:
            raise SettingsError(f"the dropout {part!r} has no rate", f"Expected {name}={_expected(name)}.") from error
        if name in SYSTEMS:
            system = SYSTEMS[name](rate)
            values |= {field.name: getattr(system, field.name) for field in fields(system)}
        else:
            values[name] = rate
    return RecurrentDropout.from_json(values)


def _check_name(name: str) -> None:
    known = [*KINDS, *_FLAGS, *SYSTEMS]
    if name not in known:
        guess = did_you_mean(name, known)
        raise SettingsError(f"no recurrent dropout is called {name!r}", f"{guess}Known: {', '.join(known)}")


def _expected(name: str) -> str:
    return "true or false" if name in _FLAGS else "a rate from 0 to below 1"
