"""The parts of one running service, and its life: loading, ready, draining."""

from __future__ import annotations

import asyncio

from embedsvc.errors import EmbedsvcError
from embedsvc.service.analysis import Analysis
from embedsvc.service.batcher import Batcher
from embedsvc.service.encoding import Encoding
from embedsvc.service.hosting import Models
from embedsvc.service.metrics import Metrics
from embedsvc.service.sets import Sets
from embedsvc.service.settings import Settings

__all__ = ["Service"]

_UNMEASURED = 8_192  # tokens that may wait while no batch has told how long they take


class Service:
    """What routes work with. Made inside a running event loop.

    Attributes
    ----------
    settings : Settings
    batcher, encoding, models, metrics, analysis, sets
    active : int
        Requests under way, whatever they ask.
    arriving : int
        Tokens of requests that are being read, guessed.
    draining : bool
        Whether it is stopping: no new work is taken.
    failure : EmbedsvcError or None
        Why it could not start.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models = Models(settings.models, settings.options, settings.tap)
        self.metrics = Metrics(
            lambda: self.backlog, lambda: self.batcher.tokens, lambda: self.wait_seconds, lambda: self.models.ready
        )
        self.batcher = Batcher(
            token_budget=settings.token_budget, workers=settings.workers, observer=self.metrics.batch
        )
        self.encoding = Encoding(self.batcher, settings.limits)
        self.analysis = Analysis()
        self.sets = Sets(settings.sets)
        self.active = 0
        self.arriving = 0
        self.draining = False
        self.failure: EmbedsvcError | None = None
        self._started = False
        self._idle = asyncio.Event()
        self.metrics.active.set_function(lambda: self.active)

    @property
    def backlog(self) -> int:
        """Tokens that stand before a newcomer, those that are being read included."""
        return self.batcher.backlog + self.arriving

    @property
    def wait_seconds(self) -> float:
        """How long a newcomer would wait for its turn, by the speed of late; 0 while no batch has told it."""
        return self.backlog * (self.batcher.seconds_per_token or 0.0)

    @property
    def full(self) -> bool:
        """Whether a newcomer would wait longer than it should."""
        if self.batcher.seconds_per_token is None:
            return self.backlog >= _UNMEASURED
        settings = self.settings
        return (
            self.backlog >= settings.workers * settings.token_budget
            and self.wait_seconds >= settings.limits.queue_seconds
        )

    @property
    def ready(self) -> bool:
        """Whether it takes work: models and sets are loaded, none has failed, and it is not stopping."""
        states = {each.state for each in self.models}
        return self._started and "ready" in states and not states & {"loading", "failed"} and not self.draining

    async def start(self) -> None:
        """Load every model and set; the reason, should one fail, is in `failure`."""
        try:
            for name in self.settings.models:
                await self.models.load(name)
            await asyncio.to_thread(self.sets.load)
            self._started = True
        except EmbedsvcError as error:
            self.failure = error

    def left(self) -> None:
        """A request is over."""
        if not self.active:
            self._idle.set()

    async def drain(self) -> None:
        """Take no new work, and wait until what is under way is answered."""
        self.draining = True
        while self.active:
            self._idle.clear()
            await self._idle.wait()

    def close(self) -> None:
        """Stop the threads; call when nothing is under way."""
        self.batcher.close()
        self.encoding.close()
        self.analysis.close()
