"""Too many requests: those refused cost next to nothing, those admitted wait no longer than they may."""

import asyncio
import json
import socket
import time
from statistics import median

import pytest

from embedsvc.models.fake import FakeEncoder
from embedsvc.service import hosting
from embedsvc.service.service import Service
from embedsvc.service.settings import Limits
from tests.service.conftest import local, serving

SECONDS_PER_TOKEN = 0.002


class SlowEncoder(FakeEncoder):
    """An honest encoder that takes its time, and none of the processor's."""

    def encode(self, tokens, *, keys, taps, pass_):
        time.sleep(SECONDS_PER_TOKEN * float(tokens.counts.sum()))
        return super().encode(tokens, keys=keys, taps=taps, pass_=pass_)


async def asked(port, body, due):
    """Status of a request that is sent when it is due, and the seconds from then on until its answer."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(due - loop.time())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )
    status = int((await reader.readline())[9:12])
    writer.close()
    return status, loop.time() - due


async def flood(port, body, rate, seconds):
    begun = asyncio.get_running_loop().time() + 0.05
    return await asyncio.gather(*(asked(port, body, begun + at / rate) for at in range(int(rate * seconds))))


def test_what_is_admitted_of_ten_times_too_many_waits_no_longer_than_it_may(monkeypatch):
    monkeypatch.setattr(hosting, "load_model", lambda uri, options: SlowEncoder(width=16))
    budget, wait = 64, 0.8
    body = json.dumps({"input": ["a", "b c d", "e f g h i j k", "l m n o p q r s t u v w x y"]}).encode()
    each = 25 * SECONDS_PER_TOKEN
    with serving(local(workers=1, token_budget=budget, limits=Limits(queue_seconds=wait))) as running:
        assert running.call("POST", "/v1/embeddings", body).status == 200
        answers = asyncio.run(flood(running.port, body, 10 / each, 3))
    admitted = [seconds for status, seconds in answers if status == 200]
    refused = [seconds for status, seconds in answers if status == 429]
    assert len(admitted) + len(refused) == len(answers)
    batch = budget * SECONDS_PER_TOKEN
    # The batch that runs, what waits for its turn, its own batch; and what a busy machine adds.
    assert max(admitted) < batch + wait + batch + 0.4
    assert median(refused) < 0.1
    assert len(admitted) > 0.8 * 3 / each


@pytest.fixture
def full(monkeypatch):
    monkeypatch.setattr(Service, "full", property(lambda self: True))


def test_a_request_is_refused_by_its_head_before_its_body_is_there(full):
    with serving(local()) as running, socket.create_connection(("127.0.0.1", running.port), timeout=10) as sock:
        sock.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 429 ")


def test_a_refusal_has_the_shape_and_the_headers_of_every_answer(full):
    with serving(local()) as running:
        answer = running.post("/v1/embeddings", {"input": "a"}, x_request_id="mine")
        other = running.get("/health")
        assert (answer.status, answer.error["code"], answer.error["type"]) == (429, "overloaded", "rate_limit_error")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["x-request-id"] == "mine"
        own = {"content-length", "x-request-id", "retry-after", "date"}
        assert answer.headers.items() - other.headers.items() <= {(name, answer.headers[name]) for name in own}
        assert running.service.metrics._refused.labels("overloaded")._value.get() == 1
