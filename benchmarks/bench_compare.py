"""compare beside one neighbour graph, and CKA streamed from a set in flat memory.

    python benchmarks/bench_compare.py                                        # 100,000 × 384, and 1,000,000 × 768
    python benchmarks/bench_compare.py --texts 20000 --few 20000 --many 100000   # on a busy machine

The set is made of vectors as text encoders give them: clusters of low rank, noise in all directions, and for the
training pass noise of the encoder's. Programs run in one process, once each; their ratio is what counts.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from embedsvc import EmbeddingSet, Pass, Settings, Text, compare
from embedsvc.extraction import describe
from embedsvc.knn import neighbor_graph
from embedsvc.masks import row_keys
from embedsvc.models.fake import FakeEncoder
from embedsvc.store import open_store
from embedsvc.types import Block, Mode

ROWS = 8192
VARIANTS = ("pre_dropout.inference", "pre_dropout.training.0", "post_dropout.training.0", "post_dropout.head.0")


def make(path: Path, texts: int, width: int, modes: tuple[Mode, ...]) -> None:
    """A set of made-up vectors, block by block."""
    encoder = FakeEncoder(width=width)
    stochastic = any(mode.stochastic for mode in modes)
    settings = Settings(
        taps=("pre_dropout", "post_dropout"),
        modes=modes,
        passes=1 if stochastic else 0,
        seed=7 if stochastic else None,
        rows_per_part=ROWS,
    )
    manifest = describe(encoder, settings)
    rng = np.random.default_rng(1)
    centres, mixing = rng.standard_normal((50, 40)), rng.standard_normal((40, width)) / 6
    with open_store(path, manifest) as store:
        for index, start in enumerate(range(0, texts, ROWS)):
            n = min(ROWS, texts - start)
            rows = tuple(Text(f"t{row}", f"text {row}") for row in range(start, start + n))
            latent = centres[rng.integers(0, 50, n)] + rng.standard_normal((n, 40))
            pre = np.tanh(latent @ mixing + 0.2 * rng.standard_normal((n, width))).astype(np.float32)
            trained = (pre + 0.1 * rng.standard_normal((n, width))).astype(np.float32)
            made = {"pre_dropout.inference": pre}
            if Mode.TRAINING in modes:
                keys = row_keys(text.id for text in rows)
                made["pre_dropout.training.0"] = trained
                made["post_dropout.training.0"] = encoder.head.post(trained, keys, Pass(Mode.TRAINING, 0, 7))
            vectors = {name: made[name] for name in manifest.stored}
            counts = np.full(n, 2, np.int64)
            store.write(Block(index, start, rows, counts, np.zeros(n, np.bool_), vectors))
        store.finish(rows=texts, rejected=())


def speed(scratch: Path, texts: int, width: int) -> list[tuple[str, str, str]]:
    make(scratch / "speed", texts, width, tuple(Mode))
    made = EmbeddingSet.read(scratch / "speed")
    # What numba compiles is compiled before the clock runs.
    warm = np.random.default_rng(0).standard_normal((3000, width)).astype(np.float32)
    neighbor_graph(warm, 50, exact=False)
    vectors = made["pre_dropout.inference"]
    began = time.perf_counter()
    graph = neighbor_graph(vectors, 50)
    graph_seconds = time.perf_counter() - began
    del vectors
    began = time.perf_counter()
    found = compare(made, variants=VARIANTS)
    seconds = time.perf_counter() - began
    return [
        ("set", f"{texts:,} × {width}, {len(VARIANTS)} variants, {len(found.pairs)} pairs", ""),
        ("one neighbour graph, k = 50", f"{graph_seconds:.0f} s here and now; {graph.method}", ""),
        ("compare, all six measures", f"{seconds:.0f} s here and now; {found.sampling}", ""),
        ("compare ÷ one neighbour graph, time", f"{seconds / graph_seconds:.2f}", "≤ 2 at 100,000 × 384"),
    ]


def memory(scratch: Path, few: int, many: int, width: int) -> list[tuple[str, str, str]]:
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
        make(path, texts, width, (Mode.INFERENCE, Mode.TRAINING))
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


def write(rows: list[tuple[str, str, str]]) -> None:
    """Put the table into benchmarks/README.md, between its marks."""
    table = ["| what | figure | goal |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    text = "\n".join([*table, "", f"Machine: {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}."])
    path = Path(__file__).parent / "README.md"
    marks = r"(<!-- bench_compare -->\n).*?(<!-- /bench_compare -->)"
    path.write_text(re.sub(marks, lambda m: f"{m[1]}{text}\n{m[2]}", path.read_text("utf-8"), flags=re.S), "utf-8")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--few", type=int, default=100_000)
    parser.add_argument("--many", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(
            [
                *speed(Path(folder), arguments.texts, 384),
                *memory(Path(folder), arguments.few, arguments.many, 768),
            ]
        )
