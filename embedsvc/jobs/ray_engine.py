"""Encoding on a Ray cluster: read → tokenise and encode in actors → parts, one Ray Data pipeline.

The unit of work is a part of the set: the same rows in the same batches as in one process, so the same bits. An actor
loads the model once and writes each part under its fixed name, whole or not at all. When a worker, a node or this
process dies, what it had not finished is done again, by others or by the next run; a part done twice is the same part.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np

from embedsvc.errors import EmbedsvcError, MissingExtraError, SettingsError, StoreError, StoreMismatchError
from embedsvc.extraction import Settings, describe, extract
from embedsvc.jobs.engines import Order
from embedsvc.jobs.recall import Recall
from embedsvc.manifest import Manifest, Part
from embedsvc.models.base import LoadOptions
from embedsvc.parts import Done, write_part
from embedsvc.storage import Place
from embedsvc.texts import Scan, read
from embedsvc.types import Text

__all__ = ["encode_on_ray"]

# Of a cluster that is started here. Blocks of texts wait in it, and are held back before it is full.
_OBJECT_STORE_BYTES = 512 * 2**20
_IN_FLIGHT = 2  # units handed to an actor at once: one at work, one waiting
_READERS = 2  # tasks that read at once
_SHARDS_PER_ACTOR = 4  # runs of units that are read in one go; a lost one costs that much reading


@dataclass(frozen=True, slots=True)
class _Work:
    """What every process of the cluster is told, by reference."""

    folder: Place
    model: str
    load_options: LoadOptions
    settings: Settings
    manifest: Manifest
    scan: Scan
    done: frozenset[int]
    known: Recall | None
    directory: str


def encode_on_ray(order: Order) -> None:
    """Encode on a cluster. See `Engine`.

    Raises
    ------
    MissingExtraError
        Without the package.
    EmbedsvcError
        What an actor raised.
    StoreError
        If the cluster cannot be reached, or is lost as a whole.
    """
    if find_spec("ray") is None:
        raise MissingExtraError.of("ray", "ray")
    _protect(order)
    import ray
    import ray.data

    scan, store, size = order.scan, order.store, order.settings.rows_per_part
    n_units = -(-scan.rows // size)
    todo = [index for index in range(n_units) if index not in store.done]
    if not todo:
        return
    with _cluster(order), _quiet_data():
        there = ray.cluster_resources()
        if order.gpus > there.get("GPU", 0):
            # Ray would wait for such a node for ever.
            raise SettingsError(
                f"each actor needs {order.gpus:g} GPUs, and the cluster has {there.get('GPU', 0):g}",
                "Give fewer with --gpus, or start nodes that have them.",
            )
        n_actors = there.get("GPU", 0) // order.gpus if order.gpus else there.get("CPU", 1)
        workers = order.workers or max(1, int(n_actors))
        workers = min(workers, len(todo))
        work = ray.put(
            _Work(
                *(store.folder, order.model, order.load_options, order.settings, store.manifest),
                *(replace(scan, rejected=()), store.done, order.known, os.getcwd()),
            )
        )
        shards = np.array_split(np.array(todo), min(len(todo), workers * _SHARDS_PER_ACTOR))
        bounds = [{"first": int(shard[0]), "last": int(shard[-1])} for shard in shards]
        # Readers ask for no processor: with all of them taken by actors they would wait for ever.
        units = ray.data.from_items(bounds, override_num_blocks=len(bounds)).map_batches(
            _read_units,
            fn_kwargs={"work": work},
            batch_size=1,
            num_cpus=0,
            compute=ray.data.TaskPoolStrategy(size=_READERS),
        )
        # Ray Data starts actors that died again, and repeats their calls, for ever.
        parts = units.map(
            _Encode,
            fn_constructor_kwargs={"work": work},
            # All start at once, but the work begins with the first: a node may be slow to give, or be gone.
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=_IN_FLIGHT
            ),
            num_cpus=1,
            num_gpus=order.gpus or None,
        )
        try:
            for part in parts.iter_rows():
                _take(part, order)
        except ray.exceptions.RayError as error:
            raise _own(error) or StoreError(
                f"the Ray cluster failed: {type(error).__name__}",
                "Run the same command again: finished parts are kept.",
            ) from error


def _take(part: Mapping[str, Any], order: Order) -> None:
    """Note a finished part in the store, in what was recalled, and in the log."""
    done = Done(Part(part["name"], int(part["rows"]), part["sha256"]), int(part["tokens"]), int(part["truncated"]))
    if int(part["index"]) not in order.store.done:
        order.store.record(int(part["index"]), done)
        if order.known is not None:
            order.known.rows += int(part["recalled"])
            order.known.tokens += int(part["recalled_tokens"])
            order.known.damaged |= dict.fromkeys(json.loads(part["damaged"]))
        order.progress(done.part.rows, done.tokens)


def _read_units(batch: Mapping[str, Sequence[Any]], work: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - a reference
    """The texts of a run of units, one row each."""
    told = _told(work)
    size = told.settings.rows_per_part
    for first, last in zip(batch["first"], batch["last"], strict=True):
        texts = read(told.scan, start=int(first) * size)
        for index in range(int(first), int(last) + 1):
            rows = [[text.id, text.text, text.label] for text in islice(texts, size)]
            if index not in told.done:
                packed = np.array([json.dumps(rows, ensure_ascii=False).encode()], dtype=object)
                yield {"index": np.array([index]), "texts": packed}
        if (int(last) + 1) * size >= told.scan.rows:
            next(texts, None)  # so that the last file is read to its end, and compared with what was scanned


class _Encode:
    """An actor: the model, loaded once, and what it makes of units."""

    def __init__(self, work: Any) -> None:  # noqa: ANN401 - a reference
        from embedsvc.models import load_model

        self._work = _told(work)
        self._encoder = load_model(self._work.model, self._work.load_options)
        manifest = describe(self._encoder, self._work.settings, map(dict, self._work.manifest.sources))
        differences = self._work.manifest.differences(manifest)
        if differences:
            raise StoreMismatchError(
                "a node of the cluster would make other vectors:\n  " + "\n  ".join(differences),
                "Install the same versions and the same model on every node.",
            )
        self._writer = secrets.token_hex(4)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        work, known = self._work, self._work.known
        index = int(row["index"])
        texts = [Text(*fields) for fields in json.loads(row["texts"])]
        before, tokens_before = (known.rows, known.tokens) if known else (0, 0)
        (block,) = extract(texts, self._encoder, work.settings, known=known, workers=1)
        block = replace(block, index=index, offset=index * work.settings.rows_per_part)
        done = write_part(work.folder, block, work.manifest, writer=self._writer)
        return {
            "index": index,
            "name": done.part.name,
            "rows": done.part.rows,
            "sha256": done.part.sha256,
            "tokens": done.tokens,
            "truncated": done.truncated,
            "recalled": known.rows - before if known else 0,
            "recalled_tokens": known.tokens - tokens_before if known else 0,
            "damaged": json.dumps(list(known.damaged) if known else []),
        }


def _told(work: Any) -> _Work:  # noqa: ANN401 - a reference
    import ray

    told: _Work = ray.get(work)
    # Paths are as the driver wrote them, and ids begin with them.
    os.chdir(told.directory)
    return told


def _protect(order: Order) -> None:
    """Settings that Ray reads when it is imported: it reports to nobody, and obeys who has the token."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it writes past Python's logging, to our stderr
    # A cluster listens on every interface whatever one says; that of `address` has its own rules.
    if order.address is None and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextmanager
