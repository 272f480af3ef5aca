"""WordPiece inside a TensorFlow graph, with the ids that our tokenizer gives.

TensorFlow Text's own BertTokenizer normalises otherwise than Hugging Face's (it folds compatibility characters: an
ellipsis becomes three dots, ligatures and full-width letters become plain ones), so its ids differ on ordinary tweets.
Here the normalisation is read off the tokenizer itself, once for every code point of Unicode, and put into the
graph as a table; TensorFlow Text then splits words into pieces.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from embedsvc.models.wordpiece import WordPiece

__all__ = ["GraphTokenizer"]

_KEEP, _DROP, _SPLIT, _REPLACE = range(4)  # what becomes of a code point: itself, nothing, " c ", or a string
_ALIKE: dict[int, Callable[[str], str]] = {_KEEP: lambda c: f"{c}a", _DROP: lambda c: "a", _SPLIT: lambda c: f" {c} a"}
_BLOCK = 256  # code points that are looked at together first
_LONGEST_WORD = 100  # characters; a longer word is unknown (the WordPiece model's max_input_chars_per_word)
_FIRST_STAND_IN = 0xFDD0  # one of 32 code points that are no characters; they stand in for special tokens
_LAST_STAND_IN = 0xFDEF


class GraphTokenizer(tf.Module):  # type: ignore[misc]
    """Strings to ragged token ids, without special tokens, as `WordPiece.encode_batch` gives them.

    Parameters
    ----------
    tokenizer : WordPiece
    """

    def __init__(self, tokenizer: WordPiece) -> None:
        import tensorflow_text as tf_text

        super().__init__()
        words = tokenizer.words()
        self._specials = [word for word in tokenizer.special_words() if word in words]
        starts, kinds, replaced = _table(tokenizer, self._specials)
        self._starts = tf.constant(starts, tf.int32)
        self._kinds = tf.constant(kinds, tf.int32)
        self._replaced = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(list(replaced), tf.int32), tf.constant(list(replaced.values()), tf.string)
            ),
            default_value="",
        )
        self._special_ids = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(self._specials, tf.string), tf.constant(list(map(words.index, self._specials)), tf.int32)
            ),
            default_value=-1,
        )
        self._pieces = tf_text.FastWordpieceTokenizer(
            words,
            suffix_indicator="##",
            max_bytes_per_word=4 * _LONGEST_WORD + 1,
            token_out_type=tf.int32,
            unknown_token="[UNK]",
            no_pretokenization=True,
        )

    def __call__(self, texts: Any) -> Any:
        """Ragged ids (n, None), int32, of texts (n,)."""
        points = tf.strings.unicode_decode(self._marked(texts), "UTF-8", replace_control_characters=False)
        flat = points.flat_values
        kinds = tf.gather(self._kinds, tf.searchsorted(self._starts, flat, side="right") - 1)
        characters = tf.strings.unicode_encode(flat[:, None], "UTF-8")
        drawn = tf.where(kinds == _DROP, "", characters)
        drawn = tf.where(kinds == _SPLIT, tf.strings.join([" ", characters, " "]), drawn)
        drawn = tf.where(kinds == _REPLACE, self._replaced.lookup(flat), drawn)
        plain = tf.strings.reduce_join(points.with_flat_values(drawn), axis=-1)
        words = tf.strings.split(plain)
        too_long = tf.strings.length(words.flat_values, "UTF8_CHAR") > _LONGEST_WORD
        words = words.with_flat_values(tf.where(too_long, "[UNK]", words.flat_values))
        pieces = self._pieces.tokenize(words)
        # A word with brackets is never looked up whole, so special tokens get their ids here.
        special = tf.repeat(self._special_ids.lookup(words.flat_values), pieces.values.row_lengths())
        return pieces.with_flat_values(tf.where(special >= 0, special, pieces.flat_values)).merge_dims(1, 2)

    def _marked(self, texts: Any) -> Any:
        """Special tokens that a text spells out, as stand-ins.

        A stand-in that a text brought along becomes the last of its kind, which is as unknown to any vocabulary.
        """
        brought = f"[\\x{{{_FIRST_STAND_IN:X}}}-\\x{{{_LAST_STAND_IN:X}}}]"
        texts = tf.strings.regex_replace(texts, brought, chr(_LAST_STAND_IN))
        for at, word in enumerate(self._specials):
            texts = tf.strings.regex_replace(texts, re.escape(word), chr(_FIRST_STAND_IN + at))
        return texts


def _table(tokenizer: WordPiece, specials: Sequence[str]) -> tuple[list[int], list[int], dict[int, str]]:
    """Runs of code points that are treated alike (first of each, and how), and what the replaced ones become."""
    kinds = np.full(sys.maxunicode + 1, _KEEP, dtype=np.int32)
    replaced: dict[int, str] = {}
    for start in range(0, len(kinds), _BLOCK):
        if 0xD800 <= start < 0xE000:  # surrogates are no characters
            continue
        characters = [chr(point) for point in range(start, start + _BLOCK)]
        # Between letters, so that a space at an end is not lost. Most blocks are treated alike throughout.
        found = " ".join(tokenizer.words_of("".join(f"a{character}" for character in characters) + "a"))
        alike = next((kind for kind in _ALIKE if found == "a" + "".join(map(_ALIKE[kind], characters))), None)
        if alike is not None:
            kinds[start : start + _BLOCK] = alike
            continue
        for point, character in enumerate(characters, start):
            found = " ".join(tokenizer.words_of(f"a{character}a"))
            kinds[point] = next((kind for kind in _ALIKE if found == "a" + _ALIKE[kind](character)), _REPLACE)
            if kinds[point] == _REPLACE:
                replaced[point] = found[1:-1]
    for point, word in enumerate(specials, _FIRST_STAND_IN):
        kinds[point], replaced[point] = _REPLACE, f" {word} "
    starts = np.flatnonzero(np.diff(kinds, prepend=-1))
    return starts.tolist(), kinds[starts].tolist(), replaced
