"""Kills a process that writes a set, finishes the set in a second process, and says whether the bytes are the same.

Run as ``python -m tests.crashes HOW TARGET FOLDER``. Everything heavy is imported once, here; each process to be
killed is a fork of this one, which runs no thread of its own.
"""

import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import filelock  # noqa: F401 - imported here so that forks need not
import pyarrow.parquet  # noqa: F401

from embedsvc.errors import StoreError
from embedsvc.formats import FORMATS
from tests.sets import blocks, snapshot, write

STEPS = ("fsync", "replace", "unlink", "rmdir", "mkdir")
ROWS = 18


def run(folder: Path, target: str) -> None:
    """Write the whole set, or what is missing of it."""
    export = FORMATS[target.split(".")[-1]] if target.endswith((".csv", ".npz")) else None
    write(folder / target, blocks(ROWS), rejected=[{"source": "reviews.txt", "row": 3}], export=export)


def die_at(step: int) -> None:
    """Arrange that this process ends, as if killed, right before its step-th change to the disk."""
    count = iter(range(1, sys.maxsize))
    for name in STEPS:
        real = getattr(os, name)

        def dying(*args, real=real, **kwargs):
            if next(count) == step:
                os._exit(9)
            return real(*args, **kwargs)

        setattr(os, name, dying)


def forked(work: Callable[[], None]) -> int:
    """Process id of a fork that does the work and exits with 0."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


def wait(pid: int) -> int:
    """Its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def resume_and_compare(folder: Path, target: str, expected: dict[str, bytes], what: str) -> None:
    """End with an error unless a second process completes the set to the expected bytes."""
    if wait(forked(lambda: run(folder, target))):
        sys.exit(f"killed {what}: could not resume")
    found = snapshot(folder)
    if found != expected:
        differing = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
        sys.exit(f"killed {what}: other bytes in {differing}")


def main(how: str, target: str, place: Path) -> None:
    """Print how many kills went well."""
    unbroken = place / "unbroken"
    unbroken.mkdir()
    began = time.perf_counter()
    if wait(forked(lambda: run(unbroken, target))):
        sys.exit("the unbroken run failed")
    seconds = time.perf_counter() - began
    expected = snapshot(unbroken)
    kills = 0
    if how == "full":
        folder = place / "full"
        folder.mkdir()

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            try:
                run(folder, target)
            except StoreError as error:
                print(error)

        wait(forked(limited))
        if any(name.endswith(".tmp") for name in snapshot(folder)):
            sys.exit("a temporary file was left")
        resume_and_compare(folder, target, expected, "by a full disk")
        kills += 1
    elif how == "steps":
        for step in range(1, 10_000):
            folder = place / f"step-{step}"
            folder.mkdir()

            def doomed(step: int = step, folder: Path = folder) -> None:
                die_at(step)
                run(folder, target)

            code = wait(forked(doomed))
            if code == 0:
                break
            resume_and_compare(folder, target, expected, f"before step {step}")
            kills += 1
    else:
        random.seed(20261123)
        while kills < 10:
            folder = place / f"moment-{kills}"
            folder.mkdir()
            for _ in range(random.randint(1, 2)):
                pid = forked(lambda folder=folder: run(folder, target))
                time.sleep(random.uniform(0, seconds))
                os.kill(pid, signal.SIGKILL)
                wait(pid)
            resume_and_compare(folder, target, expected, f"at moment {kills}")
            kills += 1
    print(f"survived {kills}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
