from dataclasses import replace

import numpy as np
import pytest

from embedsvc.jobs import recall, run_job
from embedsvc.types import Mode
from tests.jobs.conftest import lines
from tests.jobs.test_run import SETTINGS, encoded, full_set, set_of


@pytest.mark.parametrize("modes", [(Mode.INFERENCE, Mode.HEAD), (Mode.INFERENCE, Mode.TRAINING)])
def test_texts_that_share_a_hash_are_told_apart(folder, job, monkeypatch, modes):
    """64 bits only say where to look: with every hash the same, all but one text must be encoded."""
    setting = f"extract.modes={','.join(modes)}"
    run_job(job(setting))
    monkeypatch.setattr(recall, "_keys_of", lambda texts, by_id, count: np.zeros(count, np.uint64))
    (folder / "texts/c.txt").write_text(lines(3, 30))
    assert encoded(run_job(job(setting)))["extract"] == 109
    assert set_of(folder / "out") == full_set(folder, replace(SETTINGS, modes=modes))
