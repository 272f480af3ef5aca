"""Extraction against the recipe as people write it, what dropout variants cost, and memory over a hundredfold input.

    python benchmarks/bench_extract.py            # prints ratios and writes them into benchmarks/README.md

Every figure is a ratio of two programs that ran in turn (A B A B …) in one process; the median over the rounds is
quoted, by the clock and in CPU time of all threads, with the smallest and largest. Absolute speeds depend on the
machine and the moment; ratios much less.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tables import put, quote

from embedsvc import Settings, Text, catalog, extract_files, fetching, load_model, masks
from embedsvc import texts as read_texts
from embedsvc.extraction import describe, extract
from embedsvc.models import engines
from embedsvc.occupancy import Occupancy
from embedsvc.store import open_store
from embedsvc.types import Mode

HERE = Path(__file__).parent
PASSES = 4  # of training mode, in one run
HEAD_PASSES = 100
Row = tuple[str, str, str, str]  # what, by the clock, in CPU time, goal
TOKENS = 36  # mean length of the texts, special tokens included


def example_texts(encoder, count: int) -> list[str]:
    """Sentences of the examples, chosen so that their mean length is TOKENS."""
    import csv

    with (HERE.parent / "examples" / "texts.csv").open(encoding="utf-8", newline="") as file:
        pool = [row["text"] for row in csv.DictReader(file)]
    # Pairs of neighbours make the longer half; lengths then spread from 4 to 120 tokens as reviews do.
    pool += [f"{a} {b}" for a, b in itertools.pairwise(pool)] + [
        f"{a} {b} {c}" for a, b, c in zip(pool, pool[1:], pool[2:], strict=False)
    ]
    lengths = encoder.tokenize(pool).counts + 2
    rng = np.random.default_rng(0)
    order = rng.permutation(np.flatnonzero(lengths <= 120))
    chosen: list[int] = []
    for row in itertools.cycle(order):
        mean = np.mean(lengths[chosen]) if chosen else TOKENS
        # Take what pulls the mean towards TOKENS.
        if len(chosen) < 20 or (lengths[row] - TOKENS) * (mean - TOKENS) <= 0:
            chosen.append(int(row))
        if len(chosen) == count:
            return [pool[row] for row in chosen]
    raise AssertionError


def recipe(folder: Path):
    """The recipe of tutorials on the same weights: preprocess to 128, encoder, dropout, dense; `predict`."""
    import keras
    import keras_hub

    backbone = keras_hub.models.BertBackbone.from_preset(str(folder))
    tokenizer = keras_hub.models.BertTokenizer.from_preset(str(folder))
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=128)
    dropped = keras.layers.Dropout(0.1)(backbone.output["pooled_output"])
    model = keras.Model(
        backbone.input, {"pooled": backbone.output["pooled_output"], "out": keras.layers.Dense(3)(dropped)}
    )
    return lambda texts: model.predict(preprocessor(texts), batch_size=32, verbose=0)["pooled"]


def interleaved(programs: dict, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each program by the clock and in CPU time, (rounds, 2), in turn; a first run does not count."""
    for program in programs.values():
        program()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for at in range(rounds):
        for name in list(programs)[:: -1 if at % 2 else 1]:
            began, cpu = time.perf_counter(), time.process_time()
            programs[name]()
            seconds[name].append((time.perf_counter() - began, time.process_time() - cpu))
    return {name: np.array(each) for name, each in seconds.items()}


def ratio(over: np.ndarray, under: np.ndarray) -> tuple[str, str]:
    """By the clock, and in CPU time."""
    clock, cpu = map(quote, (over / under).T)
    return clock, cpu


