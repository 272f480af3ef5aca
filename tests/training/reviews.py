"""Labelled texts in the words of the tiny BERT."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.models.tiny_bert import WORDS


def write_reviews(path: Path, n: int, labels: Sequence[str] = ("bad", "good"), seed: int = 0) -> Path:
    """A CSV with the columns text and stars; a text holds words of its class more often than others."""
    rng = np.random.default_rng(seed)
    plain = [word for word in WORDS if word.isalpha()]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "stars"])
        for at in range(n):
            label = at % len(labels)
            words = [plain[label] if rng.random() < 0.5 else str(rng.choice(plain)) for _ in range(rng.integers(2, 14))]
            writer.writerow([" ".join(words), labels[label]])
    return path