def _cluster(order: Order) -> Iterator[None]:
    """A connection to the cluster asked for, else one on this machine for the time of the work."""
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if order.address is None:
        # "local": without it, a cluster that somebody left running would be joined.
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        if order.workers:
            options |= {"num_cpus": order.workers}
    else:
        options |= {"address": order.address}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = order.address or "this machine"
        raise StoreError(
            f"no Ray cluster at {where}: {str(error).partition(chr(10))[0]}",
            "Start one with `ray start --head`, or leave --address out. With RAY_AUTH_MODE=token both need its token.",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet_data() -> Iterator[None]:
    """One row a block, so that a unit is handed on as soon as it is read; and no progress bars beside our own."""
    from ray.data import DataContext

    context = DataContext.get_current()
    names = ("target_max_block_size", "enable_progress_bars", "raise_original_map_exception")
    before = {name: getattr(context, name) for name in names}
    logger = logging.getLogger("ray.data")
    level = logger.level
    context.target_max_block_size, context.enable_progress_bars = 1, False
    # Its own wrapping loses what it wraps on the way to this process.
    context.raise_original_map_exception = True
    logger.setLevel(logging.CRITICAL)  # an actor's error is told once, by us
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        logger.setLevel(level)


def _own(error: BaseException) -> EmbedsvcError | None:
    """The error of ours inside one of Ray's."""
    seen: BaseException | None = error
    while seen is not None:
        # What Ray raises is of our class as well, but only its cause is built like it.
        inner = getattr(seen, "cause", seen)
        if isinstance(inner, EmbedsvcError):
            return type(inner)(inner.problem, inner.hint)
        seen = seen.__cause__
    return None