def speed(rounds: int, count: int) -> list[Row]:
    folder = fetching.fetch(catalog.MODELS["minilm-l6"])
    encoder = load_model("minilm-l6")
    texts = example_texts(encoder, count)
    mean = float((encoder.tokenize(texts).counts + 2).mean())
    predict = recipe(folder)
    theirs = predict(texts[:64])
    rows = [Text(str(i), text) for i, text in enumerate(texts)]
    settings = Settings(taps=("pre_dropout",))
    ours = next(extract(rows[:64], encoder, settings)).vectors["pre_dropout.inference"]
    # keras-hub computes GELU by the tanh approximation, and splits a few non-English words otherwise.
    differences = np.abs(ours - theirs).max(axis=1)
    alike = differences < 1e-3
    assert alike.mean() > 0.95, f"only {alike.mean():.0%} of the recipe's vectors agree"
    worst = float(differences[alike].max())

    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "texts.txt"
        source.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        number = itertools.count()

        def from_file() -> None:
            """What `extract_files` does once the model is loaded: scan, read, encode, write Parquet, sync."""
            out = Path(scratch) / f"{next(number)}.parquet"
            scan = read_texts.scan([str(source)])
            with open_store(out, describe(encoder, settings)) as store:
                for block in extract(read_texts.read(scan), encoder, settings):
                    store.write(block)
                store.finish(rows=scan.rows)
            out.unlink()

        def compiling() -> float:
            """Seconds that a run with a model just loaded takes more than one with a graph that was run before."""
            out = Path(scratch) / f"{next(number)}.parquet"
            fresh = extract_files([str(source)], out, model="minilm-l6", settings=settings).seconds
            out.unlink()
            began = time.perf_counter()
            from_file()
            return fresh - (time.perf_counter() - began)

        def timed(**changes):
            return lambda: list(extract(rows, encoder, Settings(**changes)))

        pre = next(extract(rows, encoder, settings)).vectors["pre_dropout.inference"]
        keys = masks.row_keys(text.id for text in rows)

        def head_passes():
            # Drawn and dropped as a reader's loop does it; 100 passes of 20 texts are 3 MB.
            for first in range(0, len(pre), 20):
                part = slice(first, first + 20)
                encoder.head.posts(pre[part], keys[part], seed=7, passes=range(HEAD_PASSES))

        def training(passes: int):
            return timed(taps=("pre_dropout",), modes=(Mode.TRAINING,), passes=passes, seed=7)

        def waited() -> float:
            occupancy = Occupancy()
            list(extract(rows, encoder, settings, occupancy=occupancy))
            return occupancy.waiting

        seconds = interleaved(
            {
                "recipe": lambda: predict(texts),
                "file": from_file,
                "inference": timed(taps=("pre_dropout",)),
                "training": training(1),
                "passes": training(PASSES),
                "head": head_passes,
            },
            rounds,
        )
        first = np.array([compiling() for _ in range(3)])
        waiting = np.array([waited() for _ in range(3)])
    rate, on_disk = (count / statistics.median(seconds[name][:, 0]) for name in ("inference", "file"))
    units = HEAD_PASSES * pre.size / seconds["head"] / 1e6  # one thread draws them
    rest = "" if alike.all() else "; the rest is tokenised otherwise"
    agree = f"{alike.mean():.1%}, to {worst:.1e} (GELU by tanh there){rest}"
    theirs_rate = count / statistics.median(seconds["recipe"][:, 0])
    passes = seconds["passes"] / PASSES
    return [
        ("texts", f"{count}, {mean:.1f} tokens on average", "", ""),
        ("vectors that agree with the recipe's", agree, "", ""),
        ("texts/s of the recipe padded to 128, here and now", f"{theirs_rate:.0f}", "", ""),
        ("texts/s of extract in memory, here and now", f"{rate:.0f}", "", ""),
        ("texts/s of extract from file to Parquet, here and now", f"{on_disk:.0f}", "", ""),
        ("the first run of a process, seconds more: the graph is compiled", quote(first), "", ""),
        ("share of the time in which the encoder waits for texts", quote(waiting), "", ""),
        ("extract from file to Parquet ÷ recipe, texts/s", *ratio(seconds["recipe"], seconds["file"]), "≥ 10"),
        ("extract in memory ÷ recipe, texts/s", *ratio(seconds["recipe"], seconds["inference"]), ""),
        ("a training pass ÷ an inference pass, time", *ratio(seconds["training"], seconds["inference"]), "≤ 1.15"),
        (f"one of {PASSES} training passes ÷ an inference pass", *ratio(passes, seconds["inference"]), "≤ 1.15"),
        ("head passes, million mask units a second on a core", *map(quote, units.T), "≥ 200"),
        (f"{HEAD_PASSES} head passes ÷ inference, time", *ratio(seconds["head"], seconds["inference"]), "≤ 0.05"),
    ]


