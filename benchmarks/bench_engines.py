"""Engines and precisions of one BERT, interleaved: time of a pass against TensorFlow's, and what a precision costs.

    python benchmarks/bench_engines.py TEXTS      # a file that extract reads; the table goes into benchmarks/README.md

OpenVINO must be installed; a precision that this processor has no instructions for is left out and said to be.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from importlib import metadata

import numpy as np
from tables import put

from embedsvc import load_model
from embedsvc.batching import fit, plan
from embedsvc.errors import SettingsError
from embedsvc.texts import read, scan
from embedsvc.types import Mode, Pass

MODEL = "minilm-l6-sentiment"
WAYS = (("tensorflow", "float32"), ("openvino", "float32"), ("openvino", "bfloat16"), ("openvino", "int8"))
Way = tuple[str, str]


class Runs:
    """The texts in their batches, through each engine and precision that runs here."""

    def __init__(self, path: str) -> None:
        texts = [text.text for text in read(scan([path]))]
        self.encoders = {}
        self.refused: list[str] = []
        for way in WAYS:
            try:
                self.encoders[way] = load_model(MODEL, engine=way[0], precision=way[1])
            except SettingsError as error:
                self.refused.append(error.problem)
        first = self.encoders[WAYS[0]]
        self.spec = first.spec
        ids = [str(row) for row in range(len(texts))]
        self.fitted = fit(first.tokenize(texts), ids, first.spec, max_tokens=256)
        self._batches = plan(self.fitted.pieces, token_budget=1024, special_tokens=2)

    def __len__(self) -> int:
        return len(self.fitted.n_tokens)

    def vectors(self, way: Way, pass_: Pass, *taps: str) -> dict[str, np.ndarray]:
        pieces, keys = self.fitted.pieces, self.fitted.keys
        made = {tap: np.empty((len(self), self.spec.taps[tap]), np.float32) for tap in taps}
        for rows in self._batches:
            out = self.encoders[way].encode(pieces.take(rows), keys=keys[rows], taps=taps, pass_=pass_)
            for tap in taps:
                made[tap][rows] = out[tap]
        return made

    def seconds(self, way: Way, pass_: Pass) -> float:
        """CPU time of all threads: other programs disturb it little."""
        began = time.process_time()
        self.vectors(way, pass_, "mean")
        return time.process_time() - began


def table(runs: Runs, rounds: int) -> list[str]:
    modes = {"inference": Pass(), "training": Pass(Mode.TRAINING, 0, 7)}
    times = {(way, mode): [] for way in runs.encoders for mode in modes}
    for at in range(rounds + 1):
        for way in list(runs.encoders)[:: -1 if at % 2 else 1]:
            for mode, pass_ in modes.items():
                times[way, mode].append(runs.seconds(way, pass_))
    spent = {key: np.array(each[1:]) for key, each in times.items()}  # the first round compiles
    outputs = {way: outputs_of(runs, way) for way in runs.encoders}
    exact, nearest, classes = outputs[WAYS[0]]
    lines = [
        "| engine | precision | speed ÷ tensorflow | training ÷ inference, time | least cosine | 10-NN overlap "
        "| same class |",
        f"|{' --- |' * 7}",
    ]
    for way, (unit, near, chosen) in outputs.items():
        overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near, nearest, strict=True)])
        cells = [
            *way,
            f"{np.median(spent[WAYS[0], 'inference'] / spent[way, 'inference']):.2f}",
            f"{np.median(spent[way, 'training'] / spent[way, 'inference']):.2f}",
            f"{(unit * exact).sum(axis=1).min():.6f}",
            f"{overlap:.3f}",
            f"{(chosen == classes).sum()} of {len(classes)} ({(chosen == classes).mean():.1%})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, *(f"\nNot measured: {problem}." for problem in runs.refused)]


def outputs_of(runs: Runs, way: Way) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of length 1, the ten nearest texts of each, and the class that the head gives."""
    out = runs.vectors(way, Pass(), "mean", "pre_dropout")
    unit = out["mean"] / np.linalg.norm(out["mean"], axis=1, keepdims=True)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -2)
    chosen = runs.encoders[way].head.logits(out["pre_dropout"]).argmax(axis=1)
    return unit, np.argsort(-scores, axis=1)[:, :10], chosen


def write(runs: Runs, rounds: int) -> None:
    """Put the table into benchmarks/README.md, between its marks."""
    counts = f"{len(runs)} texts, {runs.fitted.n_tokens.mean():.1f} tokens on average, {rounds} rounds"
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    machine = f"{platform.machine()}, {cores} cores, load {load:.1f}, openvino {metadata.version('openvino')}"
    put("bench_engines", [*table(runs, rounds), "", f"{counts}. Machine: {machine}."])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    write(Runs(arguments.texts), arguments.rounds)
