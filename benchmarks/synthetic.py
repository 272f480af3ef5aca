"""Sets of made-up texts and vectors for benchmarks, written block by block through the store.

    python benchmarks/synthetic.py 20000 384 /tmp/set.embeddings

The vectors are as text encoders give them: fifty groups in a space of low rank, noise in all directions, units between
-1 and 1 as BERT's pooler leaves them; a training pass adds noise of the encoder's, then the head's keyed mask. A text
is made of words of its group, and its label is that of the group in nine texts out of ten.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from embedsvc import Pass, Settings, Text
from embedsvc.extraction import describe
from embedsvc.masks import row_keys
from embedsvc.models.fake import FakeEncoder
from embedsvc.store import open_store
from embedsvc.types import Block, Mode

ROWS = 8192
GROUPS, RANK, LABELS = 50, 40, 8
SEED = 7


def write_set(path: Path, texts: int, width: int, modes: tuple[Mode, ...] = tuple(Mode)) -> None:
    """A set with `pre_dropout` and `post_dropout`, one pass of each stochastic mode, and labels."""
    encoder = FakeEncoder(width=width, n_classes=LABELS)
    stochastic = any(mode.stochastic for mode in modes)
    settings = Settings(
        taps=("pre_dropout", "post_dropout"),
        modes=modes,
        passes=1 if stochastic else 0,
        seed=SEED if stochastic else None,
        rows_per_part=ROWS,
    )
    manifest = describe(encoder, settings)
    with open_store(path, manifest) as store:
        for index, (rows, pre, trained) in enumerate(_blocks(texts, width)):
            made = {"pre_dropout.inference": pre}
            if Mode.TRAINING in modes:
                keys = row_keys(text.id for text in rows)
                made["pre_dropout.training.0"] = trained
                made["post_dropout.training.0"] = encoder.head.post(trained, keys, Pass(Mode.TRAINING, 0, SEED))
            counts = np.full(len(rows), 12, np.int64)
            vectors = {name: made[name] for name in manifest.stored}
            store.write(Block(index, index * ROWS, rows, counts, np.zeros(len(rows), np.bool_), vectors))
        store.finish(rows=texts, rejected=())


def _blocks(texts: int, width: int) -> Iterator[tuple[tuple[Text, ...], np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((GROUPS, RANK))
    mixing = rng.standard_normal((RANK, width)) / np.sqrt(RANK)
    for start in range(0, texts, ROWS):
        n = min(ROWS, texts - start)
        group = rng.integers(0, GROUPS, n)
        latent = centres[group] + 0.7 * rng.standard_normal((n, RANK))
        pre = np.tanh(latent @ mixing + 0.2 * rng.standard_normal((n, width))).astype(np.float32)
        trained = (pre + 0.15 * rng.standard_normal((n, width))).astype(np.float32)
        label = np.where(rng.random(n) < 0.9, group % LABELS, rng.integers(0, LABELS, n))
        words = np.where(rng.random((n, 12)) < 0.5, rng.integers(0, 20, (n, 12)) + 100 * group[:, None], -1)
        words = np.where(words < 0, 10_000 + rng.integers(0, 500, (n, 12)), words)
        rows = tuple(
            Text(f"t{start + row}", " ".join(f"word{_letters(word)}" for word in words[row]), f"topic {label[row]}")
            for row in range(n)
        )
        yield rows, pre, trained


def _letters(number: int) -> str:
    return "".join(chr(97 + int(digit)) for digit in str(number))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    write_set(arguments.path, arguments.texts, arguments.width)
