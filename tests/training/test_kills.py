"""A training that is killed again and again ends with the weights of one that was not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [6])
def test_a_killed_training_resumes_to_the_same_weights(tmp_path, kills):
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.kills", str(tmp_path), str(kills)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=560,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) >= kills
