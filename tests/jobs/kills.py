"""Kills a job with signal 9, runs it again, and says whether all its files are those of a run that was left in peace.

Run as ``python -m tests.jobs.kills HOW PLACE``. Everything heavy is imported once, here; each process to be killed is
a fork of this one, which runs no thread and no job of its own.
"""

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import filelock  # noqa: F401 - imported here so that forks need not
import platformdirs  # noqa: F401
import pyarrow.parquet  # noqa: F401

import embedsvc.models.fake
import embedsvc.uncertainty  # noqa: F401
from embedsvc.jobs import load_job, run_job
from tests.crashes import forked, wait
from tests.jobs.conftest import EXTRACT, lines, results

SEED = 20261124
KILLS = 50


def prepare(folder: Path) -> None:
    """A job and its first texts."""
    (folder / "texts").mkdir(parents=True)
    (folder / "texts" / "a.txt").write_text(lines(1, 160))
    (folder / "job.toml").write_text(EXTRACT + "[stability]\npasses = 2\nneighbor-passes = 0\ncluster-passes = 0\n")


def grow(folder: Path) -> None:
    """More texts: the next run is an increment."""
    (folder / "texts" / "0.txt").write_text(lines(2, 60))


def run(folder: Path) -> None:
    """The job, from its folder."""
    os.chdir(folder)
    run_job(load_job("job.toml"))


def finish(folder: Path, what: str) -> None:
    """Run the job to its end."""
    if wait(forked(lambda: run(folder))):
        sys.exit(f"{what}: could not go on")


def compare(folder: Path, expected: dict[str, bytes], what: str) -> None:
    """End with an error if any file is another."""
    found = results(folder / "out")
    if found != expected:
        differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        sys.exit(f"{what}: other bytes in {differing}")


def unbroken(place: Path) -> tuple[list[dict[str, bytes]], list[float]]:
    """What the job leaves after each of its two runs, and how long they take."""
    prepare(place)
    left, seconds = [], []
    for change in (lambda: None, lambda: grow(place)):
        change()
        began = time.perf_counter()
        finish(place, "unbroken")
        seconds.append(time.perf_counter() - began)
        left.append(dict(results(place / "out")))
    return left, seconds


def starting_points(place: Path) -> tuple[Path, Path]:
    """Folders as they are before the first run and before the increment, to be copied."""
    first, second = place / "first", place / "second"
    prepare(first)
    prepare(second)
    finish(second, "first run")
    grow(second)
    return first, second


def killed(work: Callable[[], None], after: float) -> bool:
    """Whether the work was still under way when it was killed."""
    pid = forked(work)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    return wait(pid) == -signal.SIGKILL


def at_moments(place: Path) -> int:
    """Kill at random moments of the first run or of the increment; one that came too late does not count."""
    expected, seconds = unbroken(place / "unbroken")
    starts = starting_points(place)
    rng = random.Random(SEED)
    kills = tries = 0
    while kills < KILLS:
        tries += 1
        folder, phase = place / f"moment-{tries}", tries % 2
        shutil.copytree(starts[phase], folder)
        moment = rng.uniform(0, seconds[phase])
        kills += killed(lambda folder=folder: run(folder), moment)
        what = f"kill {kills} ({moment:.3f} s into run {phase + 1})"
        finish(folder, what)
        compare(folder, expected[phase], what)
    return kills


def at_changes(place: Path) -> int:
    """Kill before each renaming or removal of a folder: there the sets of an increment change places."""
    expected, _ = unbroken(place / "unbroken")
    starts = starting_points(place)
    for step in range(1, 1000):
        folder = place / f"change-{step}"
        shutil.copytree(starts[1], folder)

        def doomed(folder: Path = folder, step: int = step) -> None:
            count = iter(range(1, sys.maxsize))
            for name in ("rename", "rmdir", "unlink"):
                real = getattr(os, name)

                def dying(*args, real=real, **kwargs):
                    if next(count) == step:
                        os._exit(9)
                    return real(*args, **kwargs)

                setattr(os, name, dying)
            run(folder)

        if wait(forked(doomed)) == 0:
            return step - 1
        finish(folder, f"before change {step}")
        compare(folder, expected[1], f"before change {step}")
    sys.exit("it never ended by itself")


if __name__ == "__main__":
    os.environ["EMBEDSVC_STATE"] = str(Path(sys.argv[2]) / "state")
    print(f"survived {(at_moments if sys.argv[1] == 'moments' else at_changes)(Path(sys.argv[2]))}")
