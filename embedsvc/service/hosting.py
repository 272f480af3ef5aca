"""The models of a service: named, loaded beside the traffic, unloaded when nobody uses them any more."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from embedsvc.batching import OnLong
from embedsvc.errors import EmbedsvcError, ModelError
from embedsvc.models.base import HEAD_TAPS, Encoder, LoadOptions, check_taps, forward
from embedsvc.models.load import load_model
from embedsvc.service import logs
from embedsvc.service.problems import Problem
from embedsvc.types import Text

__all__ = ["Hosted", "Models", "default_tap"]


@dataclass(eq=False, slots=True)
class Hosted:
    """One named model.

    Attributes
    ----------
    name, uri : str
    state : {"unloaded", "loading", "ready", "failed", "unloading"}
    encoder : Encoder or None
        While it is ready.
    tap : str
        What requests get that name none.
    problem : str
        Why it failed.
    since : float
        Unix time of the last change of state.
    active : int
        Requests that use it.
    inspection : dict or None
        What `embedsvc.inspection` found, once somebody asked.
    """

    name: str
    uri: str
    state: Literal["unloaded", "loading", "ready", "failed", "unloading"] = "unloaded"
    encoder: Encoder | None = None
    tap: str = ""
    problem: str = ""
    since: float = 0.0
    active: int = 0
    inspection: dict[str, Any] | None = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def use(self) -> Iterator[Encoder]:
        """Its encoder, which stays loaded meanwhile.

        Raises
        ------
        Problem
            503 if it is not ready.
        """
        if self.state != "ready" or self.encoder is None:
            raise self._not_ready()
        self.active += 1
        try:
            yield self.encoder
        finally:
            self.active -= 1
            if not self.active:
                self.idle.set()

    def _not_ready(self) -> Problem:
        code = f"model_{self.state}"
        if self.state == "loading":
            return Problem(503, f"the model {self.name} is loading", "Try again.", code=code, retry_after=5)
        hint = f"POST /v1/models/{self.name}/load loads it."
        if self.state == "failed":
            return Problem(503, f"the model {self.name} could not be loaded: {self.problem}", hint, code=code)
        return Problem(503, f"the model {self.name} is not loaded", hint, code=code)

    def to_json(self) -> dict[str, Any]:
        """What the API tells of it: all that its spec knows once it is loaded."""
        facts: dict[str, Any] = {
            "id": self.name,
            "object": "model",
            "created": int(self.since),
            "owned_by": "embedsvc",
            "uri": self.uri,
            "state": self.state,
        }
        if self.problem:
            facts["problem"] = self.problem
        if self.encoder is None:
            return facts
        spec, head = self.encoder.spec, self.encoder.head
        return facts | {
            "default_tap": self.tap,
            "taps": dict(spec.taps),
            "max_tokens": spec.max_tokens,
            "special_tokens": spec.special_tokens,
            "digest": spec.digest,
            "vocab_digest": spec.vocab_digest,
            "masks": spec.masks,
            "head": {"rate": head.rate, "n_classes": head.n_classes, "classes": list(head.classes)},
            "sites": [
                {"path": site.path, "rate": site.rate, "modes": list(site.modes), "kind": site.kind}
                for site in spec.sites
            ],
            "notes": list(spec.notes),
        }


class Models:
    """All models that were named at the start; no request can bring others, since a uri may be any path.

    Parameters
    ----------
    uris : mapping of str to str
        Name to uri, the default one first.
    options : LoadOptions
    tap : str or None
        See `settings.Settings`.
    """

    def __init__(self, uris: Mapping[str, str], options: LoadOptions, tap: str | None) -> None:
        self._hosted = {name: Hosted(name, uri, since=time.time()) for name, uri in uris.items()}
        self._options = options
        self._tap = tap
        self._one_at_a_time = asyncio.Lock()

    def __iter__(self) -> Iterator[Hosted]:
        return iter(self._hosted.values())

    def __getitem__(self, name: str) -> Hosted:
        if name not in self._hosted:
            raise Problem(
                404, f"there is no model {name!r}", f"There are: {', '.join(self._hosted)}", code="model_not_found",
                param="model",
            )  # fmt: skip
        return self._hosted[name]

    @property
    def ready(self) -> int:
        """Number of models that answer."""
        return sum(each.state == "ready" for each in self)

    def resolve(self, model_id: str | None) -> tuple[Hosted, str]:
        """The model and tap of ``name`` or ``name/tap``; the first model where nothing is asked for.

        Raises
        ------
        Problem
            404 for a model that is not there, 503 for one that is not ready, 400 for a tap it lacks.
        """
        name, slash, tap = (model_id or next(iter(self._hosted))).partition("/")
        hosted = self[name]
        with hosted.use() as encoder:
            if slash:
                check_taps(encoder.spec, [tap])
            return hosted, tap if slash else hosted.tap

    async def load(self, name: str) -> Hosted:
        """Load a model if it is not, and run one text through it, so that the first request need not wait for a graph.

        Raises
        ------
        EmbedsvcError
            If it cannot be loaded; it is `failed` then.
        """
        hosted = self[name]
        if hosted.state in ("unloaded", "failed"):
            _become(hosted, "loading")
        async with self._one_at_a_time:
            if hosted.state != "loading":
                return hosted
            try:
                hosted.encoder, hosted.tap = await asyncio.to_thread(self._load, hosted.uri)
            except EmbedsvcError as error:
                _become(hosted, "failed", error.problem)
                raise
            except Exception as error:
                _become(hosted, "failed", type(error).__name__)
                logs.LOGGER.exception("a model could not be loaded")
                raise ModelError(f"{name} could not be loaded: {type(error).__name__}") from error
            await asyncio.to_thread(_settle)
            _become(hosted, "ready")
        return hosted

    async def unload(self, name: str) -> Hosted:
        """Let a model go once the requests that use it are answered."""
        hosted = self[name]
        async with self._one_at_a_time:
            if hosted.state == "ready":
                _become(hosted, "unloading")
                while hosted.active:
                    hosted.idle.clear()
                    await hosted.idle.wait()
            hosted.encoder = hosted.inspection = None
            _become(hosted, "unloaded")
        # Graphs and functions of TensorFlow refer to each other in circles.
        await asyncio.to_thread(_settle)
        return hosted

    def _load(self, uri: str) -> tuple[Encoder, str]:
        encoder = load_model(uri, self._options)
        tap = default_tap(encoder) if self._tap is None else self._tap
        check_taps(encoder.spec, [tap])
        forward(encoder, [Text("", "warm")], taps=[tap], on_long=OnLong.TRUNCATE)
        return encoder, tap


def default_tap(encoder: Encoder) -> str:
    """`pre_dropout` of a model whose head is trained, `mean` of another where it has one.

    An untrained head says that the pooler before it is untrained as well, or was trained for something else.
    """
    taps = encoder.spec.taps
    return "mean" if "logits" not in taps and "mean" in taps else "pre_dropout"


def body_taps(encoder: Encoder, taps: tuple[str, ...]) -> tuple[str, ...]:
    """The taps to run for those of a request: one alone, or all there are.

    A compiled graph is kept for every set of taps that was asked for, and requests could ask for 2**n of them.
    """
    return taps if len(taps) <= 1 else tuple(tap for tap in encoder.spec.taps if tap not in HEAD_TAPS)


def _settle() -> None:
    """Collect what went, and keep the collector from walking over what stays: that took 50 ms, now and then."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _become(hosted: Hosted, state: str, problem: str = "") -> None:
    hosted.state = state  # type: ignore[assignment]
    hosted.problem = problem
    hosted.since = time.time()
    logs.LOGGER.info("model", extra={"fields": {"model": hosted.name, "state": state}})
