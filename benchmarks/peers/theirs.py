"""A peer as a worker of bench_peers.py: ``theirs.py PEER FOLDER SCRATCH``; runs in the peers' environment.

sentence-transformers as its users call it, at several batch sizes. ONNX Runtime and OpenVINO as one would write it with
care: tokenizers in Rust, batches of like length under the token budget that embedsvc has. The vector is [CLS], or the
mean over real tokens. Texts come from a file and vectors go into one, by the json module and pyarrow.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pipe import serve

LIMIT, BUDGET = 256, 1024
peer, folder, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])


def batches(texts: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows, ids and mask of one padded batch after the other."""
    ids = [row.ids for row in tokenizer.encode_batch_fast(texts)]
    lengths = np.array([len(row) for row in ids])
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end - start + 1) * lengths[order[end]] > BUDGET:
            rows = order[start:end]
            mask = (np.arange(lengths[rows[-1]]) < lengths[rows, None]).astype(np.int64)
            padded = np.zeros_like(mask)
            padded[mask == 1] = np.concatenate([ids[row] for row in rows])
            yield rows, padded, mask
            start = end


def pooled(vector: str, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if vector == "cls":
        return tokens[:, 0]
    return (tokens * mask[:, :, None].astype(np.float32)).sum(axis=1) / mask.sum(axis=1, keepdims=True)


def inputs(padded: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    return {"input_ids": padded, "attention_mask": mask, "token_type_ids": np.zeros_like(padded)}


Program = Callable[[list[str]], np.ndarray]


def sentence_transformers(vector: str) -> dict[str, Program]:
    from sentence_transformers import SentenceTransformer, models

    encoder = models.Transformer(str(folder), max_seq_length=LIMIT)
    pooling = models.Pooling(encoder.get_word_embedding_dimension(), vector)
    model = SentenceTransformer(modules=[encoder, pooling], device="cpu")
    return {f"batch size {size}": partial(model.encode, batch_size=size) for size in (16, 32, 64)}


def onnxruntime(vector: str) -> dict[str, Program]:
    import onnxruntime

    session = onnxruntime.InferenceSession(scratch / "bert.optimized.onnx", providers=["CPUExecutionProvider"])
    kind = np.int32 if session.get_inputs()[0].type == "tensor(int32)" else np.int64

    def run(texts: list[str]) -> np.ndarray:
        out = np.empty((len(texts), session.get_outputs()[0].shape[-1]), np.float32)
        for rows, padded, mask in batches(texts):
            out[rows] = pooled(vector, session.run(None, inputs(padded.astype(kind), mask.astype(kind)))[0], mask)
        return out

    return {"all threads in each batch": run}


def openvino(vector: str) -> dict[str, Program]:
    import openvino

    def program(hint: str) -> Program:
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": hint}
        compiled = openvino.Core().compile_model(scratch / "bert.onnx", "CPU", settings)

        def run(texts: list[str]) -> np.ndarray:
            out = np.empty((len(texts), compiled.output(0).partial_shape[-1].get_length()), np.float32)

            def done(request, batch) -> None:
                rows, mask = batch
                out[rows] = pooled(vector, request.get_output_tensor(0).data, mask)

            queue.set_callback(done)
            for rows, padded, mask in batches(texts):
                queue.start_async(inputs(padded, mask), (rows, mask))
            queue.wait_all()
            return out

        queue = openvino.AsyncInferQueue(compiled)
        return run

    return {"latency hint": program("LATENCY"), "throughput hint": program("THROUGHPUT")}


def through_files(program: Program, path: Path, out: Path | None) -> np.ndarray:
    with path.open(encoding="utf-8") as file:
        vectors = program([json.loads(line)["text"] for line in file])
    if out is not None:
        column = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])
        pq.write_table(pa.table({"vector": column}), out)
    return vectors


if peer != "sentence-transformers":
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(LIMIT)
    tokenizer.no_padding()
peers = {"sentence-transformers": sentence_transformers, "ONNX Runtime": onnxruntime, "OpenVINO": openvino}
serve(
    {
        f"{vector}, {way}": partial(through_files, program)
        for vector in ("cls", "mean")
        for way, program in peers[peer](vector).items()
    }
)
