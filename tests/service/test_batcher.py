import time

import numpy as np
import pytest

from embedsvc import masks
from embedsvc.models.base import forward
from embedsvc.models.fake import FakeEncoder
from embedsvc.service.batcher import Batcher, Closed
from embedsvc.service.queue import Flow
from embedsvc.types import Mode, Pass, Text
from tests.service.conftest import HeldEncoder, random_texts

TAPS = ("pre_dropout",)


@pytest.fixture
def batcher():
    made = Batcher(token_budget=128, workers=2)
    yield made
    made.close()


def submit(batcher, encoder, texts, pass_=None, ids=None):
    tokens = encoder.tokenize(texts)
    keys = masks.row_keys(ids or texts)
    return batcher.submit(encoder, tokens, keys=keys, taps=TAPS, pass_=pass_ or Pass(), flow=Flow())


@pytest.mark.parametrize("pass_", [Pass(), Pass(Mode.TRAINING, 3, 7)])
def test_vectors_do_not_depend_on_the_batch_they_rode_in(batcher, pass_):
    encoder = FakeEncoder(max_tokens=None)
    requests = [random_texts(n, seed) for seed, n in enumerate([1, 30, 2, 17, 1, 1, 50])]
    futures = [submit(batcher, encoder, texts, pass_) for texts in requests]
    for texts, future in zip(requests, futures, strict=True):
        alone = forward(encoder, [Text(text, text) for text in texts], taps=TAPS, pass_=pass_)
        assert np.array_equal(future.result(30)["pre_dropout"], alone.vectors["pre_dropout"])


def test_a_cancelled_request_never_reaches_the_encoder():
    encoder = HeldEncoder()
    batcher = Batcher(token_budget=8, workers=1)
    first = submit(batcher, encoder, ["a"])
    assert encoder.begun.acquire(timeout=10)
    second, third = submit(batcher, encoder, ["b b"] * 50), submit(batcher, encoder, ["c c c"])
    assert second.cancel()
    assert batcher.tokens == 4, "the tokens of the cancelled one count no more"
    encoder.gate.set()
    first.result(10), third.result(10)
    assert encoder.batches == [[1], [3]]
    batcher.close()


def test_a_cancelled_request_drops_rows_that_have_not_begun():
    encoder = HeldEncoder()
    batcher = Batcher(token_budget=2, workers=1)
    future = submit(batcher, encoder, ["a"] * 100)
    assert encoder.begun.acquire(timeout=10)
    assert future.cancel()
    encoder.gate.set()
    submit(batcher, encoder, ["b"]).result(10)
    assert len(encoder.batches) == 2
    batcher.close()


def test_what_one_request_breaks_does_not_break_those_that_rode_with_it():
    encoder = HeldEncoder()
    batcher = Batcher(token_budget=128, workers=1)
    first = submit(batcher, encoder, ["a"])
    assert encoder.begun.acquire(timeout=10)
    good, bad, other = (submit(batcher, encoder, [text]) for text in ("b", "poison", "c"))
    encoder.gate.set()
    assert first.result(10) and good.result(10) and other.result(10)
    with pytest.raises(ValueError, match="poison"):
        bad.result(10)
    assert [1, 1, 1] in encoder.batches, "they did ride together"
    assert batcher.tokens == batcher.backlog == 0
    batcher.close()


def test_a_failed_request_gives_up_its_other_rows():
    encoder = HeldEncoder()
    encoder.gate.set()
    batcher = Batcher(token_budget=2, workers=1)
    future = submit(batcher, encoder, ["poison"] + ["a"] * 50)
    with pytest.raises(ValueError, match="poison"):
        future.result(10)
    submit(batcher, encoder, ["b"]).result(10)
    assert len(encoder.batches) <= 3
    batcher.close()


def test_closing_answers_what_waits():
    encoder = HeldEncoder()
    batcher = Batcher(token_budget=2, workers=1)
    running = submit(batcher, encoder, ["a"])
    assert encoder.begun.acquire(timeout=10)
    waiting = submit(batcher, encoder, ["b"])
    encoder.gate.set()
    batcher.close()
    assert running.result(0)
    assert waiting.done()
    with pytest.raises(Closed):
        submit(batcher, encoder, ["c"])


def test_no_rows_are_no_work(batcher):
    assert submit(batcher, FakeEncoder(), []).result(0)["pre_dropout"].shape == (0, 16)


def test_workers_that_have_nothing_to_do_burn_no_processor():
    batcher = Batcher(token_budget=128, workers=2)
    submit(batcher, FakeEncoder(), ["a"]).result(10)
    began = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - began < 0.05
    batcher.close()
