"""How busy the workers of an extraction were."""

import json
import subprocess
import sys
import time

import pytest

from embedsvc import Settings, Text, extract, load_model
from embedsvc.occupancy import Occupancy

TEXTS = [Text(str(row), "good morning") for row in range(40)]


class Slow:
    """The numpy encoder, taking its time where it is told to."""

    def __init__(self, *, tokenizing=0.0, encoding=0.0):
        self._inner = load_model("fake:")
        self.spec, self.head = self._inner.spec, self._inner.head
        self._tokenizing, self._encoding = tokenizing, encoding

    def tokenize(self, texts):
        time.sleep(self._tokenizing)
        return self._inner.tokenize(texts)

    def encode(self, *arguments, **options):
        time.sleep(self._encoding)
        return self._inner.encode(*arguments, **options)


def occupancy_of(encoder, *, pause=0.0, **options):
    found = Occupancy()
    for _ in extract(TEXTS, encoder, Settings(rows_per_part=10, token_budget=8), occupancy=found, **options):
        time.sleep(pause)
    return found


def test_workers_wait_for_a_tokenizer_that_is_slower_than_they_are():
    assert occupancy_of(Slow(tokenizing=0.1)).waiting > 0.7


def test_workers_wait_for_a_writer_that_is_slower_than_they_are():
    assert occupancy_of(Slow(), pause=0.1).waiting > 0.7


def test_workers_that_are_slower_than_the_tokenizer_hardly_wait():
    found = occupancy_of(Slow(tokenizing=0.002, encoding=0.02))
    assert found.waiting < 0.4
    assert 0.008 <= found.tokenizing < found.encoding


@pytest.mark.parametrize("workers", [1, 3])
def test_time_is_counted_for_each_worker(workers):
    found = occupancy_of(Slow(encoding=0.02), workers=workers)
    assert found.workers == workers
    assert found.encoding <= workers * found.elapsed
    assert 0 <= found.waiting < 1


def test_nothing_encoded_is_no_share_at_all():
    assert Occupancy().waiting is None
    found = Occupancy()
    assert list(extract([], load_model("fake:"), Settings(), occupancy=found)) == []
    assert found.waiting is None


def test_extract_says_how_long_the_encoder_waited(tmp_path):
    (tmp_path / "texts.txt").write_text("good morning\n" * 20)
    command = [sys.executable, "-m", "embedsvc", "extract", "texts.txt", "-o", "out", "-m", "fake:", "--json"]
    told = [json.loads(subprocess.check_output(command, cwd=tmp_path, stderr=subprocess.DEVNULL)) for _ in range(2)]
    assert 0 <= told[0]["encoder_waiting"] < 1
    assert told[1]["encoder_waiting"] is None, "the second run has nothing to encode"
