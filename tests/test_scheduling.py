import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import scheduling

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("tests/test_head.py::TestHead::test_x[a-b]", "tests/test_head.py"),
        ("embedsvc/masks.py::embedsvc.masks.row_key", "embedsvc/masks.py"),
        (
            "tests/contracts/test_encoders.py::test_x[hub own graph-head]",
            "tests/contracts/test_encoders.py hub own graph",
        ),
        ("tests/contracts/test_encoders.py::test_x[hub]", "tests/contracts/test_encoders.py hub"),
        ("tests/test_umaps.py::test_x", "numba"),
    ],
)
def test_a_group_is_a_file_or_an_encoder(nodeid, name):
    assert scheduling.group(nodeid) == name


def test_no_file_is_named_that_is_gone():
    named = {*scheduling._TOGETHER, *scheduling._LONG} - {*scheduling._TOGETHER.values()}
    assert not [name for name in named if not (ROOT / name.partition(" ")[0]).exists()]


def test_tests_of_a_file_run_in_one_worker():
    """So fixtures are made once; a release of pytest broke that in silence, and a test run took twice the time."""
    pytest.importorskip("xdist")
    files = ["tests/test_errors.py", "tests/test_types.py", "tests/test_registry.py"]
    command = [sys.executable, "-m", "pytest", "-v", "-n", "2", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    ran = re.findall(r"^\[(gw\d)\] .*PASSED (tests/\w+\.py)", done.stdout, re.MULTILINE)
    assert len(ran) > 50
    assert {worker for worker, _ in ran} == {"gw0", "gw1"}
    assert len(set(ran)) == len(files), "each file with one worker"
