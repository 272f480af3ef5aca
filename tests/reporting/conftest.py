from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedsvc import masks
from embedsvc.embeddings import EmbeddingSet
from embedsvc.models.fake import FakeEncoder
from embedsvc.reporting.report import Report
from embedsvc.reporting.run import report
from embedsvc.types import Block, Mode, Pass, Text
from tests.analysis_sets import blobs
from tests.sets import MANIFEST, write

HOSTILE = (
    "<script>document.title = 'taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "</script><script>document.title = 'taken'</script>",
    "{{ 7 * 7 }} {% raw %} ${document.title = 'taken'} `x` \\u003cscript\\u003e",
    "| a | pipe | # and *marks* _of_ [Markdown](javascript:alert(1)) <b>",
    "<!--<script>",
)


def build(folder: Path, n: int = 150, *, labels: bool = True, training: int = 2, noise: float = 0.6) -> EmbeddingSet:
    """Four groups of texts, passes that add noise of the encoder, and a few texts that are code."""
    pre, which = blobs(n, apart=9.0)
    rng = np.random.default_rng(1)
    noisy = [(pre + rng.normal(0, noise, pre.shape)).astype(np.float32) for _ in range(training)]
    ids = [f"t{row}" for row in range(n)]
    ids[1] += HOSTILE[1]
    encoder = FakeEncoder(width=pre.shape[1], rate=0.1)
    vectors = {"pre_dropout.inference": pre}
    for index, each in enumerate(noisy):
        post = encoder.head.post(each, masks.row_keys(ids), Pass(Mode.HEAD, index, 7))
        vectors |= {f"pre_dropout.training.{index}": each, f"post_dropout.training.{index}": post}
    kinds = ("oven bread", "train station", "goal match", "guitar concert")
    words = [f"{kinds[group]} number {row}" for row, group in enumerate(which)]
    words[: len(HOSTILE)] = HOSTILE
    given = [("<i>food</i>", "travel", "sport", "music")[group] if labels else None for group in which]
    manifest = replace(
        MANIFEST,
        model=encoder.spec,
        head=encoder.head,
        taps=("pre_dropout", "post_dropout"),
        modes=(Mode.INFERENCE, Mode.HEAD, Mode.TRAINING),
        passes=training,
        rows_per_part=n,
    )
    counts = np.ones(n, dtype=np.int64)
    texts = tuple(map(Text, ids, words, given))
    write(folder / "set", [Block(0, 0, texts, counts, counts < 0, {v: vectors[v] for v in manifest.stored})], manifest)
    return EmbeddingSet.read(folder / "set")


@pytest.fixture(scope="session")
def small_report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of 150 labelled texts in four groups, some of them hostile."""
    return report(build(tmp_path_factory.mktemp("report")), seed=7, passes=16, map_method="pca")
