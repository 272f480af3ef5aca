"""A program told over its standard input which texts to encode; it answers with seconds, by the clock and of CPU."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

__all__ = ["serve"]


def serve(ways: Mapping[str, Callable[[Path, Path | None], np.ndarray]]) -> None:
    """Answer until the input ends: a line ``{"way": …, "texts": PATH.jsonl, "out": PATH or null, "save": …}`` a run.

    Each way reads the texts, encodes them, and writes Parquet where it is told to. Vectors are saved unmeasured.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    print(json.dumps(list(ways)), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        out = request["out"] and Path(request["out"])
        began, cpu = time.perf_counter(), time.process_time()
        vectors = ways[request["way"]](Path(request["texts"]), out)
        seconds = [time.perf_counter() - began, time.process_time() - cpu]
        if request["save"]:
            np.save(request["save"], vectors)
        if out:
            out.unlink()
        print(json.dumps(seconds), file=answers, flush=True)
