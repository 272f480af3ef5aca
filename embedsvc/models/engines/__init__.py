"""What multiplies the matrices of a BERT: TensorFlow, which is always there, or OpenVINO, which is faster.

An engine gets a shape and weights, and runs batches. Tokens, packing and masks are made outside it (`bert`), so that
every engine computes the same passes under the same masks; contract tests hold them to the same vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib import import_module, util
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import MissingExtraError, SettingsError
from embedsvc.models.quiet import import_tensorflow
from embedsvc.types import Vectors

if TYPE_CHECKING:
    from embedsvc.models.bert import BertConfig

__all__ = ["AUTO", "ENGINES", "Batch", "Engine", "Masks", "Precision", "choose", "make"]

AUTO = "auto"  # the fastest engine that is installed
ENGINES = {
    "openvino": "embedsvc.models.engines.openvino:OpenVinoEngine",
    "tensorflow": "embedsvc.models.engines.tensorflow:TensorFlowEngine",
}


class Precision(StrEnum):
    """Of the matrix products; vectors are float32 always. What each costs and gains: docs/speed.md."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"  # where the processor has instructions for it
    INT8 = "int8"  # weights rounded when loaded, activations as they come, each group of 128 by its own largest

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise SettingsError(f"no precision is called {value!r}", f"Known: {', '.join(cls)}")


class Batch(NamedTuple):
    """Rows of token ids end to end, and where a token sits in the (B, T) grid that attention needs.

    Attributes
    ----------
    ids, positions, rows, to_grid : ndarray of shape (N,), int32
        Of each token: its id, its position in the row, the row, its cell of the grid.
    starts : ndarray of shape (B,), int32
        Where each row's [CLS] is.
    from_grid : ndarray of shape (B * T,), int32
        The token of each cell; padding cells repeat token 0.
    padding : ndarray of shape (B, 1, 1, T), float32
        0, or -1e9 in the padding.
    """

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    rows: NDArray[np.int32]
    starts: NDArray[np.int32]
    to_grid: NDArray[np.int32]
    from_grid: NDArray[np.int32]
    padding: NDArray[np.float32]


class Masks(NamedTuple):
    """Which units stay at every site of the encoder, for one batch.

    Attributes
    ----------
    hidden : ndarray of shape (hidden_rows, N, width), bool
        Embeddings, then attention output and layer output of each layer, then, where there is such a dropout, the
        pooler's input, at the rows' first tokens. Where the config drops nothing, nothing is drawn and any value may
        stand.
    attention : ndarray of shape (n_layers, B, n_heads, T, T), bool
        Attention probabilities; False in the padding.
    """

    hidden: NDArray[np.bool_]
    attention: NDArray[np.bool_]


class Engine(Protocol):
    """A BERT encoder made ready to run; made from (config, weights as `bert.fold` gives them, precision)."""

    def run(self, batch: Batch, masks: Masks | None, taps: Sequence[str]) -> dict[str, Vectors]:
        """One forward pass, in training mode where there are masks; safe to call from several threads.

        Returns
        -------
        mapping of str to ndarray of shape (B, width), float32
        """


def choose(name: str = AUTO, precision: Precision = Precision.FLOAT32) -> str:
    """The engine to run: as named, else OpenVINO where it is installed.

    Raises
    ------
    SettingsError
        For an unknown name, or a precision that the engine lacks.
    MissingExtraError
        If the named engine, or the one that the precision needs, is not installed.
    """
    if name not in (AUTO, *ENGINES):
        raise SettingsError(f"no engine is called {name!r}", f"Known: {AUTO}, {', '.join(ENGINES)}")
    if precision is not Precision.FLOAT32:
        if name == "tensorflow":
            raise SettingsError(
                f"the engine tensorflow has no precision {precision}, it computes in float32",
                f"Leave out --engine, or use --engine openvino, for {precision}.",
            )
        name = "openvino"
    installed = util.find_spec("openvino") is not None
    if name == "openvino" and not installed:
        raise MissingExtraError.of("openvino", "openvino")
    if name == AUTO:
        return "openvino" if installed else "tensorflow"
    return name


def make(name: str, config: BertConfig, weights: Mapping[str, NDArray[np.float32]], precision: Precision) -> Engine:
    """The engine of that name (`choose`), ready to run."""
    if name == "tensorflow":
        import_tensorflow()
    module, _, attribute = ENGINES[name].partition(":")
    engine: Engine = getattr(import_module(module), attribute)(config, weights, precision)
    return engine
