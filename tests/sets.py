"""Small sets for tests: manifests of the numpy encoder, blocks of made-up or honest vectors, and writing them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from embedsvc.manifest import Manifest
from embedsvc.models.base import forward
from embedsvc.models.fake import FakeEncoder
from embedsvc.store import open_store
from embedsvc.types import Block, Mode, Pass, Text, Variant

ENCODER = FakeEncoder(width=16, n_classes=3, max_tokens=8)
MANIFEST = Manifest(
    model=ENCODER.spec,
    head=ENCODER.head,
    taps=("pre_dropout", "post_dropout", "logits"),
    modes=(Mode.INFERENCE, Mode.TRAINING, Mode.HEAD),
    passes=2,
    seed=7,
    max_tokens=None,
    on_long="truncate",
    precision="float32",
    token_budget=1024,
    rows_per_part=4,
    engine="numpy",
    sources=({"name": "reviews.txt", "sha256": "ab" * 32, "rows": 10, "rejected": 1},),
    versions={"numpy": "2.0", "pyarrow": "16.0"},
)
WORDS = ["the", "film", "was", "very", "bad", ",", "never", "dull", "café", "שלום", "👩‍👩‍👧", "=1+1", "e\u0301"]


def texts(n: int) -> list[Text]:
    """Texts of up to 11 words, every third with a label."""
    rng = np.random.default_rng(5)
    return [
        Text(f"reviews.txt:{row}", " ".join(rng.choice(WORDS, rng.integers(1, 12))), None if row % 3 else "joy")
        for row in range(n)
    ]


def block(index: int, rows: Sequence[Text] | None = None, manifest: Manifest = MANIFEST) -> Block:
    """A block of random vectors, the same for the same arguments."""
    size = manifest.rows_per_part
    rows = texts(index * size + size)[index * size :] if rows is None else rows
    rng = np.random.default_rng([index, len(rows)])
    return Block(
        index,
        index * size,
        tuple(rows),
        np.where(np.arange(len(rows)) % 3 == 1, -1, np.arange(len(rows)) + 2),
        np.arange(len(rows)) % 2 == 1,
        {name: rng.standard_normal((len(rows), manifest.width(name)), dtype=np.float32) for name in manifest.stored},
    )


def blocks(n_rows: int, manifest: Manifest = MANIFEST) -> list[Block]:
    """All blocks of a set of so many rows."""
    every, size = texts(n_rows), manifest.rows_per_part
    return [block(index, every[start : start + size], manifest) for index, start in enumerate(range(0, n_rows, size))]


def honest_blocks(n_rows: int, manifest: Manifest = MANIFEST) -> list[Block]:
    """Blocks as the encoder makes them."""
    made = []
    for made_up in blocks(n_rows, manifest):
        vectors = {}
        for name in manifest.stored:
            variant = Variant.parse(name)
            pass_ = Pass(variant.mode, variant.index, manifest.seed if variant.mode.stochastic else None)
            result = forward(ENCODER, made_up.texts, taps=[variant.tap], pass_=pass_)
            vectors[name] = result.vectors[variant.tap]
        made.append(replace(made_up, vectors=vectors, n_tokens=result.n_tokens, truncated=result.truncated))
    return made


def write(
    path: Path,
    every: Iterable[Block],
    manifest: Manifest = MANIFEST,
    rejected: Iterable[dict[str, Any]] = (),
    **options: Any,
) -> Manifest:
    """Write those blocks that are missing, and finish."""
    every = list(every)
    with open_store(path, manifest, **options) as store:
        for each in every:
            if each.index not in store.done:
                store.write(each)
        return store.finish(rows=sum(len(each.texts) for each in every), rejected=rejected)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, by its name."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
