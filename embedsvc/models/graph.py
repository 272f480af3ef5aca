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
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.errors import ModelFormatError
from embedsvc.types import DropoutSite, Mode, Pass, Vectors

__all__ = ["Draws", "GraphSite", "read_graph", "rewritten"]

Kind = Literal["mask", "uniform", "normal", "truncated normal"]

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
# Just below 1 and exact in float32: a kept unit passes any rate, a dropped one (0) fails any.
_KEPT = 1.0 - 2.0**-17


@dataclass(frozen=True, slots=True)
class GraphSite:
    """One random node of a graph.

    Attributes
    ----------
    path : str
        Where it stands: the node's name without its last, generated parts.
    function : str
        The graph function that holds it, "" for the main graph.
    rate : float or None
        Dropout rate, where the nodes behind it show one.
    kind : {"mask", "uniform", "normal", "truncated normal"}
        A mask is a uniform draw compared with the rate and used for nothing else.
    dtype : str
        Of the numbers, as numpy names it.
    """

    path: str
    function: str
    rate: float | None
    kind: Kind
    dtype: str = "float32"


@dataclass(slots=True)
class _Pass:
    """What the graph draws from while one pass runs, and what it asked for."""

    keys: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(1, dtype=np.uint64))
    seed: int = 0
    index: int = 0
    asked: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)


