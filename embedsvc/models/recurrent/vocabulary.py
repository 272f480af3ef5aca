"""Words of a text, and their numbers."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from embedsvc.errors import ModelFormatError
from embedsvc.types import Tokens

__all__ = ["Vocabulary", "split_words"]

_PAD, _UNKNOWN = "[PAD]", "[UNK]"
_WORD = re.compile(r"\w+|[^\w\s]")


def split_words(text: str) -> list[str]:
    """Words and single marks of a text, in lower case.

    >>> split_words("It's GOOD!")
    ['it', "'", 's', 'good', '!']
    """
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


class Vocabulary:
    """Words in the order of their numbers: padding is 0, the unknown word 1.

    Raises
    ------
    ModelFormatError
        If these two are not in their places, or a word stands twice.
    """

    def __init__(self, words: Sequence[str]) -> None:
        if list(words[:2]) != [_PAD, _UNKNOWN]:
            raise ModelFormatError(f"a vocabulary begins with {_PAD}, {_UNKNOWN}; this one with {list(words[:2])}")
        self.words = tuple(words)
        self._ids = {word: number for number, word in enumerate(words)}
        if len(self._ids) < len(words):
            twice = Counter(words).most_common(1)[0][0]
            raise ModelFormatError(f"the vocabulary holds {twice!r} twice")
        self.digest = hashlib.sha256("\n".join(words).encode("utf-8", "surrogatepass")).hexdigest()

    @classmethod
    def of_texts(cls, texts: Iterable[str], *, most: int = 20_000, at_least: int = 2) -> Vocabulary:
        """The `most` frequent words among those that stand at least so many times; ties in the order of the words."""
        counts = Counter(word for text in texts for word in split_words(text))
        ranked = sorted((word for word in counts if counts[word] >= at_least), key=lambda word: (-counts[word], word))
        return cls([_PAD, _UNKNOWN, *ranked[: most - 2]])

    def __len__(self) -> int:
        return len(self.words)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """See `Encoder.tokenize`."""
        ids = tuple(np.array([self._ids.get(word, 1) for word in split_words(text)], dtype=np.int32) for text in texts)
        return Tokens(tuple(texts), ids, np.array([len(row) for row in ids], dtype=np.int64))
