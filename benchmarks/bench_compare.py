"""compare beside one neighbour graph, and CKA streamed from a set in flat memory.

    python benchmarks/bench_compare.py                            # up to 100,000 × 384, and CKA of 1,000,000 × 768
    python benchmarks/bench_compare.py --texts 2000 5000 --many 0   # a minute

Graph and comparison take turns in one process; their ratio is what counts. Up to 10,000 texts `compare` finds the
neighbours of every text in every variant and under every drawn mask, so that each has its scores: then it is the number
of graphs that the ratio is to be read beside, and of few texts the seconds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from synthetic import write_set
from tables import Row, write

from embedsvc import EmbeddingSet, compare
from embedsvc.knn import neighbor_graph
from embedsvc.shared import ALL_TEXTS as EVERY_TEXT
from embedsvc.types import Mode

VARIANTS = ("pre_dropout.inference", "pre_dropout.training.0", "post_dropout.training.0", "post_dropout.head.0")


def speed(scratch: Path, texts: int, width: int, rounds: int) -> list[Row]:
    write_set(scratch / "speed", texts, width)
    made = EmbeddingSet.read(scratch / "speed")
    vectors = made["pre_dropout.inference"]
    searched, compared = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        graph = neighbor_graph(vectors, 50)
        between = time.perf_counter()
        found = compare(made, variants=VARIANTS)
        searched.append(between - began)
        compared.append(time.perf_counter() - between)
    shutil.rmtree(scratch / "speed")
    ratio = statistics.median(whole / one for whole, one in zip(compared, searched, strict=True))
    few = texts <= EVERY_TEXT
    what = f"{texts:,} × {width}, {len(VARIANTS)} variants, {len(found.pairs)} pairs: "
    return [
        (f"{what}compare ÷ one graph, time", f"{ratio:.2f}", "≤ 2" if texts >= 100_000 else ""),
        ("the graph, k = 50", f"{statistics.median(searched):.2f} s here and now; {graph.method}", ""),
        ("compare, all six measures", f"{statistics.median(compared):.1f} s here and now; {found.sampling}", ""),
        *([("graphs among it, of variants and of drawn masks", f"{len(VARIANTS) + found.n_simulations}", "")] * few),
    ]


def memory(scratch: Path, few: int, many: int, width: int) -> list[Row]:
    peaks, seconds = {}, {}
    script = (
        "import re, sys; from embedsvc import EmbeddingSet, compare; "
        "compare(EmbeddingSet.read(sys.argv[1]), measures=['cka'], "
        "variants=['pre_dropout.inference', 'pre_dropout.training.0']); "
        # Not ru_maxrss: a child begins with the peak of the process that started it.
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    for texts in (few, many):
        path = scratch / f"memory-{texts}"
        write_set(path, texts, width, (Mode.INFERENCE, Mode.TRAINING))
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True)
        seconds[texts] = time.perf_counter() - began
        peaks[texts] = int(done.stdout) / 1024
    return [
        *(
            (f"peak memory of CKA, {n:,} × {width}", f"{peaks[n]:.0f} MB in {seconds[n]:.0f} s", "")
            for n in (few, many)
        ),
        ("their ratio", f"{peaks[many] / peaks[few]:.2f}", "flat"),
        ("two variants of the larger, as arrays", f"{2 * many * width * 4 / 2**20:,.0f} MB", ""),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, nargs="*", default=[2_000, 5_000, 10_000, 20_000, 100_000])
    parser.add_argument("--few", type=int, default=100_000)
    parser.add_argument("--many", type=int, default=400_000, help="0 for no measurement of memory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found: list[Row] = []
        # What numba compiles is compiled before the clock runs.
        neighbor_graph(np.random.default_rng(0).standard_normal((3000, 384)).astype(np.float32), 50, exact=False)
        for texts in arguments.texts:
            found += speed(Path(folder), texts, 384, rounds=1 if texts > 20_000 else 3)
        if arguments.many:
            found += memory(Path(folder), arguments.few, arguments.many, 768)
        write("bench_compare", found)
