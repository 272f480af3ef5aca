"""What is held of bodies is let go of, however the reading of a body ends."""

import asyncio

import pytest

from embedsvc.service.intake import Held, read_body
from embedsvc.service.problems import Problem
from embedsvc.service.settings import Limits

LIMITS = Limits(body_bytes=10, body_seconds=0.05)
PIECE = {"type": "http.request", "body": b"12345", "more_body": True}
LAST = {"type": "http.request", "body": b"678", "more_body": False}
GONE = {"type": "http.disconnect"}


def read(*messages, held):
    """The body, or what was raised; after the messages nothing comes any more."""
    waiting = list(messages)

    async def receive():
        if not waiting:
            await asyncio.sleep(60)
        return waiting.pop(0)

    return asyncio.run(read_body(receive, None, LIMITS, held))


def test_a_whole_body_is_held_until_it_is_answered():
    held = Held(100)
    assert read(PIECE, LAST, held=held) == b"12345678"
    assert held.bytes == 8


def test_a_client_that_goes_away_leaves_nothing():
    held = Held(100)
    assert read(PIECE, GONE, held=held) is None
    assert held.bytes == 0


@pytest.mark.parametrize(
    ("messages", "most", "status"),
    [
        pytest.param([PIECE], 100, 408, id="too slow"),
        pytest.param([PIECE, PIECE, LAST], 100, 413, id="too long"),
        pytest.param([PIECE, PIECE, LAST], 8, 429, id="too many at once"),
    ],
)
def test_a_body_that_is_refused_leaves_nothing(messages, most, status):
    held = Held(most)
    with pytest.raises(Problem) as caught:
        read(*messages, held=held)
    assert caught.value.status == status
    assert held.bytes == 0
