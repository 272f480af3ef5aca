"""What Prometheus is told: counts, latencies, the queue, the batches, the models."""

from __future__ import annotations

from collections.abc import Callable

from embedsvc.errors import MissingExtraError

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Metrics:
    """The service's own registry, so that two services in one process do not mix.

    Parameters
    ----------
    backlog, tokens : callable
        Give the tokens that stand before a newcomer, and all that wait.
    wait : callable
        Gives the seconds that a newcomer would wait.
    models : callable
        Gives the number of models that are ready.
    """

    def __init__(
        self,
        backlog: Callable[[], int],
        tokens: Callable[[], int],
        wait: Callable[[], float],
        models: Callable[[], int],
    ) -> None:
        try:
            from prometheus_client import (
                CollectorRegistry,
                Counter,
                Gauge,
                Histogram,
                PlatformCollector,
                ProcessCollector,
            )
        except ModuleNotFoundError:
            raise MissingExtraError.of("prometheus-client", "serve") from None

        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter(
            "embedsvc_requests", "Requests answered", ("route", "method", "status"), registry=registry
        )
        self._latency = Histogram(
            "embedsvc_request_seconds", "Time to answer", ("route",), buckets=_SECONDS, registry=registry
        )
        self._refused = Counter("embedsvc_refused", "Requests refused under load", ("reason",), registry=registry)
        self._texts = Counter("embedsvc_texts", "Texts embedded", ("model",), registry=registry)
        self._tokens = Counter("embedsvc_tokens", "Tokens of texts embedded", ("model",), registry=registry)
        self._batches = Histogram("embedsvc_batch_tokens", "Tokens in a batch", buckets=_TOKENS, registry=registry)
        self._batch_seconds = Histogram(
            "embedsvc_batch_seconds", "Time of a batch", buckets=_SECONDS, registry=registry
        )
        self._cancelled = Counter("embedsvc_cancelled", "Requests whose client went away", registry=registry)
        for name, help_, source in (
            ("embedsvc_backlog_tokens", "Tokens that stand before a newcomer", backlog),
            ("embedsvc_queued_tokens", "Tokens that wait", tokens),
            ("embedsvc_wait_seconds", "Time a newcomer would wait for its turn", wait),
            ("embedsvc_models_ready", "Models that answer", models),
        ):
            Gauge(name, help_, registry=registry).set_function(source)
        self.active = Gauge("embedsvc_requests_active", "Requests under way", registry=registry)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused under load."""
        self._refused.labels(reason).inc()

    def cancelled(self) -> None:
        """A client went away."""
        self._cancelled.inc()

    def embedded(self, model: str, texts: int, tokens: int) -> None:
        """Texts of a request were embedded."""
        self._texts.labels(model).inc(texts)
        self._tokens.labels(model).inc(tokens)

    def batch(self, rows: int, tokens: int, seconds: float) -> None:
        """A batch ran."""
        self._batches.observe(tokens)
        self._batch_seconds.observe(seconds)

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)
