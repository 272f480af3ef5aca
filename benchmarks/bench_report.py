"""The whole report beside one UMAP fit of the same size.

    python benchmarks/bench_report.py                              # 20,000 × 384, two rounds
    python benchmarks/bench_report.py --texts 5000 --rounds 1

The set has labels and five variants: pre and post, inference, training and head; `post_dropout.inference` is
`pre_dropout.inference`, as in every set. The fit is umap-learn's own with cosine, 15 neighbours and a seed, its search
of neighbours included. Both are warm: a small report and a fit run first, so that nothing is compiled on the clock. Fit
and report take turns; the analyses run side by side, so that their times add up to more than the whole.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import write_set
from tables import Row, quote, write

from embedsvc import EmbeddingSet, report
from embedsvc.reporting import analyses
from embedsvc.reporting.renderers import render
from embedsvc.types import Vectors
from embedsvc.umaps import import_umap

ANALYSES = {
    "neighbor_graph": "neighbours of all texts, once for comparison and map",
    "project": "map: fit, four placements, their quality",
    "compare": "similarity",
    "cluster": "clustering",
    "stability": "dropout variability",
    "probe": "probing labels",
}


def measure(scratch: Path, texts: int, width: int, rounds: int) -> list[Row]:
    for name, n in (("set", texts), ("small", 3000)):
        write_set(scratch / name, n, width)
    made = EmbeddingSet.read(scratch / "set")
    vectors = made["pre_dropout.inference"]
    # Above 4,096 texts umap searches neighbours by descent: a fit of fewer would leave that to be compiled.
    _fit(np.random.default_rng(0).standard_normal((5000, width)).astype(np.float32))
    render(report(EmbeddingSet.read(scratch / "small")), scratch / "small.html")
    seconds: dict[str, list[float]] = defaultdict(list)
    for name in ANALYSES:
        _time(name, seconds)
    for _ in range(rounds):
        began = time.perf_counter()
        _fit(vectors)
        fitted = time.perf_counter()
        found = report(EmbeddingSet.read(scratch / "set"))
        reported = time.perf_counter()
        render(found, scratch / "page.html")
        seconds["fit"].append(fitted - began)
        seconds["report"].append(reported - fitted)
        seconds["page"].append(time.perf_counter() - reported)
    fit = statistics.median(seconds["fit"])
    ratios = [whole / one for whole, one in zip(seconds["report"], seconds["fit"], strict=True)]
    with_page = [(a + b) / c for a, b, c in zip(*(seconds[name] for name in ("report", "page", "fit")), strict=True)]
    share = {name: sum(seconds[name]) / rounds / fit for name in ANALYSES}
    return [
        ("set", f"{texts:,} × {width}, {len(found.variants)} variants, labels", ""),
        ("one UMAP fit, here and now", f"{fit:.1f} s", ""),
        ("report ÷ one UMAP fit, time", quote(ratios), "≤ 1.5"),
        ("report and its page ÷ one UMAP fit, time", quote(with_page), ""),
        *((f"of it {words}", f"{share[name]:.2f}", "") for name, words in ANALYSES.items()),
        ("sampled", found.comparison.sampling if found.comparison else "", ""),
    ]


def _fit(vectors: Vectors) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread
        import_umap().UMAP(n_neighbors=15, metric="cosine", random_state=0, n_jobs=1).fit(vectors)


def _time(name: str, seconds: dict[str, list[float]]) -> None:
    """Put a clock around a function that the report calls; of graphs around that of all texts alone."""
    from embedsvc import knn

    module: Any = knn if name == "neighbor_graph" else analyses
    inner: Callable[..., Any] = getattr(module, name)

    def timed(*arguments: Any, **settings: Any) -> Any:
        began = time.perf_counter()
        found = inner(*arguments, **settings)
        if name != "neighbor_graph" or found.rows is None:
            seconds[name].append(time.perf_counter() - began)
        return found

    setattr(module, name, timed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write("bench_report", measure(Path(folder), arguments.texts, arguments.width, arguments.rounds))
