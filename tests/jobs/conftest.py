"""Small jobs on the numpy encoder, in a folder of their own, with a state folder of their own."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from embedsvc.jobs import Job, load_job
from tests.sets import snapshot

EXTRACT = """
out = "out"
[extract]
sources = ["texts/*.txt"]
model = "fake:"
modes = ["inference", "training", "head"]
passes = 2
seed = 7
rows-per-part = 20
"""
WORDS = ["the", "film", "was", "very", "bad", "never", "dull", "a", "joy", "to", "watch", "and", "hear", "again"]


def lines(seed: int, count: int) -> str:
    """So many texts, all different."""
    rng = random.Random(seed)
    return "".join(f"{' '.join(rng.choices(WORDS, k=rng.randint(2, 14)))} {seed} {row}\n" for row in range(count))


def results(out: Path) -> Mapping[str, bytes]:
    """Everything a job made, but the records of its runs."""
    return {name: data for name, data in snapshot(out).items() if not name.startswith("runs/")}


class Command:
    """`embedsvc run job.toml` as a process of its own, which can be killed."""

    def __init__(self, out: str, settings: tuple[str, ...]) -> None:
        self._words = [sys.executable, "-m", "embedsvc", "run", "job.toml", "-q", "-o", out]
        self._words += [word for setting in settings for word in ("--set", setting)]
        self._env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def kill_when(self, reached: Callable[[], bool]) -> None:
        """Start it, and send signal 9 as soon as that is true; it must not end before."""
        with Path("job.log").open("wb") as log:
            process = subprocess.Popen(self._words, env=self._env, stderr=log)
        while not reached():
            assert process.poll() is None, Path("job.log").read_text()
            time.sleep(0.05)
        process.kill()
        process.wait()

    def run(self) -> Any:
        """Run it to its end: what it prints with --json."""
        done = subprocess.run([*self._words, "--json"], env=self._env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test, with two files of texts: 50 and 30."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(lines(1, 50))
    (tmp_path / "texts" / "b.txt").write_text(lines(2, 30))
    monkeypatch.setenv("EMBEDSVC_STATE", str(tmp_path / "state"))
    for name in [name for name in os.environ if name.startswith("EMBEDSVC_JOB__")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def job(folder: Path) -> Callable[..., Job]:
    """A job of the extraction above and further steps, with settings as --set has them."""

    def make(*settings: str, steps: str = "", text: str = EXTRACT) -> Job:
        (folder / "job.toml").write_text(text + steps)
        return load_job(folder / "job.toml", settings=settings)

    return make
