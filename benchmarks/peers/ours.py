"""embedsvc as a worker of bench_peers.py: ``ours.py ENGINE``; runs in the project's environment."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
from pipe import serve

from embedsvc import Settings, load_model, texts
from embedsvc.extraction import describe, extract
from embedsvc.store import open_store

# [CLS] and what becomes of it, which is what the command extracts if it is not told otherwise; or the mean.
TAPS = {"cls": ("cls", "pre_dropout", "post_dropout"), "mean": ("mean",)}

encoder = load_model("minilm-l6", engine=sys.argv[1])


def run(tap: str, path: Path, out: Path | None) -> np.ndarray:
    """What `extract_files` does after it has loaded the model: scan, read, encode, write Parquet."""
    settings = Settings(taps=TAPS[tap], max_tokens=256)
    scan = texts.scan([str(path)])
    blocks = extract(texts.read(scan), encoder, settings)
    if out is None:
        return np.concatenate([block.vectors[f"{tap}.inference"] for block in blocks])
    with open_store(out, describe(encoder, settings)) as store:
        for block in blocks:
            store.write(block)
        store.finish(rows=scan.rows, rejected=[])
    return np.empty(0)


serve({tap: partial(run, tap) for tap in TAPS})
