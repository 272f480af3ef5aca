"""The first to see a request and the last to see its answer: who, how much, how long, and one line in the log."""

from __future__ import annotations

import asyncio
import math
import re
import time
import uuid
from typing import TYPE_CHECKING, Any

import orjson

from embedsvc.errors import EmbedsvcError
from embedsvc.service import logs
from embedsvc.service.intake import App, Held, Message, Receive, Scope, Send, read_body, run_while_connected
from embedsvc.service.problems import Problem, body_of, problem_of
from embedsvc.service.shield import OPEN, SECURITY_HEADERS, Shield

if TYPE_CHECKING:
    from embedsvc.service.service import Service

__all__ = ["Claim", "Front"]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_BYTES_PER_TOKEN = 4


class Claim:
    """What a request will add to the queue, guessed from its length until it is known.

    Attributes
    ----------
    facts : dict
        For the log: counts and names, no texts.
    """

    def __init__(self, service: Service, tokens: int) -> None:
        self._service = service
        self._tokens = tokens
        self.facts: dict[str, Any] = {}
        service.arriving += tokens

    def settle(self) -> None:
        """The request is in the queue now, or gone."""
        self._service.arriving -= self._tokens
        self._tokens = 0


class Front:
    """ASGI middleware around everything.

    An overloaded service must refuse for less than an answer costs: what can be refused by the head of a request is,
    before its body is read.
    """

    def __init__(self, app: App, service: Service) -> None:
        self._app = app
        self._service = service
        self._shield = Shield(service.settings)
        self._held = Held(service.settings.limits.held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        await _Exchange(self, scope, receive, send).run()

    async def answer(self, exchange: _Exchange) -> bool:
        """Check, read and run one request; False if its client went away."""
        scope, service = exchange.scope, self._service
        headers = dict(scope["headers"])
        path, method, limits = scope["path"], scope["method"], service.settings.limits
        exchange.owner = self._shield.owner(method, path, headers)
        if service.active > limits.connections:
            raise Problem(503, "too many requests are under way", "Try again.", code="overloaded", retry_after=1)
        announced = _length(headers)
        if method != "POST":
            if announced or b"transfer-encoding" in headers:
                exchange.close = True  # a body that nobody reads
            return await run_while_connected(self._app, scope, b"", exchange.receive, exchange.send)
        if service.draining:
            raise Problem(503, "the service is stopping", "Ask another one.", code="draining", retry_after=5)
        guess = min(service.batcher.turn, (announced or 0) // _BYTES_PER_TOKEN)
        if service.full:
            raise _overloaded(service)
        claim = Claim(service, guess)
        scope.setdefault("state", {})["claim"] = claim
        exchange.facts = claim.facts
        body = None
        try:
            body = await read_body(exchange.receive, announced, limits, self._held)
            if body is None:
                return False
            return await run_while_connected(self._app, scope, body, exchange.receive, exchange.send)
        except Problem as problem:
            exchange.close = problem.status in (408, 413)
            raise
        finally:
            claim.settle()
            self._held.bytes -= len(body or b"")


class _Exchange:
    """One request and its answer."""

    def __init__(self, front: Front, scope: Scope, receive: Receive, send: Send) -> None:
        self._front = front
        self._service: Service = front._service
        self.scope = scope
        self.receive = receive
        self._send = send
        self.facts: dict[str, Any] = {}
        self.owner = ""
        self.status = 0
        self.close = False
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        self.id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()

    async def run(self) -> None:
        service = self._service
        began = time.perf_counter()
        service.active += 1
        try:
            if not await self._front.answer(self):
                service.metrics.cancelled()
                self.status = self.status or 499  # as nginx logs a client that closed
        except EmbedsvcError as error:
            await self._refuse(problem_of(error))
        except TimeoutError:
            # The client does not take its answer: there is nothing more to say to it.
            service.metrics.refused("slow reader")
            abort = self.scope.get("state", {}).get("abort")
            if abort:
                abort()
        except asyncio.CancelledError:
            self.status = self.status or 499
            raise
        except Exception:
            logs.LOGGER.exception("a request failed", extra={"fields": {"request_id": self.id.decode()}})
            await self._refuse(Problem(500, "the service failed to answer", "Its log says more under this request id."))
        finally:
            service.active -= 1
            service.left()
            self._record(time.perf_counter() - began)

    def _record(self, seconds: float) -> None:
        route = self.scope.get("route")
        # The path itself is anybody's choice, and would make a series of each.
        name = getattr(route, "path", "") or (self.scope["path"] if self.scope["path"] in OPEN else "other")
        method = self.scope["method"] if self.scope["method"] in _METHODS else "other"
        self._service.metrics.answered(name, method, self.status, seconds)
        logs.access(
            request_id=self.id.decode(),
            method=method,
            route=name,
            status=self.status,
            seconds=round(seconds, 6),
            **({"key": self.owner} if self.owner else {}),
            **self.facts,
        )

    async def _refuse(self, problem: Problem) -> None:
        if self.status:
            return  # an answer has begun
        if problem.status == 429:
            self._service.metrics.refused(problem.code)
        headers = [(b"content-type", b"application/json")]
        headers += [(name.encode(), value.encode()) for name, value in problem.headers.items()]
        if problem.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        body = orjson.dumps(body_of(problem))
        headers.append((b"content-length", str(len(body)).encode()))
        try:
            await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})
        except TimeoutError:
            pass

    async def send(self, message: Message) -> None:
        """Pass a message on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in SECURITY_HEADERS.items() if name not in present]
            if self.scope.get("scheme") == "https":
                headers.append((b"strict-transport-security", b"max-age=31536000"))
            headers.append((b"x-request-id", self.id))
            if self.close or self._service.draining:
                headers.append((b"connection", b"close"))
            await self._send({**message, "headers": headers})
            return
        async with asyncio.timeout(self._service.settings.limits.send_seconds):
            await self._send(message)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _length(headers: dict[bytes, bytes]) -> int | None:
    value = headers.get(b"content-length", b"")
    return int(value) if value.isdigit() else None


def _overloaded(service: Service) -> Problem:
    seconds, limit = service.wait_seconds, service.settings.limits.queue_seconds
    return Problem(
        429,
        f"{service.backlog:,} tokens are waiting, about {seconds:.1f} seconds of work; the limit is {limit:g}",
        "Try again after the seconds in the header Retry-After.",
        code="overloaded",
        retry_after=min(max(math.ceil(seconds), 1), 60),
    )
