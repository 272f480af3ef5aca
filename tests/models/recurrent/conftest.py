import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# A program of its own, for a process with TensorFlow's old Keras: not to be imported in search of doctests.
collect_ignore = ["wrapper_oracle.py"]


@pytest.fixture(scope="session")
def oracle(tmp_path_factory):
    """What TensorFlow's wrappers gave, in a process of their own: they need Keras 2 in TensorFlow's place."""
    folder = tmp_path_factory.mktemp("oracle")
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("wrapper_oracle.py")), str(folder)],
        env=os.environ | {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        capture_output=True,
        timeout=280,
    )
    with np.load(folder / "cases.npz") as file:
        cases: dict[str, dict[str, np.ndarray]] = {}
        for name in file.files:
            case, _, part = name.partition("/")
            cases.setdefault(case, {})[part] = file[name]
    return cases, json.loads((folder / "probes.json").read_text(encoding="utf-8"))
