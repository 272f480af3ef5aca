"""Keyed randomness for graphs that draw their own numbers.

The random nodes of a SavedModel carry the seeds of the session that exported it, so such a graph cannot repeat a
pass, and its masks follow the batch. Here every random node of the graph is replaced, in a temporary copy of the
folder, by a call to `Draws`: a dropout's uniform numbers then come from `masks.keep`, row by row, like the masks of
every other model. Weights, outputs and the inference branch stay as they are.

Loading is left to the caller; what may be loaded is decided in `embedsvc.models.safety`, on the original graph.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embedsvc.errors import ModelFormatError
from embedsvc.models.draws import Draws, GraphSite, Kind

__all__ = ["read_graph", "rewritten"]

# Random ops that ask for a shape and nothing else of weight: (position of the shape among the inputs, distribution).
_RANDOM_OPS: dict[str, tuple[int, Kind]] = {
    "RandomUniform": (0, "uniform"),
    "StatelessRandomUniform": (0, "uniform"),
    "StatelessRandomUniformV2": (0, "uniform"),
    "StatefulUniform": (2, "uniform"),
    "RandomStandardNormal": (0, "normal"),
    "StatelessRandomNormal": (0, "normal"),
    "StatelessRandomNormalV2": (0, "normal"),
    "StatefulStandardNormalV2": (2, "normal"),
    "TruncatedNormal": (0, "truncated normal"),
    "StatelessTruncatedNormal": (0, "truncated normal"),
    "StatelessTruncatedNormalV2": (0, "truncated normal"),
}
# Random ops that cannot be replaced: their passes do not repeat.
_OTHER_RANDOM = re.compile(
    r"Multinomial|RandomShuffle|RandomPoisson|RandomGamma|RandomUniformInt|Parameterized|Binomial"
)


def read_graph(folder: Path) -> Any:
    """The SavedModel message of a folder.

    Raises
    ------
    ModelFormatError
        If there is none, or it is torn.
    """
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel()
    binary, text = folder / "saved_model.pb", folder / "saved_model.pbtxt"
    try:
        if binary.is_file():
            message.ParseFromString(binary.read_bytes())
        elif text.is_file():
            text_format.Parse(text.read_text(encoding="utf-8"), message)
        else:
            raise ModelFormatError(f"{folder} is no SavedModel: it holds no saved_model.pb")
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise ModelFormatError(f"{folder}: the graph in saved_model.pb cannot be read ({error})") from error
    if not message.meta_graphs:
        raise ModelFormatError(f"{folder}: saved_model.pb holds no graph", "The file may be torn; copy it again.")
    return message


@contextlib.contextmanager
def rewritten(folder: Path, draws: Draws) -> Iterator[Path]:
    """A copy of a SavedModel that draws from `draws`; it is gone after the block, so load inside it.

    Parameters
    ----------
    folder : Path
        Checked by `safety.scan_saved_model` before: the copy holds Python calls, ours.
    draws : Draws
        Gets the sites found.
    """
    message = read_graph(folder)
    for meta_graph in message.meta_graphs:
        graph = meta_graph.graph_def
        _part_shared_calls(graph)
        for name, nodes in [("", graph.node)] + [(f.signature.name, f.node_def) for f in graph.library.function]:
            _rewrite(name, nodes, draws)
    with tempfile.TemporaryDirectory(prefix="embedsvc-") as temporary:
        copy = Path(temporary)
        (copy / "saved_model.pb").write_bytes(message.SerializeToString())
        for entry in folder.iterdir():
            # The fingerprint belongs to the original graph.
            if entry.name not in {"saved_model.pb", "saved_model.pbtxt", "fingerprint.pb"}:
                _link(entry.resolve(), copy / entry.name)
        yield copy


def _part_shared_calls(graph: Any) -> None:
    """Give the second call of a function that draws, inside one pass, a copy of it.

    Both calls would ask for the same site otherwise, and the executor chooses which comes first.
    """
    functions = {function.signature.name: function for function in graph.library.function}
    reached: dict[str, set[str]] = {}

    def drawing(name: str) -> set[str]:
        """The functions that draw when this one is called."""
        if name not in reached:
            reached[name] = set()  # a function that calls itself ends here
            nodes = functions[name].node_def
            own = {name} if any(node.op in _RANDOM_OPS for node in nodes) else set()
            reached[name] = own | part(nodes)
        return reached[name]

    def part(nodes: Any) -> set[str]:
        seen: set[str] = set()
        for call in _calls(nodes):
            if call.name in functions:
                if drawing(call.name) & seen:
                    call.name = copied(call.name)
                seen |= drawing(call.name)
        return seen

    def copied(name: str) -> str:
        copy = graph.library.function.add()
        copy.CopyFrom(functions[name])
        copy.signature.name = f"{name}_embedsvc_{len(functions)}"
        functions[copy.signature.name] = copy
        for call in _calls(copy.node_def):
            if call.name in functions and drawing(call.name):
                call.name = copied(call.name)
        return str(copy.signature.name)

    for name in list(functions):
        drawing(name)
    part(graph.node)


def _calls(nodes: Any) -> Iterator[Any]:
    """The references to functions that these nodes hold, in order."""
    for node in nodes:
        for _, attribute in sorted(node.attr.items()):
            if attribute.HasField("func"):
                yield attribute.func
            yield from attribute.list.func


def _rewrite(function: str, nodes: Any, draws: Draws) -> None:
    """Replace the random nodes of one function, in place."""
    from tensorflow.core.framework import types_pb2
    from tensorflow.python.framework import dtypes

    random = [node for node in nodes if node.op in _RANDOM_OPS]
    if any(_OTHER_RANDOM.search(node.op) for node in nodes):
        draws.repeatable = False
    for node in random:
        position, kind = _RANDOM_OPS[node.op]
        float_type = node.attr["dtype"].type or types_pb2.DT_FLOAT
        shape = node.input[position]
        shape_type = next((node.attr[name].type for name in ("T", "shape_dtype") if name in node.attr), 0)
        rate, is_mask = _rate(node.name, nodes) if kind == "uniform" else (None, False)
        number = draws.add(
            GraphSite(
                _path(node.name),
                function,
                rate,
                "mask" if is_mask else kind,
                dtypes.as_dtype(float_type).as_numpy_dtype.__name__,
                (int(node.attr["seed"].i), int(node.attr["seed2"].i)),
            )
        )
        constant = nodes.add(name=f"{node.name}/embedsvc_site", op="Const")
        constant.attr["dtype"].type = types_pb2.DT_INT32
        constant.attr["value"].tensor.dtype = types_pb2.DT_INT32
        constant.attr["value"].tensor.tensor_shape.SetInParent()
        constant.attr["value"].tensor.int_val.append(number)
        controls = [name for name in node.input if name.startswith("^")]
        # Inside functions an output is node:name:index, in the main graph node:index.
        node.input[:] = [shape, f"{constant.name}:output:0" if function else constant.name, *controls]
        node.op = "PyFunc"
        for name in [name for name in node.attr if name != "_output_shapes"]:
            del node.attr[name]
        node.attr["token"].CopyFrom(draws.node.attr["token"])
        node.attr["Tin"].list.type.extend([shape_type or types_pb2.DT_INT32, types_pb2.DT_INT32])
        node.attr["Tout"].list.type.append(float_type)


def _rate(name: str, nodes: Any) -> tuple[float | None, bool]:
    """The rate that a uniform draw is compared with, and whether that is all it is used for."""
    by_name = {node.name: node for node in nodes}
    # Some versions of TensorFlow scale and shift the draw by 1 and 0 first.
    for _ in range(4):
        users = [node for node in nodes if any(_source(entry) == name for entry in node.input)]
        if len(users) != 1:
            break
        user = users[0]
        others = [_constant(by_name.get(_source(entry)), by_name) for entry in user.input if _source(entry) != name]
        if user.op == "GreaterEqual" and _source(user.input[0]) == name:
            rate = others[0] if others else None
            # The float32 nearest to 0.1 is written 0.1.
            return (float(str(np.float32(rate))), True) if rate is not None and 0 <= rate < 1 else (None, False)
        if (user.op, others) not in [("Mul", [1.0]), ("Add", [0.0]), ("AddV2", [0.0]), ("Identity", []), ("Cast", [])]:
            break
        name = user.name
    return None, False


def _source(entry: str) -> str:
    """The node that an input comes from: ``a/b:output:0`` is output of ``a/b``, ``^a/b`` only waits for it."""
    return entry.removeprefix("^").split(":")[0]


def _constant(node: Any, by_name: Mapping[str, Any]) -> float | None:
    """The number that a node gives, if it is a constant or the difference of two."""
    from tensorflow import make_ndarray

    if node is not None and node.op == "Const":
        value = make_ndarray(node.attr["value"].tensor)
        return float(value) if value.size == 1 and value.dtype.kind in "fV" else None  # V: bfloat16
    if node is not None and node.op == "Sub":
        parts = [_constant(by_name.get(_source(entry)), by_name) for entry in node.input[:2]]
        return parts[0] - parts[1] if parts[0] is not None and parts[1] is not None else None
    return None


def _path(name: str) -> str:
    """``a/dropout_3/dropout/random_uniform/RandomUniform`` stands at ``a/dropout_3``."""
    path = re.sub(r"/(stateless_)?(random_(uniform|normal)|truncated_normal)(_\d+)?(/.*)?$", "", name)
    path = re.sub(r"/(stateless_|general_)?dropout(_\d+)?$", "", path)
    return path or name


def _link(source: Path, target: Path) -> None:
    try:
        os.symlink(source, target, target_is_directory=source.is_dir())
    except OSError:  # Windows without the privilege
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
