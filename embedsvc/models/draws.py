"""What the graphs of a model draw from while a pass runs: numbers keyed by row, as those of `masks` are."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.types import DropoutSite, Mode, Pass, Vectors

__all__ = ["Draws", "GraphSite", "Kind"]

Kind = Literal["mask", "uniform", "normal", "truncated normal"]

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
        False where the graph draws in a loop, or holds random ops that cannot be replaced.
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
        # A loop may run its iterations at once, so that the order in which they draw is the executor's choice.
        if any(count > 1 for _, log in logs for count in Counter(site for site, _ in log).values()):
            self.repeatable = False
        self.live = tuple(sorted(asked))
        self._numbers = {site: at for at, site in enumerate(self.live)}
        self._by_row = frozenset(asked - folded)
        self.masks = "positional" if folded or not self.repeatable else "keyed"

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
        # A site that a loop asks for again gets a stream of its own each time.
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


def _numbers(kind: Kind, seed: int, key: int, site: int, index: int, units: int) -> Vectors:
    # The last counter word keeps these streams apart from those of `masks`, where it is 0.
    generator = np.random.Generator(np.random.Philox(key=[seed, key], counter=[0, index, site, 1]))
    if kind in {"uniform", "mask"}:
        return generator.random(units, dtype=np.float32)
    drawn = generator.standard_normal(units, dtype=np.float32)
    while kind == "truncated normal" and (outside := np.abs(drawn) > 2).any():
        drawn[outside] = generator.standard_normal(int(outside.sum()), dtype=np.float32)
    return drawn
