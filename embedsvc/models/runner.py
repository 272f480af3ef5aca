"""Any BERT encoder's own graph as a runner: what `bert.BertRunner` offers, for encoders that cannot be lifted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedsvc.errors import ModelFormatError
from embedsvc.models.draws import Draws
from embedsvc.models.graph import rewritten
from embedsvc.models.observation import Observation, Seen, observe
from embedsvc.models.saved import describe_signatures, open_saved_model
from embedsvc.types import DropoutSite, Mode, Pass, Vectors

__all__ = ["GraphRunner", "buckets"]

_MULTIPLE = 8  # a row is padded to a multiple of this: a function of its own length alone
_WANTED = (
    "hub: wants an encoder such as bert_en_uncased. A whole classifier that takes texts: savedmodel: "
    "A preprocessing model: --preprocess"
)


class GraphRunner:
    """The encoder's own graph, called with rows padded to their bucket, its random nodes drawing from `Draws`.

    Attributes
    ----------
    taps : tuple of str
        What `run` can hand out, all of `width`.
    variables : dict of str to Variable
        Of the SavedModel, by name.
    max_tokens : int or None
        Length of its position table, if it shows one.
    ranks : dict of int to int
        Site of `draws` to the rank of what it drops.
    notes : list of str
    """

    def __init__(self, model: Any, draws: Draws, folder: Path) -> None:
        self.model = model
        self.draws = draws
        self.taps: tuple[str, ...] = ()
        self.width = 0
        self.notes: list[str] = []
        self.ranks: dict[int, int] = {}
        self._takes_training = True
        self._draws_in_inference = False
        self._folder = folder
        self._graphs: dict[tuple[tuple[str, ...], bool], Any] = {}
        self.variables = {variable.name: variable for variable in getattr(model, "variables", ())}
        positions = [
            int(variable.shape[0])
            for name, variable in self.variables.items()
            if "position_embedding" in name and variable.shape.rank == 2
        ]
        self.max_tokens = positions[0] if len(positions) == 1 else None

    @classmethod
    def open(cls, folder: Path) -> GraphRunner:
        """Load an encoder that was scanned before."""
        draws = Draws()
        with rewritten(folder, draws) as copy:
            return cls(open_saved_model(copy, shown=folder), draws, folder)

    def try_out(self, ids: Sequence[NDArray[np.int32]]) -> None:
        """Run it in each mode: learns its outputs and its live dropouts.

        Parameters
        ----------
        ids : sequence of ndarray of shape (n_i,), int32
            At least three rows with special tokens.

        Raises
        ------
        ModelFormatError
            If it does not take BERT's three inputs or gives no pooled_output.
        """
        arrays = _padded(ids, max(map(len, ids)))
        out = self._first_call(*arrays)
        if not isinstance(out, Mapping) or "pooled_output" not in out:
            given = ", ".join(sorted(out)) if isinstance(out, Mapping) else "a single tensor"
            raise ModelFormatError(f"{self._folder} gives no pooled_output: it gives {given}", _WANTED)
        self.width = int(out["pooled_output"].shape[-1])
        sequence, layers = out.get("sequence_output"), out.get("encoder_outputs") or ()
        self.taps = ("pooled_output",)
        if sequence is not None and sequence.shape[-1] == self.width:
            self.taps += ("cls", "mean")
        if all(layer.shape[-1] == self.width for layer in layers):
            self.taps += tuple(f"layer.{layer}" for layer in range(len(layers)))
        if self._takes_training:
            self._learn_dropouts(arrays)
        self.notes += self._remarks()

    def _learn_dropouts(self, arrays: Sequence[NDArray[np.int32]]) -> None:
        logs = []
        for n in (2, 3):  # two row counts, so that a folded axis is not taken for the batch
            with self.draws.during(np.arange(n, dtype=np.uint64), Pass(Mode.TRAINING, 0, 0)) as asked:
                self._graph(self.taps, True)(*(array[:n] for array in arrays))
            logs.append((n, asked))
            self.ranks |= {site: len(shape) for site, shape in asked}
        self.draws.settle(logs)

    def _remarks(self) -> list[str]:
        remarks = []
        if not self._takes_training:
            remarks.append("The encoder cannot be called in training mode: its own dropout is never live.")
        elif not self.draws.live:
            remarks.append("The encoder has no dropout that training mode switches on.")
        if self._draws_in_inference:
            remarks.append("The encoder draws random numbers in inference mode too; they are the same each time.")
        if not self.draws.repeatable:
            remarks.append(
                "The encoder's graph draws numbers that cannot be repeated, so a training pass cannot either."
            )
        elif self.draws.masks == "positional":
            remarks.append(
                "Some dropouts of the encoder's graph mix the rows: its masks follow the place in the batch."
            )
        return remarks

    def sites(self, head_rate: float) -> tuple[DropoutSite, ...]:
        """The head's dropout, and those of the graph."""
        return (DropoutSite("head/dropout", head_rate, (Mode.TRAINING, Mode.HEAD)), *self.draws.dropout_sites())

    def observe(self, ids: NDArray[np.int32]) -> list[Observation]:
        """See `Observable`; `ids` is one row with special tokens."""

        def run(mode: Mode, number: int) -> dict[str, Seen]:
            pass_ = Pass(mode, number, 0) if mode.stochastic else Pass()
            with self.draws.watched() as drawn:
                self.run([ids], keys=np.ones(1, dtype=np.uint64), taps=self.taps[:1], pass_=pass_)
            return self.draws.seen(drawn)

        return observe(run)

    def run(
        self, ids: Sequence[NDArray[np.int32]], *, keys: NDArray[np.uint64], taps: Sequence[str], pass_: Pass
    ) -> dict[str, Vectors]:
        """One pass over one batch; see `bert.BertRunner.run`."""
        graph = self._graph(tuple(taps), pass_.mode is Mode.TRAINING)
        vectors = {tap: np.empty((len(ids), self.width), dtype=np.float32) for tap in taps}
        lengths = np.fromiter((len(row) for row in ids), dtype=np.int64, count=len(ids))
        for width, rows in buckets(lengths, self.max_tokens):
            with self.draws.during(keys[rows], pass_):
                out = graph(*_padded([ids[row] for row in rows], width))
            for tap in taps:
                vectors[tap][rows] = out[tap].numpy()
        return vectors

    def _call(self, inputs: Any, training: bool) -> Any:
        return self.model(inputs, training=training) if self._takes_training else self.model(inputs)

    def _first_call(self, ids: NDArray[np.int32], mask: NDArray[np.int32]) -> Any:
        """What it gives in inference mode, called with a training argument if it takes one."""
        if not callable(self.model):
            raise ModelFormatError(
                f"{self._folder} cannot be called: it is no TF2 encoder. {describe_signatures(self.model)}", _WANTED
            )
        problem: Exception | None = None
        for self._takes_training in (True, False):
            try:
                with self.draws.during(np.arange(len(ids), dtype=np.uint64), Pass()) as asked:
                    out = self._call(_inputs(ids, mask), False)
            except (TypeError, ValueError, tf.errors.OpError) as error:
                problem = error
            else:
                self._draws_in_inference = bool(asked)
                return out
        raise ModelFormatError(
            f"{self._folder} does not take input_word_ids, input_mask and input_type_ids. "
            f"{describe_signatures(self.model)}",
            _WANTED,
        ) from problem

    def _graph(self, taps: tuple[str, ...], training: bool) -> Callable[..., Any]:
        """The compiled call that gives these taps."""
        if (taps, training) not in self._graphs:

            def call(ids: Any, mask: Any) -> dict[str, Any]:
                out = self._call(_inputs(ids, mask), training)
                return {tap: tf.cast(_tap(out, tap, mask), tf.float32) for tap in taps}

            signature = [tf.TensorSpec([None, None], tf.int32)] * 2
            compiled = tf.function(call, input_signature=signature, autograph=False)
            self._graphs[taps, training] = compiled.get_concrete_function()
        graph: Callable[..., Any] = self._graphs[taps, training]
        return graph


