"""WordPiece token ids, from the files of a model folder.

The Rust library `tokenizers` does the work: it is what Hugging Face models were trained with, so its ids are the
reference, and it tokenises a batch on all cores outside the interpreter lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import ModelFormatError
from embedsvc.models.safety.json_files import read_json
from embedsvc.types import Tokens

__all__ = ["FILES", "WordPiece", "load_tokenizer"]

FILES = ("tokenizer.json", "vocab.txt")
"""What a tokenizer is read from, the first that a model folder holds."""


class WordPiece:
    """Texts to token ids, without special tokens and never truncated.

    Attributes
    ----------
    cls_id, sep_id, pad_id : int
    size : int
        One more than the highest id.
    digest : str
        SHA-256 (hex) of what decides the ids.
    """

    def __init__(self, tokenizer: Any, digest: str) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.digest = digest
        # Not the number of entries: a vocabulary may have gaps, or name a word twice.
        self.size: int = max(tokenizer.get_vocab().values(), default=-1) + 1
        self.cls_id, self.sep_id, self.pad_id = (self._special(name) for name in ("[CLS]", "[SEP]", "[PAD]"))

    def _special(self, name: str) -> int:
        number: int | None = self._tokenizer.token_to_id(name)
        if number is None:
            raise ModelFormatError(
                f"the vocabulary has no {name}", "A BERT vocabulary holds [PAD], [UNK], [CLS] and [SEP]."
            )
        return number

    def encode_batch(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], ...]:
        """Token ids of each text, int32."""
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            # A lone surrogate has no UTF-8; "?" is what Python's own replacement gives.
            valid = [text.encode("utf-8", "replace").decode() for text in texts]
            encodings = self._tokenizer.encode_batch_fast(valid, add_special_tokens=False)
        return tuple(np.array(encoding.ids, dtype=np.int32) for encoding in encodings)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """The same, as `Tokens`."""
        ids = self.encode_batch(texts)
        return Tokens(tuple(texts), ids, np.fromiter((len(row) for row in ids), dtype=np.int64, count=len(ids)))

    def words(self) -> list[str]:
        """The vocabulary, by id; an id that nothing has is an empty string."""
        words = [""] * self.size
        for word, number in self._tokenizer.get_vocab().items():
            words[number] = word
        return words

    def special_words(self) -> list[str]:
        """Words that are one token wherever a text spells them out, longest first: [CLS] and its like."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return sorted((token.content for token in added if not token.normalized), key=lambda word: (-len(word), word))

    def words_of(self, text: str) -> list[str]:
        """The words that are looked up in the vocabulary: the text normalised and split, before it is cut to pieces."""
        normalizer = self._tokenizer.normalizer
        plain = text if normalizer is None else normalizer.normalize_str(text)
        return [word for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(plain)]

    def with_special(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """[CLS] ids [SEP]."""
        packed = np.empty(len(ids) + 2, dtype=np.int32)
        packed[0], packed[1:-1], packed[-1] = self.cls_id, ids, self.sep_id
        return packed


def load_tokenizer(folder: Path) -> WordPiece:
    """The tokenizer of a model folder: tokenizer.json where there is one, else vocab.txt with BERT's rules.

    Raises
    ------
    ModelFormatError
        If neither is there or the file is torn.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    whole, vocab = (folder / name for name in FILES)
    if whole.exists():
        raw = whole.read_bytes()
        try:
            return WordPiece(Tokenizer.from_str(raw.decode()), hashlib.sha256(raw).hexdigest())
        except ModelFormatError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelFormatError(f"{whole} is no tokenizer: {error}", "Fetch the model folder again.") from error
    if not vocab.exists():
        raise ModelFormatError(
            f"{folder} holds neither tokenizer.json nor vocab.txt", "Put the model's vocabulary there."
        )
    raw = vocab.read_bytes()
    settings = _tokenizer_config(folder)
    lower = bool(settings.get("do_lower_case", True))
    try:
        words = raw.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ModelFormatError(f"{vocab} is no UTF-8 text: {error}") from error
    table = {word.rstrip("\r"): number for number, word in enumerate(words)}
    if "[UNK]" not in table:
        raise ModelFormatError(f"{vocab} has no [UNK]", "A BERT vocabulary holds [PAD], [UNK], [CLS] and [SEP].")
    tokenizer = Tokenizer(models.WordPiece(table, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
        strip_accents=settings.get("strip_accents"),
        lowercase=lower,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if name in table])
    return WordPiece(tokenizer, hashlib.sha256(raw + repr(sorted(settings.items())).encode()).hexdigest())


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    """The few settings of tokenizer_config.json that change BERT's ids."""
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return {}
    data = read_json(path)
    return {key: data[key] for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars") if key in data}
