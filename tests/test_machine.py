import os

import numpy as np

from embedsvc import machine


def test_processors_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 7}, raising=False)
    assert machine.processors() == 3


def test_where_no_system_tells_all_processors_count(monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.processors() == 6


def test_the_version_is_that_of_the_first_distribution_there_is():
    assert machine.version_of("numpy") == np.__version__
    assert machine.version_of("no-such-thing-at-all", "numpy") == np.__version__
    assert machine.version_of("no-such-thing-at-all") is None
