import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from embedsvc.models.fake import FakeEncoder
from embedsvc.service import hosting
from embedsvc.service.server import loop_factory, make_server
from embedsvc.service.service import Service
from embedsvc.service.settings import Settings


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


@dataclass
class Running:
    """A service on a real port."""

    port: int
    service: Service
    server: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            given = {"content-type": "application/json"} if body is not None else {}
            given |= {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, content, given)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.call("POST", path, body, **headers)


@contextmanager
def serving(settings: Settings, *, wait: bool = True) -> Iterator[Running]:
    """The service in a thread, on a free port."""
    made: list[Running] = []
    up = threading.Event()

    async def run() -> None:
        server, service = make_server(settings)
        task = asyncio.create_task(server.serve())
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        while wait and not service.ready and not service.failure:
            await asyncio.sleep(0.005)
        made.append(Running(server.servers[0].sockets[0].getsockname()[1], service, server))
        up.set()
        await task

    def serve() -> None:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(run())

    thread = threading.Thread(target=serve)
    thread.start()
    assert up.wait(60)
    try:
        yield made[0]
    finally:
        made[0].server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"


def local(**changes: Any) -> Settings:
    """Settings of a service on a free port of loopback."""
    return Settings(**({"models": {"fake": "fake:16"}, "port": 0} | changes))


class HeldEncoder(FakeEncoder):
    """An honest encoder that waits at a gate, and remembers what it was given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()

    def encode(self, tokens, *, keys, taps, pass_):
        self.threads.add(threading.current_thread().name)
        if any(text == "warm" for text in tokens.texts):
            return super().encode(tokens, keys=keys, taps=taps, pass_=pass_)
        self.batches.append(tokens.counts.tolist())
        self.begun.release()
        assert self.gate.wait(30)
        if any("poison" in text for text in tokens.texts):
            raise ValueError("secret text: poison")
        return super().encode(tokens, keys=keys, taps=taps, pass_=pass_)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> HeldEncoder:
    """What every model is loaded as."""
    encoder = HeldEncoder(width=16)
    monkeypatch.setattr(hosting, "load_model", lambda uri, options: encoder)
    return encoder


@pytest.fixture(scope="session")
def fake() -> Iterator[Running]:
    """A service of the numpy encoder, shared: no test may change it."""
    with serving(local()) as running:
        yield running


@pytest.fixture
def in_threads() -> Callable[..., list[Any]]:
    """Run calls at once, and give their results in order."""

    def run(*calls: Callable[[], Any]) -> list[Any]:
        results: list[Any] = [None] * len(calls)

        def work(at: int) -> None:
            results[at] = calls[at]()

        threads = [threading.Thread(target=work, args=(at,)) for at in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return results

    return run


def random_texts(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    words = ["the", "film", "was", "good", "bad", "very", "plot", "café", "日本", "!"]
    return [" ".join(rng.choice(words, rng.integers(1, 40))) for _ in range(n)]
