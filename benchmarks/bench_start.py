"""How long a command takes to start: `embedsvc --help`, and ten lines to a file beside `python -c "import tensorflow"`.

    python benchmarks/bench_start.py              # prints the figures and writes them into benchmarks/README.md

Every run is a fresh process. They take turns (A B C …, then … C B A); the median over the rounds of a ratio within one
round is quoted, by the clock and in CPU time, with the smallest and largest.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tables import put, quote

from embedsvc import catalog, fetching

HERE = Path(__file__).parent
MODEL = "minilm-l6-sentiment"
HELP, IMPORT, OPENVINO, TENSORFLOW = "--help", "import tensorflow", "openvino", "tensorflow"


def programs(scratch: Path) -> dict[str, list[str]]:
    """What is run, each time to a file that is not there yet."""
    texts = (HERE.parent / "examples" / "texts.csv").read_text("utf-8").splitlines(keepends=True)[:11]
    (scratch / "ten.csv").write_text("".join(texts), "utf-8")
    extract = ["-m", "embedsvc", "extract", str(scratch / "ten.csv"), "-q", "-m", MODEL]
    return {
        HELP: ["-m", "embedsvc", "--help"],
        IMPORT: ["-c", "import tensorflow"],
        OPENVINO: [*extract, "--engine", "openvino"],
        TENSORFLOW: [*extract, "--engine", "tensorflow"],
    }


def run(command: list[str], out: Path) -> tuple[float, float]:
    """Seconds by the clock, and of CPU time in the process and its threads."""
    if "extract" in command:
        command = [*command, "-o", str(out)]
    # With bytecode, as an installed package has it; a first round that does not count writes it.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], env=env, check=True, capture_output=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(rounds: int) -> dict[str, np.ndarray]:
    """Clock and CPU seconds of each program, shape (rounds, 2)."""
    fetching.fetch(catalog.MODELS[MODEL])
    with tempfile.TemporaryDirectory() as name:
        scratch, number = Path(name), itertools.count()
        commands = programs(scratch)
        seconds: dict[str, list[tuple[float, float]]] = {program: [] for program in commands}
        for at in range(rounds + 1):
            for program in list(commands)[:: -1 if at % 2 else 1]:
                seconds[program].append(run(commands[program], scratch / f"{next(number)}.parquet"))
    return {program: np.array(each[1:]) for program, each in seconds.items()}


def write(rounds: int) -> None:
    """Put the table into benchmarks/README.md, between its marks."""
    seconds = measure(rounds)
    rows = [("`embedsvc --help`, seconds here and now", *map(quote, seconds[HELP].T), "≤ 0.3")]
    rows += [
        (f"ten lines to a file on {engine} ÷ `import tensorflow`", *map(quote, ratios), "≤ 1.5")
        for engine in (OPENVINO, TENSORFLOW)
        for ratios in [(seconds[engine] / seconds[IMPORT]).T]
    ]
    table = ["| what | by the clock | in CPU time | goal |", "| --- | --- | --- | --- |"]
    table += [f"| {' | '.join(row)} |" for row in rows]
    cores = len(os.sched_getaffinity(0))
    machine = f"{platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    put("bench_start", [*table, "", f"Machine: {machine}."])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    write(parser.parse_args().rounds)
