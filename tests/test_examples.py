"""The scripts of examples/ run as they are, with the numpy encoder."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
SAYS = {
    "first_look.py": "post_dropout.head.0: cosine 0.9",
    "grid_search.py": "tap=post_dropout",
    "other_tools.py": "duckdb: (361, 64), the same as ours: True",
}


# Tried in tests/models/recurrent/test_question_tables.py, since what they print stands in the docs.
ELSEWHERE = {"cross_entropy.py", "variational_dropout.py"}


def test_every_example_is_tried():
    assert {path.name for path in FOLDER.glob("*.py")} == set(SAYS) | ELSEWHERE


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name, tmp_path):
    command = [sys.executable, FOLDER / name, "fake:64"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert SAYS[name] in done.stdout
    assert "False" not in done.stdout
