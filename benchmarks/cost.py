"""What a billion texts would cost: core-hours and bytes, from what some texts cost here.

    python benchmarks/cost.py                     # minilm-l6-sentiment on the example texts
    python benchmarks/cost.py --source tweets.csv --model hf:path --rounds 5 --workers 1,2

Core-hours come from CPU time, which a busy machine distorts less than the clock, of the best of a few rounds. Bytes
are those of Parquet files packed as the store packs them (zstd, byte-stream-split). Vectors of other models are
taken to pack alike, and to cost by their multiplications.
"""

import argparse
import io
import time
from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedsvc import extract, load_model
from embedsvc.extraction import Settings
from embedsvc.texts import read, scan
from embedsvc.types import Mode, Text

_ROWS = 10**9
# Layers, width and inner width of encoders, and the tokens of a text to compare them at.
_SHAPES = {"MiniLM-L6": (6, 384, 1536), "BERT base": (12, 768, 3072), "BERT large": (24, 1024, 4096)}
_PASS = "pre_dropout.inference"


def multiplications(shape: tuple[int, int, int], tokens: float) -> float:
    """Of one text: the four projections, the two dense layers, and the two products of attention."""
    layers, width, inner = shape
    return layers * tokens * (4 * width**2 + 2 * width * inner + 2 * tokens * width)


def packed(vectors: np.ndarray) -> dict[str, tuple[float, float]]:
    """By kind: bytes of one packed vector, and the least cosine between what was stored and what is read."""
    scales = np.abs(vectors).max(axis=1, keepdims=True) / 127
    width = vectors.shape[1]
    kinds = {
        "float32": vectors,
        "float16": vectors.astype(np.float16),
        "int8": np.rint(vectors / scales).astype(np.int8),
    }
    found = {}
    for kind, values in kinds.items():
        restored = values.astype(np.float32)
        if kind == "int8":
            # As bytes, since Parquet has no integers of less than four; with the scale of each vector.
            columns = {"vector": pa.array([row.tobytes() for row in values], pa.binary(width)), "scale": scales[:, 0]}
            restored *= scales
        else:
            columns = {"vector": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)}
        file = io.BytesIO()
        split = {"vector" if kind == "int8" else "vector.list.element": "BYTE_STREAM_SPLIT"}
        pq.write_table(pa.table(columns), file, compression="zstd", use_dictionary=False, column_encoding=split)
        lengths = np.linalg.norm(restored, axis=1) * np.linalg.norm(vectors, axis=1)
        found[kind] = len(file.getvalue()) / len(vectors), float(((restored * vectors).sum(axis=1) / lengths).min())
    return found


def timed(texts: Sequence[Text], model: object, settings: Settings, workers: int) -> tuple[float, float, list]:
    """Seconds of processors and of the clock for each text, and the blocks."""
    cpu, clock = time.process_time(), time.perf_counter()
    blocks = list(extract(texts, model, settings, workers=workers))
    return (time.process_time() - cpu) / len(texts), (time.perf_counter() - clock) / len(texts), blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="examples/texts.csv")
    parser.add_argument("--model", default="minilm-l6-sentiment")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", default="1,2")
    arguments = parser.parse_args()
    known = list(read(scan([arguments.source])))
    texts = [Text(f"{row}", text.text) for row, text in enumerate(islice(cycle(known), arguments.rows))]
    model = load_model(arguments.model)
    runs = {"inference": Settings(), "training": Settings(modes=(Mode.INFERENCE, Mode.TRAINING), passes=1, seed=7)}
    workers = [int(count) for count in arguments.workers.split(",")]
    best: dict[tuple[str, int], tuple[float, float]] = {}
    for settings in runs.values():
        list(extract(texts[:256], model, settings))  # compiles
    for _ in range(arguments.rounds):
        for name, settings in runs.items():
            for count in workers:
                cpu, clock, blocks = timed(texts, model, settings, count)
                before = best.get((name, count), (np.inf, np.inf))
                best[name, count] = min(cpu, before[0]), min(clock, before[1])
                if name == "inference":
                    vectors = np.concatenate([block.vectors[_PASS] for block in blocks])
                    tokens = float(np.concatenate([block.n_tokens for block in blocks]).mean())
    print(
        f"{arguments.model}, {getattr(model, 'engine', '?')}: {len(texts):,} texts of {tokens:.1f} tokens on average\n"
    )
    print("| pass | workers | texts/s | texts a CPU second |\n| --- | --- | --- | --- |")
    for (name, count), (cpu, clock) in best.items():
        cpu, clock = (
            (cpu, clock)
            if name == "inference"
            else (
                cpu - best["inference", count][0],
                clock - best["inference", count][1],
            )
        )
        print(f"| {name} | {count} | {1 / clock:,.0f} | {1 / cpu:,.0f} |")
    sizes = packed(vectors[: len(known)])
    inference = min(cpu for (name, _), (cpu, _) in best.items() if name == "inference")
    training = min(cpu for (name, _), (cpu, _) in best.items() if name == "training") - inference
    own = next((shape for shape in _SHAPES.values() if shape[1] == vectors.shape[1]), _SHAPES["MiniLM-L6"])
    print(f"\nA billion texts of {tokens:.0f} tokens:\n")
    print("| encoder | inference | a training pass | float32 | float16 | int8 |\n" + "| --- " * 6 + "|")
    for name, shape in _SHAPES.items():
        times = multiplications(shape, tokens) / multiplications(own, tokens)
        hours = [f"{_ROWS * each * times / 3600:,.0f} core-hours" for each in (inference, training)]
        terabytes = [f"{_ROWS * size * shape[1] / vectors.shape[1] / 1e12:.2f} TB" for size, _ in sizes.values()]
        print(f"| {name} | {' | '.join([*hours, *terabytes])} |")
    print("\nLeast cosine between a vector and what is read of it: ", end="")
    print(", ".join(f"{kind} {cosine:.7f}" for kind, (_, cosine) in sizes.items()))


if __name__ == "__main__":
    main()