def growth(counts: Sequence[int] = (2_000, 20_000, 100_000)) -> list[tuple[str, str, str]]:
    """Time and peak memory of whole runs by their number of texts, no two alike, through a real BERT, if a tiny one."""
    sys.path.append(str(HERE.parent))  # the tiny model of the tests
    from tests.models.tiny_bert import CONFIG, VOCABULARY, WORDS, make_tensors, write_folder

    shape = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2, "max_position_embeddings": 128}
    words = [word for word in WORDS if not word.startswith("##")]
    # Not ru_maxrss: a child begins with the peak of the process that started it.
    script = (
        "import os, re, sys; from embedsvc import Settings, extract_files; "
        "done = extract_files([sys.argv[1]], sys.argv[2], model=sys.argv[3], settings=Settings(taps=('pre_dropout',)));"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]; "
        "print(done.seconds, sum(os.times()[:2]), peak)"
    )
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        model = write_folder(Path(scratch) / "model", make_tensors(CONFIG | shape), CONFIG | shape, VOCABULARY)
        for count in counts:
            rng = np.random.default_rng(count)
            source = Path(scratch) / f"{count}.txt"
            with source.open("w", encoding="utf-8") as file:
                file.writelines(" ".join(rng.choice(words, rng.integers(18, 39))) + "\n" for _ in range(count))
            command = [
                sys.executable,
                "-c",
                script,
                str(source),
                str(Path(scratch) / f"{count}.parquet"),
                f"hf:{model}",
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append([float(word) for word in done.stdout.split()])
    seconds, cpu, peaks = np.array(found).T
    per_text = np.diff(cpu) / np.diff(counts)
    return [
        *(
            (f"{count:,} texts through a BERT of 2 layers of 128", f"{at:.1f} s, {peak / 1024:.0f} MB at most", "")
            for count, at, peak in zip(counts, seconds, peaks, strict=True)
        ),
        ("CPU time of a further text, last step ÷ the one before", f"{per_text[-1] / per_text[-2]:.2f}", "1"),
        # The fewest are less than the two blocks that a run holds.
        (f"peak memory, {counts[-1]:,} ÷ {counts[-2]:,} texts", f"{peaks[-1] / peaks[-2]:.2f}", "flat"),
    ]


def memory() -> list[tuple[str, str, str]]:
    """Peak memory of whole runs over 10,000 and 1,000,000 short texts, with the numpy encoder."""
    peaks = {}
    with tempfile.TemporaryDirectory() as scratch:
        for count in (10_000, 1_000_000):
            source = Path(scratch) / f"{count}.txt"
            with source.open("w") as file:
                file.writelines(f"short text number {i} about nothing much\n" for i in range(count))
            script = (
                "import re, sys; from embedsvc import Settings, extract_files; "
                "extract_files([sys.argv[1]], sys.argv[2], model='fake:', settings=Settings(taps=('pre_dropout',))); "
                # Not ru_maxrss: a child begins with the peak of the process that started it.
                "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
            )
            done = subprocess.run(
                [sys.executable, "-c", script, str(source), str(Path(scratch) / f"{count}.parquet")],
                check=True,
                capture_output=True,
                text=True,
            )
            peaks[count] = int(done.stdout) / 1024
    few, many = peaks.values()
    return [
        ("peak memory, 10,000 texts (numpy encoder)", f"{few:.0f} MB", ""),
        ("peak memory, 1,000,000 texts (numpy encoder)", f"{many:.0f} MB", ""),
        ("their ratio", f"{many / few:.2f}", "flat"),
    ]


def write(mark: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Put a table into benchmarks/README.md, between its marks."""
    table = [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
    import tensorflow as tf

    cores = len(os.sched_getaffinity(0))
    engine = engines.choose()
    versions = f"Python {platform.python_version()}, TensorFlow {tf.__version__}, extract on {engine}"
    machine = f"{platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f}, {versions}"
    put(mark, [*table, "", f"Machine: {machine}."])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=1200)
    parser.add_argument("--only", choices=("speed", "memory", "growth"))
    arguments = parser.parse_args()
    wanted = [arguments.only] if arguments.only else ["speed", "memory", "growth"]
    if "speed" in wanted:
        head = ("what", "by the clock", "in CPU time", "goal")
        write("bench_extract", head, speed(arguments.rounds, arguments.texts))
    if "memory" in wanted:
        write("bench_extract memory", ("what", "figure", "goal"), memory())
    if "growth" in wanted:
        write("bench_extract growth", ("what", "figure", "goal"), growth())
