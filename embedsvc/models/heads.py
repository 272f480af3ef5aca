"""Where the head of a Keras classifier is: the dropout before its last dense layer.

The search reads the graph of one trace of the model, so it finds the head wherever it sits: in a Functional or
Sequential model, in a sub-model, behind layers that change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedsvc.errors import ModelError
from embedsvc.head import Head
from embedsvc.losses import Ending
from embedsvc.models.keyed import Call, Dense, Trace

__all__ = ["FoundHead", "find_head", "reached"]

# Ops that hand a matrix on as it is; a reshape only if the shape says so.
_SAME = {"Identity", "StopGradient", "Cast", "Reshape", "Squeeze"}


@dataclass(frozen=True, eq=False)
class FoundHead:
    """The head's dropout, the dense layer right behind it if there is one, and what to tell the user."""

    call: Call
    dense: Dense | None
    notes: tuple[str, ...]
    is_pooled: bool
    ending: Ending

    def head(self, rate: float | None) -> Head:
        """In numpy, at the model's own rate or the given one."""
        rate = self.call.rate if rate is None else rate
        if self.dense is None:
            return Head(rate)
        layer = self.dense.layer
        return Head(rate, _array(layer.kernel), _array(layer.bias) if layer.use_bias else None)


def find_head(trace: Trace, outputs: Iterable[Any], wanted: str | None = None) -> FoundHead:
    """The head of a traced model.

    Parameters
    ----------
    trace : Trace
        With its calls and dense layers.
    outputs : iterable of tensor
        The model's.
    wanted : str, optional
        Name or path of the dropout layer to take.

    Raises
    ------
    ModelError
        If there is no head, or several and none was asked for; the message lists the dropouts with their paths.
    """
    outputs = list(outputs)
    graph = outputs[0].graph
    calls = {
        call.y.op: call
        for call in trace.calls
        if call.kind in {"unit", "spatial", "attention"} and call.y.graph is graph
    }
    denses = {dense.y.op: dense for dense in trace.denses if dense.y.graph is graph}
    lasts = [denses[op] for op in _ancestors(outputs, stop=denses) if op in denses]
    if not lasts:
        raise ModelError(
            "the model has no dense layer at its end, so no classifier's head",
            "A classifier here ends in pooled vector → Dropout → Dense.",
        )
    direct = {id(call): (call, dense) for dense in lasts if (call := _handed_on(dense.x, calls)) is not None}
    before = [calls[op] for op in _ancestors([dense.x for dense in lasts]) if op in calls]
    fitting = [call for call in before if not _unfit(call)]
    if wanted is not None:
        chosen = [call for call in fitting if wanted in {call.path, call.layer.name}]
        if len(chosen) != 1:
            raise ModelError(
                f"{len(chosen) or 'no'} dropouts before the last dense layer fit {wanted!r}", _list(before)
            )
    else:
        chosen = [call for call in fitting if id(call) in direct] or fitting
        if not chosen:
            where = ", ".join(dense.path for dense in lasts)
            raise ModelError(f"no dropout before the last dense layer ({where}) can be the head's", _list(before))
        if len(chosen) > 1:
            raise ModelError("several dropouts may be the head's", _list(before, "Choose with --dropout-layer. "))
    return _describe(chosen[0], lasts, calls, denses, _ending(outputs, lasts, denses))


def reached(tensor: Any) -> set[Any]:
    """The ops that a tensor is made by."""
    return set(_ancestors([tensor]))


def _describe(
    call: Call, lasts: list[Dense], calls: dict[Any, Call], denses: dict[Any, Dense], ending: Ending
) -> FoundHead:
    behind = [dense for dense in lasts if _handed_on(dense.x, calls) is call]
    notes: list[str] = []
    dense = behind[0] if len(behind) == 1 else None
    if dense is None and behind:
        names = ", ".join(other.path for other in behind)
        notes.append(f"There are no logits: several dense layers follow the dropout ({names}).")
    elif dense is None:
        notes.append(
            f"There are no logits: other layers stand between the dropout {call.path} and the last dense layer."
        )
    elif getattr(dense.layer, "quantization_mode", None):
        notes.append(f"There are no logits: the dense layer {dense.path} is quantised.")
        dense = None
    else:
        activation = getattr(dense.layer.activation, "__name__", "linear")
        if activation != "linear":
            notes.append(f"Logits are those before the {activation} of {dense.path}.")
    if call.rate == 0:
        notes.append(f"The head's dropout {call.path} has rate 0: it drops nothing.")
    return FoundHead(call, dense, tuple(notes), _is_pooler(_handed_on(call.x, denses)), ending)


def _ending(outputs: list[Any], lasts: list[Dense], denses: dict[Any, Dense]) -> Ending:
    """What the model's last layer gives, and through which activation: its own, or one of a layer behind it."""
    if len(lasts) != 1:
        return Ending()
    activation = getattr(lasts[0].layer.activation, "__name__", "linear")
    behind = {op.type for op in _ancestors(outputs, stop=denses) if op not in denses}
    own = [name for name, op_type in (("sigmoid", "Sigmoid"), ("softmax", "Softmax")) if op_type in behind]
    return Ending(own[0] if own and activation == "linear" else activation, lasts[0].y.shape[-1])


def _ancestors(tensors: Iterable[Any], stop: Iterable[Any] = ()) -> list[Any]:
    """Ops that lead to the tensors, nearest first; not past those in `stop`."""
    stop = set(stop)
    queue = [tensor.op for tensor in tensors]
    seen = dict.fromkeys(queue)
    for op in queue:
        if op in stop:
            continue
        for before in op.inputs:
            if before.op not in seen:
                seen[before.op] = None
                queue.append(before.op)
    return list(seen)


def _handed_on(x: Any, marks: dict[Any, Any]) -> Any:
    """What in `marks` made this matrix, if nothing has changed it since."""
    while x.op not in marks:
        if x.op.type not in _SAME:
            return None
        before = x.op.inputs[0]
        if before.shape.rank != 2 or x.shape.rank != 2 or before.shape[-1] != x.shape[-1]:
            return None
        x = before
    return marks[x.op]


def _is_pooler(dense: Dense | None) -> bool:
    """Whether this is BERT's pooler: tanh of a dense layer over the first token."""
    if dense is None or getattr(dense.layer.activation, "__name__", "") != "tanh":
        return False
    op = dense.x.op
    while op.type in _SAME:
        op = op.inputs[0].op
    return bool(op.type == "StridedSlice" and op.inputs[0].shape.rank == 3)


def _unfit(call: Call) -> str:
    """Why this dropout cannot be a head's; empty if it can."""
    if call.x.shape.rank != 2:
        return "it drops before pooling: its input has one vector a token"
    if call.layer.noise_shape is not None:
        return "it has a noise_shape of its own"
    if call.x.shape[-1] is None:
        return "its width is unknown"
    return ""


def _array(variable: Any) -> NDArray[np.float32]:
    return np.array(tf.convert_to_tensor(variable).numpy(), dtype=np.float32, order="C")


def _list(calls: list[Call], advice: str = "") -> str:
    if not calls:
        return "The model has no dropout layer there."
    lines = (f"{call.path} (rate {call.rate}{': ' + why if (why := _unfit(call)) else ''})" for call in calls)
    return f"{advice}Dropouts found, nearest first: {'; '.join(lines)}"