def buckets(lengths: NDArray[np.int64], limit: int | None) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Rows that run together, as (width, rows): the width is the row's own length, rounded up to a multiple of 8.

    So what a row draws depends on the row alone, whatever the lengths of its batch mates.
    """
    widths = -(-np.maximum(lengths, 1) // _MULTIPLE) * _MULTIPLE
    if limit is not None:
        widths = np.minimum(widths, limit)
    for width in np.unique(widths):
        yield int(width), np.flatnonzero(widths == width)


def _padded(ids: Sequence[NDArray[np.int32]], width: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    rows = np.zeros((len(ids), width), dtype=np.int32)
    mask = np.zeros_like(rows)
    for row, given in enumerate(ids):
        rows[row, : len(given)] = given
        mask[row, : len(given)] = 1
    return rows, mask


def _inputs(ids: Any, mask: Any) -> dict[str, Any]:
    ids = tf.convert_to_tensor(ids)
    return {"input_word_ids": ids, "input_mask": tf.convert_to_tensor(mask), "input_type_ids": tf.zeros_like(ids)}


def _tap(out: Mapping[str, Any], tap: str, mask: Any) -> Any:
    if tap == "pooled_output":
        return out[tap]
    if tap == "cls":
        return out["sequence_output"][:, 0]
    layer = out["sequence_output"] if tap == "mean" else out["encoder_outputs"][int(tap.removeprefix("layer."))]
    weights = tf.cast(mask, layer.dtype)[:, :, None]
    return tf.reduce_sum(layer * weights, 1) / tf.reduce_sum(weights, 1)
