"""Engines and precisions of one BERT, interleaved: time of a pass against TensorFlow's, and what a precision costs.

Usage: python benchmarks/bench_engines.py TEXTS [ROUNDS]   (a file that extract reads; OpenVINO must be installed)
"""

import sys
import time

import numpy as np

from embedsvc import load_model
from embedsvc.batching import fit, plan
from embedsvc.texts import read, scan
from embedsvc.types import Mode, Pass

WAYS = (("tensorflow", "float32"), ("openvino", "float32"), ("openvino", "bfloat16"), ("openvino", "int8"))


def main(path: str, rounds: int = 5) -> None:
    texts = [text.text for text in read(scan([path]))]
    ids = [str(row) for row in range(len(texts))]
    encoders = {way: load_model("minilm-l6", engine=way[0], precision=way[1]) for way in WAYS}
    first = encoders[WAYS[0]]
    fitted = fit(first.tokenize(texts), ids, first.spec, max_tokens=256)
    batches = plan(fitted.pieces, token_budget=1024, special_tokens=2)

    def seconds(way: tuple[str, str], pass_: Pass, into: np.ndarray) -> float:
        began = time.process_time()  # of all threads: other programs disturb it little
        for rows in batches:
            out = encoders[way].encode(fitted.pieces.take(rows), keys=fitted.keys[rows], taps=["mean"], pass_=pass_)
            into[rows] = out["mean"]
        return time.process_time() - began

    vectors = {way: np.empty((len(texts), first.spec.taps["mean"]), np.float32) for way in WAYS}
    scratch = np.empty_like(vectors[WAYS[0]])
    training = Pass(Mode.TRAINING, 0, 7)
    for way in WAYS:
        seconds(way, Pass(), vectors[way])
        seconds(way, training, scratch)
    times = {(way, mode): [] for way in WAYS for mode in ("inference", "training")}
    for _ in range(rounds):
        for way in WAYS:
            times[way, "inference"].append(seconds(way, Pass(), scratch))
            times[way, "training"].append(seconds(way, training, scratch))
    exact = _unit(vectors[WAYS[0]])
    base = np.array(times[WAYS[0], "inference"])
    print(f"{len(texts)} texts, {(fitted.n_tokens).mean():.1f} tokens on average, {rounds} rounds\n")
    print("| engine | precision | speed ÷ tensorflow | training ÷ inference, time | least cosine | 10-NN overlap |")
    print("| --- | --- | --- | --- | --- | --- |")
    for way in WAYS:
        plain, drawn = (np.array(times[way, mode]) for mode in ("inference", "training"))
        unit = _unit(vectors[way])
        near = [_nearest(unit), _nearest(exact)]
        overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*near, strict=True)])
        print(
            f"| {way[0]} | {way[1]} | {np.median(base / plain):.2f} | {np.median(drawn / plain):.2f} "
            f"| {(unit * exact).sum(axis=1).min():.6f} | {overlap:.3f} |"
        )


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _nearest(unit: np.ndarray) -> np.ndarray:
    scores = unit @ unit.T
    np.fill_diagonal(scores, -2)
    return np.argsort(-scores, axis=1)[:, :10]


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
