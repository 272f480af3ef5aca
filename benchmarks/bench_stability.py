"""What a thousand head passes cost: time and peak memory of `stability` at 10, 100 and 1,000 passes, 10,000 × 768.

    python benchmarks/bench_stability.py          # prints the figures and writes them into benchmarks/README.md

Each run is a fresh process, whose peak is its own (VmHWM). "Flat" is the peak of 1,000 passes over that of 10.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tables import put

_RUN = """
import json, re, sys, time
from embedsvc import EmbeddingSet, stability
embeddings = EmbeddingSet.read(sys.argv[1])
began = time.perf_counter()
found = stability(embeddings, passes=int(sys.argv[2]), neighbor_passes=int(sys.argv[3]))
seconds = time.perf_counter() - began
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
curve = found.curve
print(json.dumps({"seconds": seconds, "peak": peak, "observed": curve.observed[-1], "expected": curve.expected[-1]}))
"""


def make(folder: Path, texts: int, width: int) -> Path:
    """A set of so many short texts through the numpy encoder."""
    from embedsvc import Settings, extract_files

    words = np.random.default_rng(0).integers(0, 2000, (texts, 6))
    (folder / "texts.txt").write_text("\n".join(" ".join(f"w{word}" for word in row) for row in words) + "\n")
    settings = Settings(taps=("pre_dropout",))
    extract_files([str(folder / "texts.txt")], folder / "set.parquet", model=f"fake:{width}", settings=settings)
    return folder / "set.parquet"


def measure(path: Path, passes: int, neighbor_passes: int) -> dict[str, float]:
    run = [sys.executable, "-c", _RUN, str(path), str(passes), str(neighbor_passes)]
    return json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


def figures(texts: int, width: int) -> list[tuple[str, str, str]]:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        path = make(Path(scratch), texts, width)
        found = {passes: measure(path, passes, 0) for passes in (10, 100, 1000)}
        neighbors = measure(path, 10, 5)
    for passes, each in found.items():
        goal = "minutes" if passes == 1000 else ""
        rows.append((f"{passes:,} passes over {texts:,} × {width}, here and now", f"{each['seconds']:.0f} s", goal))
    rows += [(f"peak memory, {passes:,} passes", f"{each['peak']:.0f} MB", "") for passes, each in found.items()]
    rows += [
        ("peak of 1,000 passes ÷ of 10", f"{found[1000]['peak'] / found[10]['peak']:.2f}", "flat"),
        (
            "5 sampled passes' neighbours on top, 10 passes",
            f"{neighbors['seconds'] - found[10]['seconds']:.0f} s, {neighbors['peak']:.0f} MB",
            "",
        ),
        (
            "cosine of the mean of 1,000 passes, against 1/√(1 + p/(qT))",
            f"{found[1000]['observed']:.6f} against {found[1000]['expected']:.6f}",
            "",
        ),
    ]
    return rows


def write(rows: list[tuple[str, str, str]]) -> None:
    """Put the table into benchmarks/README.md, between its marks."""
    table = ["| what | figure | goal |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
    put("bench_stability", [*table, "", f"Machine: {machine}, numpy {np.__version__}."])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=768)
    arguments = parser.parse_args()
    write(figures(arguments.texts, arguments.width))
