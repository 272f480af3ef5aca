"""embedsvc as a worker of bench_peers.py: ``ours.py ENGINE SCRATCH``; runs in the project's environment."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
from pipe import serve

from embedsvc import Settings, Text, load_model, texts
from embedsvc.extraction import describe, extract
from embedsvc.store import open_store

engine, scratch = sys.argv[1], Path(sys.argv[2])
encoder = load_model("minilm-l6", engine=engine)
settings = Settings(taps=("mean",), max_tokens=256)
number = itertools.count()


def memory(rows: list[str]) -> np.ndarray:
    blocks = extract((Text(str(at), row) for at, row in enumerate(rows)), encoder, settings)
    return np.concatenate([block.vectors["mean.inference"] for block in blocks])


def file(rows: list[str]) -> np.ndarray:
    """What `extract_files` does after it has loaded the model: scan, read, encode, write Parquet."""
    at = next(number)
    source, out = scratch / f"{engine}-{at}.jsonl", scratch / f"{engine}-{at}.parquet"
    source.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), "utf-8")
    scan = texts.scan([str(source)])
    manifest = describe(encoder, settings)
    with open_store(out, manifest) as store:
        for block in extract(texts.read(scan), encoder, settings):
            store.write(block)
        store.finish(rows=scan.rows, rejected=[])
    source.unlink()
    out.unlink()
    return np.empty(0)


serve({"in memory": memory, "file to Parquet": file})
