import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak_serve.py"


@pytest.mark.slow
def test_faulty_clients_leave_nothing_behind_and_change_no_answer():
    """The short version of the soak; the long one takes fifteen minutes and runs on the real model."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--seconds", "15", "--model", "fake:64"],
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout)["outcomes"]
    assert outcomes["honest 200"] > 50
    assert {"cancelled", "half closed", "stalled", "garbage 400"} <= set(outcomes)
    assert not any(outcome.endswith("500") for outcome in outcomes)
