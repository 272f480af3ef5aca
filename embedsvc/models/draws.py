"""What the graphs of a model draw from while a pass runs: numbers keyed by row, as those of `masks` are."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.models.observation import Seen
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
    seeds : tuple of int
        Of graph and op, as the exporter baked them in; (0, 0) where it set none.
    """

    path: str
    function: str
    rate: float | None
    kind: Kind
    dtype: str = "float32"
    seeds: tuple[int, int] = (0, 0)


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
        self._watched: dict[int, NDArray[Any]] | None = None
        self._ranks: dict[int, int] = {}
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

    @contextlib.contextmanager
    def watched(self) -> Iterator[dict[int, NDArray[Any]]]:
        """Keep the numbers that each site draws meanwhile, the first time it draws in a pass."""
        self._watched = {}
        try:
            yield self._watched
        finally:
            self._watched = None

    def settle(self, logs: Sequence[tuple[int, Sequence[tuple[int, tuple[int, ...]]]]]) -> None:
        """Learn from trial passes which sites are live and which have one part for each row.

        Parameters
        ----------
        logs : sequence of (int, sequence of (int, tuple of int))
            Row count of each pass, and what `during` gave. At least two row counts, or a folded axis could pass
            for the batch.
        """
        asked = {site for _, log in logs for site, _ in log}
        self._ranks = {site: len(shape) for _, log in logs for site, shape in log}
        folded = {site for n, log in logs for site, shape in log if not shape or shape[0] != n}
        # A loop may run its iterations at once, so that the order in which they draw is the executor's choice.
        if any(count > 1 for _, log in logs for count in Counter(site for site, _ in log).values()):
            self.repeatable = False
        self.live = tuple(sorted(asked))
        self._numbers = {site: at for at, site in enumerate(self.live)}
        self._by_row = frozenset(asked - folded)
        self.masks = "positional" if folded or not self.repeatable else "keyed"

    @property
    def keyed_paths(self) -> frozenset[str]:
        """Of `dropout_sites`, after `settle`: those whose masks follow the row."""
        paths = zip((site.path for site in self.dropout_sites()), self.numbers, strict=True)
        by_row = self._by_row or frozenset()
        return frozenset(path for path, number in paths if number in by_row and self.repeatable)

    @property
    def remark(self) -> str:
        """What the model's own seeds do to whoever calls it without us; "" where it draws nothing by node seeds."""
        seeds = [self.sites[number].seeds for number in self.numbers]
        if not seeds:
            return ""
        if not any(map(any, seeds)):
            return (
                "The graph was exported without a seed: called by itself, it draws anew in every process, and "
                "tf.random.set_seed changes nothing."
            )
        shown = ", ".join(f"{graph}/{op}" for graph, op in seeds[:3]) + (" …" if len(seeds) > 3 else "")
        return (
            f"The graph was exported under a seed (graph/op {shown}): called by itself, every load repeats the same "
            "sequence of masks, and tf.random.set_seed changes nothing."
        )

    @property
    def numbers(self) -> Sequence[int]:
        """Numbers in the graph of `dropout_sites`, in their order."""
        return self.live or self._silent()

    def seen(self, drawn: Mapping[int, NDArray[Any]]) -> dict[str, Seen]:
        """What `watched` caught of one row's pass, by the paths of `dropout_sites`."""
        how = "numbers that the graph asks for"
        found = {}
        for site, number in zip(self.dropout_sites(), self.numbers, strict=True):
            found[site.path] = Seen(False, None, False, how)
            if number in drawn:
                found[site.path] = Seen(True, None, False, how)
                if self.sites[number].rate is not None and len(drawn[number]) == 1:
                    mask = (drawn[number] >= self.sites[number].rate).astype(np.float32)
                    found[site.path] = Seen(bool((mask == 0).any()), *_by_step(mask), how)
        return found

    def dropout_sites(self) -> tuple[DropoutSite, ...]:
        """The live sites in the order of their numbers; where none is live, those that lie silent, with no modes."""
        modes = (Mode.TRAINING,) if self.live else ()
        paths: Counter[str] = Counter()
        found = []
        for number in self.numbers:
            site = self.sites[number]
            paths[site.path] += 1
            path = site.path if paths[site.path] == 1 else f"{site.path} ({paths[site.path]})"
            kind: str = site.kind
            if site.rate is not None and site.kind in {"mask", "uniform"}:
                kind = "attention" if self._ranks.get(number) == 4 else "unit"  # (rows, heads, tokens, tokens)
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
            drawn = np.multiply(kept, _KEPT, dtype=np.float32).reshape(size).astype(site.dtype, copy=False)
        else:
            rows = [_numbers(site.kind, current.seed, int(key), at, current.index, units) for key in keys]
            drawn = np.stack(rows).reshape(size).astype(site.dtype) if rows else np.zeros(size, site.dtype)
        if self._watched is not None:
            self._watched.setdefault(number, drawn)
        return drawn

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


def _by_step(mask: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool]:
    """One row's mask, of shape (1, steps, d) or (1, heads, steps, steps), steps first; and whether there are steps."""
    if mask.ndim < 3:
        return mask, False
    mask = mask[0].swapaxes(0, 1) if mask.ndim == 4 else mask[0]
    if len(mask) == 1:  # one mask that is broadcast to all steps
        mask = np.repeat(mask, 2, axis=0)
    return mask.reshape(len(mask), 1, -1), True


def _numbers(kind: Kind, seed: int, key: int, site: int, index: int, units: int) -> Vectors:
    # The last counter word keeps these streams apart from those of `masks`, where it is 0.
    generator = np.random.Generator(np.random.Philox(key=[seed, key], counter=[0, index, site, 1]))
    if kind in {"uniform", "mask"}:
        return generator.random(units, dtype=np.float32)
    drawn = generator.standard_normal(units, dtype=np.float32)
    while kind == "truncated normal" and (outside := np.abs(drawn) > 2).any():
        drawn[outside] = generator.standard_normal(int(outside.sum()), dtype=np.float32)
    return drawn
