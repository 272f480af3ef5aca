"""Taking a request in: its body within limits of size and time, and whether its client is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from embedsvc.service.problems import Problem
from embedsvc.service.settings import Limits

__all__ = ["App", "Held", "Message", "Receive", "Scope", "Send", "read_body", "run_while_connected"]

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Held:
    """Bytes of bodies that are held at one time.

    Attributes
    ----------
    bytes : int
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.bytes = 0

    def add(self, size: int) -> None:
        """Hold so many more.

        Raises
        ------
        Problem
            429, if that would be too many.
        """
        if self.bytes + size > self._most:
            raise Problem(
                429, "too many large requests are being read", "Try again later.", code="overloaded", retry_after=1
            )
        self.bytes += size


async def read_body(receive: Receive, announced: int | None, limits: Limits, held: Held) -> bytes | None:
    """The whole body, or None if its client went away; `held` has grown by its length then.

    Raises
    ------
    Problem
        413 for a body over the limit, 408 for one that does not arrive, 429 when too many are held.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            if announced is not None and announced > limits.body_bytes:
                await _discard(receive, limits.body_bytes)
                raise _too_large(limits)
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    held.bytes -= size
                    return None
                chunk = message.get("body", b"")
                if size + len(chunk) > limits.body_bytes:
                    if message.get("more_body", False):
                        await _discard(receive, limits.body_bytes)
                    raise _too_large(limits)
                held.add(len(chunk))
                chunks.append(chunk)
                size += len(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        held.bytes -= size
        raise Problem(
            408, f"the body did not arrive within {limits.body_seconds:g} seconds", "Send it faster, or in parts."
        ) from None
    except Problem:
        held.bytes -= size
        raise


def _too_large(limits: Limits) -> Problem:
    return Problem(
        413,
        f"the body is longer than {limits.body_bytes:,} bytes",
        "Send fewer texts at once.",
        code="body_too_large",
    )


async def _discard(receive: Receive, most: int) -> None:
    """Read on for a while: a client that is still sending does not look for an answer."""
    while most > 0:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        most -= len(message.get("body", b""))


async def run_while_connected(app: App, scope: Scope, body: bytes, receive: Receive, send: Send) -> bool:
    """Run an application on a body that was read; False if its client went away and it was cancelled.

    So a request that nobody waits for any more leaves the queue before it costs a batch.
    """
    given = False

    async def replay() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task = asyncio.ensure_future(app(scope, replay, send))
    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        await task  # raises what it raised
        return True
    finally:
        for each in (task, watch):
            if not each.done():
                each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
