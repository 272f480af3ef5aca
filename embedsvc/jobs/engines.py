"""Where blocks are encoded: in this process, or in actors of a Ray cluster. The parts are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from embedsvc.extraction import Settings, extract
from embedsvc.jobs.recall import Recall
from embedsvc.models.base import Encoder, LoadOptions
from embedsvc.registry import Registry
from embedsvc.store import Store
from embedsvc.streaming import Progress
from embedsvc.texts import Scan, read

__all__ = ["ENGINES", "Engine", "Order", "encode_here"]


@dataclass(frozen=True, slots=True)
class Order:
    """A set to be written: what an engine is told.

    Attributes
    ----------
    encoder : Encoder
        Loaded already, for its manifest.
    model : str
        What other processes load it by.
    load_options : LoadOptions
    settings : Settings
    scan : Scan
    store : Store
        Open; the engine writes every part that is not in ``store.done``.
    known : Recall or None
        Rows that need not be encoded.
    progress : Progress
    workers : int or None
        Batches or actors at once.
    address : str or None
        Of a running cluster.
    gpus : float
        For each actor.
    """

    encoder: Encoder
    model: str
    load_options: LoadOptions
    settings: Settings
    scan: Scan
    store: Store
    known: Recall | None
    progress: Progress
    workers: int | None = None
    address: str | None = None
    gpus: float = 0.0


Engine = Callable[[Order], None]


def encode_here(order: Order) -> None:
    """Encode in this process, on a few threads."""
    blocks = extract(
        read(order.scan),
        order.encoder,
        order.settings,
        skip=order.store.done,
        known=order.known,
        workers=order.workers,
        progress=order.progress,
    )
    for block in blocks:
        order.store.write(block)


ENGINES: Registry[Engine] = Registry("engine", {"local": encode_here, "ray": "embedsvc.jobs.ray_engine:encode_on_ray"})