class Draws:
    """The numbers that the graphs of one model ask for, keyed by the rows that run.

    Parameters
    ----------
    first : int
        Number of the first live site in the keys of the masks; lower ones belong to sites outside the graph.

    Attributes
    ----------
    sites : list of GraphSite
        Every site a graph could ask for; its number in the graph is its position here.
    live : tuple of int
        After `settle`: the sites that a training pass asks for, in order. Site ``live[i]`` draws as ``first + i``.
    masks : {"keyed", "positional"}
        After `settle`: "positional" where some site does not have one part for each row.
    repeatable : bool
        False where the graph holds random ops that cannot be replaced.
    """

    def __init__(self, first: int = 1) -> None:
        self.first = first
        self.sites: list[GraphSite] = []
        self.live: tuple[int, ...] = ()
        self.masks: Literal["keyed", "positional"] = "keyed"
        self.repeatable = True
        self._by_row: frozenset[int] | None = None
        self._numbers: dict[int, int] = {}
        self._lock = threading.RLock()
        self._pass = _Pass()
        self._count: Counter[int] = Counter()
        self._node: Any = None
        self._function: Any = None

    def add(self, site: GraphSite) -> int:
        """Number of a new site."""
        self.sites.append(site)
        return len(self.sites) - 1

    @contextlib.contextmanager
    def during(self, keys: NDArray[np.uint64], pass_: Pass) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
        """Let graphs draw for these rows; gives the (site, shape) pairs asked for. One pass at a time."""
        with self._lock:
            self.begin(keys, pass_.draw if pass_.mode.stochastic else None)
            yield self._pass.asked

    def begin(self, keys: NDArray[np.uint64], draw: Sequence[int] | None) -> None:
        """What the next pass draws from, for callers that hold a lock of their own."""
        # A graph may draw in inference mode too (a random feature map); it then draws the same numbers each time.
        seed, index = draw or (0, 0)
        self._pass = _Pass(keys, seed, index)
        self._count.clear()

    @property
    def log(self) -> tuple[int, list[tuple[int, tuple[int, ...]]]]:
        """Row count of the last pass begun, and the (site, shape) pairs it asked for: what `settle` wants."""
        return len(self._pass.keys), self._pass.asked

    def settle(self, logs: Sequence[tuple[int, Sequence[tuple[int, tuple[int, ...]]]]]) -> None:
        """Learn from trial passes which sites are live and which have one part for each row.

        Parameters
        ----------
        logs : sequence of (int, sequence of (int, tuple of int))
            Row count of each pass, and what `during` gave. At least two row counts, or a folded axis could pass
            for the batch.
        """
        asked = {site for _, log in logs for site, _ in log}
        folded = {site for n, log in logs for site, shape in log if not shape or shape[0] != n}
        # Asked twice in one pass: which comes first is the executor's choice unless one feeds the other.
        twice = {site for _, log in logs for site, count in Counter(s for s, _ in log).items() if count > 1}
        self.live = tuple(sorted(asked))
        self._numbers = {site: at for at, site in enumerate(self.live)}
        self._by_row = frozenset(asked - folded)
        self.masks = "positional" if folded or twice or not self.repeatable else "keyed"

    def dropout_sites(self) -> tuple[DropoutSite, ...]:
        """The live sites in the order of their numbers; where none is live, those that lie silent, with no modes."""
        modes = (Mode.TRAINING,) if self.live else ()
        numbers: Sequence[int] = self.live or self._silent()
        paths: Counter[str] = Counter()
        found = []
        for number in numbers:
            site = self.sites[number]
            paths[site.path] += 1
            path = site.path if paths[site.path] == 1 else f"{site.path} ({paths[site.path]})"
            kind = "unit" if site.rate is not None and site.kind in {"mask", "uniform"} else site.kind
            found.append(DropoutSite(path, site.rate or 0.0, modes, kind))
        return tuple(found)

    def _silent(self) -> list[int]:
        """Sites of the function that holds most of them: the others are copies or parts of it."""
        functions = Counter(site.function for site in self.sites)
        if not functions:
            return []
        largest = functions.most_common(1)[0][0]
        return [number for number, site in enumerate(self.sites) if site.function == largest]

    def __call__(self, shape: NDArray[np.integer[Any]], number: int) -> NDArray[Any]:
        """The numbers one site draws in the current pass; called from inside the graph, from any thread."""
        size = tuple(int(extent) for extent in shape)
        current = self._pass
        number = int(number)
        current.asked.append((number, size))
        self._count[number] += 1
        site = self.sites[number]
        at = self.first + self._numbers.get(number, number)
        # A site that a loop or a shared layer asks for again gets a stream of its own each time.
        at += (self._count[number] - 1) << 32
        by_row = bool(size) and size[0] == len(current.keys) and (self._by_row is None or number in self._by_row)
        # A folded axis hides the rows: the pass still repeats, keyed by the first row.
        keys = current.keys if by_row else current.keys[:1]
        units = int(np.prod(size)) // max(len(keys), 1)
        if site.kind == "mask" and site.rate is not None:
            kept = masks.keep(keys, seed=current.seed, passes=[current.index], site=at, units=units, rate=site.rate)
            return np.multiply(kept, _KEPT, dtype=np.float32).reshape(size).astype(site.dtype, copy=False)
        rows = [_numbers(site.kind, current.seed, int(key), at, current.index, units) for key in keys]
        return np.stack(rows).reshape(size).astype(site.dtype) if rows else np.zeros(size, site.dtype)

    @property
    def node(self) -> Any:
        """A PyFunc NodeDef that calls this object: the pattern for replaced nodes."""
        if self._node is None:
            import tensorflow as tf

            def call(shape: Any, number: Any) -> Any:
                return tf.numpy_function(self, [shape, number], tf.float32)

            signature = [tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32)]
            # Kept: TensorFlow forgets the token when the function that made it goes.
            self._function = tf.function(call, input_signature=signature, autograph=False).get_concrete_function()
            [self._node] = [node for node in self._function.graph.as_graph_def().node if node.op == "PyFunc"]
        return self._node


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


def _numbers(kind: Kind, seed: int, key: int, site: int, index: int, units: int) -> Vectors:
    # The last counter word keeps these streams apart from those of `masks`, where it is 0.
    generator = np.random.Generator(np.random.Philox(key=[seed, key], counter=[0, index, site, 1]))
    if kind in {"uniform", "mask"}:
        return generator.random(units, dtype=np.float32)
    drawn = generator.standard_normal(units, dtype=np.float32)
    while kind == "truncated normal" and (outside := np.abs(drawn) > 2).any():
        drawn[outside] = generator.standard_normal(int(outside.sum()), dtype=np.float32)
    return drawn


def _link(source: Path, target: Path) -> None:
    try:
        os.symlink(source, target, target_is_directory=source.is_dir())
    except OSError:  # Windows without the privilege
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
