"""Timing training steps: every layer once, at a tiny size; how long they take is the machine's affair."""

import json

import pytest
from click.testing import CliRunner

from embedsvc.cli.bench import bench
from embedsvc.errors import SettingsError
from embedsvc.models.recurrent import timing

pytestmark = pytest.mark.tensorflow

TINY = timing.Setting("tiny", steps=4, vocabulary=9, embedding=3, units=2, batch=2)


def test_the_question_has_its_sizes():
    question = timing.SETTINGS["question"]
    assert (question.steps, question.vocabulary, question.embedding) == (80, 2_000, 128)
    assert (question.units, question.batch) == (8, 32)


def test_each_layer_is_timed_and_its_implementation_named(monkeypatch):
    monkeypatch.setitem(timing.SETTINGS, "tiny", TINY)
    command = ["recurrent", "--settings", "tiny", "--rounds", "2", "--seconds", "0.01", "--json"]
    done = CliRunner().invoke(bench, command, catch_exceptions=False)
    found = json.loads(done.stdout)["timings"]
    on_cpu = {each["cell"]: each for each in found if each["device"].startswith("CPU")}
    assert set(on_cpu) == set(timing.CELLS)
    assert on_cpu["simple"]["ratio"] == 1
    assert all(each["seconds"] > 0 and each["low"] <= each["ratio"] <= each["high"] for each in found)
    assert {cell: each["implementation"] for cell, each in on_cpu.items()} == {
        "simple": "loop",
        "gru": "loop",
        "lstm": "loop",
        "lstm, recurrent_dropout": "loop",
        "simple, unrolled": "unrolled",
    }
    assert "no GPU" in on_cpu["lstm"]["why"]
    assert "any device" in on_cpu["simple"]["why"]


def test_an_unknown_setting_is_an_error_that_lists_them():
    with pytest.raises(SettingsError, match="question, medium, large"):
        CliRunner().invoke(bench, ["recurrent", "--settings", "huge"], catch_exceptions=False)
