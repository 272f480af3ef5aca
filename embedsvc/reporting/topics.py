"""Names for groups of texts, out of their own words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["topics"]

_WORDS = 3
_MOST_TEXTS = 20_000


def topics(texts: Sequence[str], groups: NDArray[np.integer]) -> dict[int, str]:
    """The three words that set each group apart from the others, by class-based TF-IDF; negative groups have none.

    Words in more than half of the texts and, in 50 texts or more, those in a single text name nothing. Where no word
    is left, the name is empty.

    Parameters
    ----------
    texts : sequence of str
        Above 20,000, every so manieth is read.
    groups : ndarray of shape (n,), int

    References
    ----------
    Grootendorst (2022), "BERTopic", arXiv:2203.05794.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    numbers = [int(number) for number in np.unique(groups) if number >= 0]
    rows = np.flatnonzero(groups >= 0)
    rows = rows[:: max(1, -(-len(rows) // _MOST_TEXTS))]
    reader = CountVectorizer(
        token_pattern=r"(?u)\b[^\W\d_]{3,}\b",
        stop_words="english",
        max_df=0.5,
        min_df=2 if len(rows) >= 50 else 1,
        binary=True,
    )
    try:
        counts = reader.fit_transform([texts[row] for row in rows.tolist()])
    except ValueError:  # no word is left
        return dict.fromkeys(numbers, "")
    names = reader.get_feature_names_out()
    by_group = np.stack([np.asarray(counts[groups[rows] == number].sum(axis=0)).ravel() for number in numbers])
    share = by_group / np.maximum(by_group.sum(axis=1, keepdims=True), 1)
    weight = share * np.log1p(by_group.sum() / len(numbers) / np.maximum(by_group.sum(axis=0), 1))
    found = {}
    for number, row in zip(numbers, weight, strict=True):
        best = np.argsort(-row, kind="stable")[:_WORDS]
        found[number] = ", ".join(str(names[at]) for at in best if row[at] > 0)
    return found
