"""Extraction against the recipe as people write it, what dropout variants cost, and memory over a hundredfold input.

    python benchmarks/bench_extract.py            # prints ratios and writes them into benchmarks/README.md

Every figure is a ratio of two programs that ran in turn (A B A B …) in one process; the median over the rounds is
quoted, with the smallest and largest. Absolute speeds depend on the machine and the moment; ratios much less.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from embedsvc import Settings, Text, catalog, extract_files, fetching, load_model, masks
from embedsvc.extraction import extract
from embedsvc.types import Mode

HERE = Path(__file__).parent
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


def interleaved(programs: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of each program, in turn, after one run of each that does not count."""
    for program in programs.values():
        program()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            began = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(over: list[float], under: list[float]) -> str:
    ratios = sorted(a / b for a, b in zip(over, under, strict=True))
    return f"{statistics.median(ratios):.3g} ({ratios[0]:.3g} to {ratios[-1]:.3g})"


def speed(rounds: int, count: int) -> list[tuple[str, str, str]]:
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

        def files(**changes):
            out = Path(scratch) / f"{next(number)}.parquet"
            summary = extract_files([str(source)], out, settings=Settings(**changes))
            out.unlink()
            return summary.seconds

        def timed(**changes):
            return lambda: list(extract(rows, encoder, Settings(**changes)))

        pre = next(extract(rows, encoder, settings)).vectors["pre_dropout.inference"]
        keys = masks.row_keys(text.id for text in rows)

        def head_passes():
            # Drawn and dropped as a reader's loop does it; 100 passes of 20 texts are 3 MB.
            for first in range(0, len(pre), 20):
                part = slice(first, first + 20)
                encoder.head.posts(pre[part], keys[part], seed=7, passes=range(100))

        four = {
            "taps": ("pre_dropout", "post_dropout"),
            "modes": (Mode.INFERENCE, Mode.TRAINING),
            "passes": 1,
            "seed": 7,
        }
        seconds = interleaved(
            {
                "recipe": lambda: predict(texts),
                "inference": timed(taps=("pre_dropout",)),
                "four": timed(**four),
                "head": head_passes,
            },
            rounds,
        )
        on_disk = statistics.median(files(taps=("pre_dropout",)) for _ in range(3))
    rate = count / statistics.median(seconds["inference"])
    return [
        ("texts", f"{count}, {mean:.1f} tokens on average", ""),
        ("vectors that agree with the recipe's", f"{alike.mean():.1%}, to {worst:.1e} (GELU by tanh there)", "")
        if alike.all()
        else (
            "vectors that agree with the recipe's",
            f"{alike.mean():.1%}, to {worst:.1e} (GELU by tanh there); the rest is tokenised otherwise",
            "",
        ),
        (
            "texts/s of the recipe padded to 128, here and now",
            f"{count / statistics.median(seconds['recipe']):.0f}",
            "",
        ),
        ("texts/s of extract in memory, here and now", f"{rate:.0f}", ""),
        ("texts/s of extract from file to Parquet, here and now", f"{count / on_disk:.0f}", ""),
        ("extract ÷ recipe, texts/s", ratio(seconds["recipe"], seconds["inference"]), "≥ 5"),
        ("pre, post × inference, training ÷ inference, time", ratio(seconds["four"], seconds["inference"]), "≤ 2.4"),
        ("100 head passes of every text ÷ inference, time", ratio(seconds["head"], seconds["inference"]), "≤ 0.05"),
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


def write(rows: list[tuple[str, str, str]]) -> None:
    """Put the table into benchmarks/README.md, between its marks."""
    table = ["| what | figure | goal |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    import tensorflow as tf

    cores = len(os.sched_getaffinity(0))
    versions = f"Python {platform.python_version()}, TensorFlow {tf.__version__}"
    machine = f"{platform.machine()}, {cores} cores, {versions}"
    text = "\n".join([*table, "", f"Machine: {machine}."])
    path = HERE / "README.md"
    marks = r"(<!-- bench_extract -->\n).*?(<!-- /bench_extract -->)"
    path.write_text(re.sub(marks, lambda m: f"{m[1]}{text}\n{m[2]}", path.read_text("utf-8"), flags=re.S), "utf-8")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=600)
    arguments = parser.parse_args()
    write([*speed(arguments.rounds, arguments.texts), *memory()])
