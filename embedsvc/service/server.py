"""Running the application with uvicorn: patient only so long, and stopping without losing an answer."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from embedsvc.errors import EmbedsvcError
from embedsvc.service import logs
from embedsvc.service.app import create_app
from embedsvc.service.service import Service
from embedsvc.service.settings import Settings

__all__ = ["loop_factory", "make_server", "serve"]


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is under way and return.

    Raises
    ------
    EmbedsvcError
        If a model cannot be loaded, or the address cannot be bound.
    """
    logs.configure(settings.log_format)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(settings))


def make_server(settings: Settings) -> tuple[uvicorn.Server, Service]:
    """A server that has not begun to listen; call it inside a running event loop."""
    app = create_app(settings)
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=_protocol(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        **settings.tls,  # type: ignore[arg-type]
    )
    return _Server(config, service, settings.drain_seconds), service


async def _serve(settings: Settings) -> None:
    server, service = make_server(settings)
    try:
        await server.serve()
    except SystemExit:
        # uvicorn has said why in its log; it leaves so when it cannot bind.
        raise EmbedsvcError(
            f"the service could not listen on {settings.host}:{settings.port}",
            "Is another program there? Choose another with --port.",
        ) from None
    if service.failure:
        raise service.failure


class _Server(uvicorn.Server):
    """On the first signal it drains: new work gets 503 while answers under way go out. On the second it stops."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_seconds: float) -> None:
        super().__init__(config)
        self._service = service
        self._drain_seconds = drain_seconds
        self._draining: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn. Not calling its own leaves the exit code 0: to be asked to stop is no failure."""
        if self._service.draining or sig == signal.SIGINT:
            self.should_exit = True
            self.force_exit = self._service.draining
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        if self._draining is None:
            logs.LOGGER.info("draining", extra={"fields": {"active": self._service.active}})
            self._service.draining = True
            self._draining = asyncio.create_task(self._leave())

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(self._drain_seconds):
                await self._service.drain()
        except TimeoutError:
            logs.LOGGER.warning("requests were cut off", extra={"fields": {"active": self._service.active}})
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """See uvicorn."""
        return await super().on_tick(counter) or self._service.failure is not None

    def _log_started_message(self, listeners: Any) -> None:  # noqa: ANN401 - uvicorn's
        host, port = listeners[0].getsockname()[:2]
        address = f"{'https' if self.config.is_ssl else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        logs.LOGGER.info("listening", extra={"fields": {"address": address}})


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, which costs less a request; None, for Python's own, on Windows, where there is no uvloop."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


_HEAD_BYTES = 64 << 10  # longest head of a request, and longest trailer


def _protocol(settings: Settings) -> type[asyncio.Protocol]:
    """HTTP/1.1 with limits for the head of a request, in time and in bytes: uvicorn's own has neither."""
    limits = settings.limits

    class Patient(HttpToolsProtocol):
        _head: asyncio.TimerHandle | None = None
        _loose = 0  # bytes that belong to no body and no complete head yet
        _begun = False  # a head that is not complete

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > 2 * limits.connections:
                transport.abort()
                return
            self.access_log = False  # its lines hold query strings
            self.app_state = {**self.app_state, "abort": transport.abort}
            self._await_head()

        def data_received(self, data: bytes) -> None:
            self._loose += len(data)
            super().data_received(data)
            if self._loose > _HEAD_BYTES:
                self.transport.abort()
            else:
                self._await_head()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._begun = True

        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            self._loose, self._begun = 0, False

        def on_body(self, body: bytes) -> None:
            super().on_body(body)
            self._loose = 0

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._loose = 0

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._begun:  # a second request came right behind
                self._unset_keepalive_if_required()
                self._await_head()
            # Of a client that does not take its answer, nothing more is awaited than this.
            if self.transport.get_write_buffer_size():
                self.loop.call_later(limits.send_seconds, self._abort_unsent)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop_waiting()

        def _await_head(self) -> None:
            """Give the next request so long to show its head, from its first byte or the connection on."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            elif self._head is None and self.timeout_keep_alive_task is None:
                self._head = self.loop.call_later(limits.header_seconds, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _abort_unsent(self) -> None:
            if self.transport.get_write_buffer_size():
                self.transport.abort()

    return Patient
