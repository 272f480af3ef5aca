import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from embedsvc.errors import ModelFormatError
from embedsvc.models.wordpiece import WordPiece, load_tokenizer

WORDS = [
    "un",
    "##aff",
    "##able",
    "film",
    "good",
    "Good",
    "cafe",
    "café",
    "the",
    "naive",
    "i",
    "a",
    "'",
    "t",
    "don",
    "-",
]
WORDS += [
    "日",
    "本",
    "##本",
    "語",
    "ة",
    "مرحبا",
    "##ا",
    "😀",
    "2",
    "##0",
    "##2",
    "#",
    "!",
    "?",
    ".",
    ",",
    "$",
    "~",
    "ß",
]
WORDS += ["strasse", "straße", "й", "и", "e", "##e", "\u0301", "[", "]", "sep", "SEP", "한", "ᄒ", "##ᅡ", "##ᆫ", "x"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]

NASTY = [
    "",
    " ",
    "\t\r\n",
    "unaffable film",
    "UNAFFABLE",
    "Good good GOOD",
    "café cafe\u0301 CAFÉ naïve",
    "日本語 日本 x日本x",
    "مرحبا مرحباا",
    "😀 😀😀 👩‍👩‍👧 🇫🇷",
    "don't do-n't ~ $2 2022 20,2.2",
    "# ## #good ##able",
    "a\u00a0film\u3000good\u2028the\u2029film\u200a!",
    "zero\u200bwidth good\u200dfilm \ufefffilm soft\u00adhyphen",
    "nul\x00 film\x00good \x07bell \ufffd film\ufffd",
    "x" * 99 + " " + "x" * 100 + " " + "x" * 101,
    "un" + "e" * 98 + " un" + "e" * 99,
    "Straße STRASSE ß ẞ",
    "й и\u0306 Й",
    "한 한 ㅎ",
    "e\u0301\u0301\u0301",
    "!!??..,, ¿film? «good» —film— „the“",
    "[CLS] [SEP] film [MASK] [UNK] [PAD]",
    "[cls] [ SEP ] [SEP]good [SEP",
    "a" * 5000,
    "film good " * 500,
    "İstanbul ǅ ﬁlm Ⅻ ½ ①",
    "\u0378 unassigned \U000e0041 tag",
]


def devlin(text: str, table: dict[str, int], *, lower: bool) -> list[int]:
    """BERT's tokenization as tokenization.py of google-research/bert has it, without special tokens in texts."""

    def is_control(char: str) -> bool:
        return char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf", "Cn", "Co")

    def is_punctuation(char: str) -> bool:
        ascii_sign = char.isascii() and char.isprintable() and not char.isalnum() and char != " "
        return ascii_sign or unicodedata.category(char).startswith("P")

    def is_chinese(char: str) -> bool:
        ranges = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)]
        ranges += [(0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]
        return any(low <= ord(char) <= high for low, high in ranges)

    clean = "".join(
        " " if char.isspace() else f" {char} " if is_chinese(char) else char
        for char in text
        if char not in "\x00\ufffd" and not is_control(char)
    )
    if lower:
        clean = "".join(c for c in unicodedata.normalize("NFD", clean) if unicodedata.category(c) != "Mn").lower()
    spaced = "".join(f" {char} " if is_punctuation(char) else char for char in clean)
    ids = []
    for word in spaced.split():
        pieces, start = [], 0
        while start < len(word):
            ends = range(len(word), start, -1)
            found = next((end for end in ends if ("##" if start else "") + word[start:end] in table), None)
            if found is None or len(word) > 100:
                pieces = [table["[UNK]"]]
                break
            pieces.append(table[("##" if start else "") + word[start:found]])
            start = found
        ids += pieces
    return ids


def write_vocabulary(folder: Path, words: list[str] = VOCABULARY, **settings: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_tokenizer(folder: Path, *, lower: bool = True) -> Path:
    """tokenizer.json as transformers writes it: with truncation and padding, which must not act here."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(VOCABULARY[:5])
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def ids_of(tokenizer: WordPiece, texts: list[str] = NASTY) -> list[list[int]]:
    return [ids.tolist() for ids in tokenizer.encode_batch(texts)]


@pytest.mark.parametrize("lower", [True, False])
def test_vocabulary_alone_gives_the_ids_of_tokenizer_json(tmp_path, lower):
    alone = load_tokenizer(write_vocabulary(tmp_path / "a", do_lower_case=lower))
    whole = load_tokenizer(write_tokenizer(tmp_path / "b", lower=lower))
    assert ids_of(alone) == ids_of(whole)
    assert sum(map(len, ids_of(alone))) > 1000


@pytest.mark.parametrize("lower", [True, False])
def test_ids_are_those_of_the_original_algorithm(tmp_path, lower):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path, do_lower_case=lower))
    table = {word: at for at, word in enumerate(VOCABULARY)}
    # Hugging Face takes special tokens in a text for themselves, and drops the private and unassigned differently.
    plain = [text for text in NASTY if "[" not in text and "\u0378" not in text]
    for text, ids in zip(plain, ids_of(tokenizer, plain), strict=True):
        assert ids == devlin(text, table, lower=lower), ascii(text)


def test_lower_case_is_the_default(tmp_path):
    assert ids_of(load_tokenizer(write_vocabulary(tmp_path)), ["GOOD"]) == [[VOCABULARY.index("good")]]


@pytest.mark.parametrize(
    ("settings", "text", "words"),
    [
        ({"do_lower_case": False}, "Good", ["Good"]),
        ({"strip_accents": False}, "Café", ["café"]),
        ({"do_lower_case": False, "strip_accents": True}, "café", ["cafe"]),
        ({"tokenize_chinese_chars": False}, "日本", ["日", "##本"]),
        ({}, "日本", ["日", "本"]),
    ],
)
def test_tokenizer_config_is_heeded(tmp_path, settings, text, words):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path, **settings))
    assert ids_of(tokenizer, [text]) == [[VOCABULARY.index(word) for word in words]]


def test_long_texts_are_neither_cut_nor_padded(tmp_path):
    tokens = load_tokenizer(write_tokenizer(tmp_path)).tokenize(["film " * 700, "film", ""])
    assert tokens.counts.tolist() == [700, 1, 0]
    assert [ids.dtype for ids in tokens.ids] == [np.int32] * 3
    assert tokens.texts == ("film " * 700, "film", "")


def test_no_texts_are_no_tokens(tmp_path):
    tokens = load_tokenizer(write_vocabulary(tmp_path)).tokenize([])
    assert (tokens.texts, tokens.ids, tokens.counts.tolist()) == ((), (), [])


def test_ids_do_not_depend_on_the_batch(tmp_path):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path))
    assert ids_of(tokenizer) == [ids_of(tokenizer, [text])[0] for text in NASTY]


def test_special_tokens_go_around(tmp_path):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path))
    packed = tokenizer.with_special(np.array([7, 8], dtype=np.int32))
    assert (packed.tolist(), packed.dtype) == ([2, 7, 8, 3], np.int32)
    assert tokenizer.with_special(np.array([], dtype=np.int32)).tolist() == [2, 3]
    assert (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id) == (0, 2, 3)


def test_a_lone_surrogate_is_read_as_a_question_mark(tmp_path):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path))
    assert ids_of(tokenizer, ["good\ud800", "film"]) == ids_of(tokenizer, ["good?", "film"])


def test_size_is_one_more_than_the_highest_id(tmp_path):
    assert load_tokenizer(write_vocabulary(tmp_path)).size == len(VOCABULARY)
    twice = [*VOCABULARY[:20], "film", *VOCABULARY[20:]]
    assert load_tokenizer(write_vocabulary(tmp_path / "twice", twice)).size == len(twice)


def test_windows_line_ends_do_not_matter(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(VOCABULARY).encode())
    assert ids_of(load_tokenizer(tmp_path)) == ids_of(load_tokenizer(write_vocabulary(tmp_path / "b")))


def test_the_digest_tells_what_decides_the_ids(tmp_path):
    digests = [
        load_tokenizer(write_vocabulary(tmp_path / "a")).digest,
        load_tokenizer(write_vocabulary(tmp_path / "b", do_lower_case=False)).digest,
        load_tokenizer(write_vocabulary(tmp_path / "c", VOCABULARY[::-1])).digest,
        load_tokenizer(write_tokenizer(tmp_path / "d")).digest,
    ]
    assert len(set(digests)) == 4
    # What says nothing about ids does not change it.
    assert load_tokenizer(write_vocabulary(tmp_path / "a", model_max_length=512)).digest == digests[0]


def test_without_a_vocabulary_it_says_which_files_are_wanted(tmp_path):
    with pytest.raises(ModelFormatError, match="holds neither tokenizer.json nor vocab.txt"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("missing", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
def test_a_vocabulary_that_is_not_berts_is_refused(tmp_path, missing):
    words = [word for word in VOCABULARY if word != missing]
    with pytest.raises(ModelFormatError, match=rf"has no \[{missing[1:-1]}\]\nA BERT vocabulary holds"):
        load_tokenizer(write_vocabulary(tmp_path, words))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": {"type": "Unheard"}}'])
def test_a_torn_tokenizer_json_is_noticed(tmp_path, content):
    write_vocabulary(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelFormatError, match="tokenizer.json is no tokenizer"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_json_without_berts_special_tokens_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelFormatError, match=r"the vocabulary has no \[CLS\]"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_that_is_no_text_is_noticed(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe\n")
    with pytest.raises(ModelFormatError, match=r"vocab\.txt is no UTF-8 text"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["{", "\xff", "[]"])
def test_a_torn_tokenizer_config_is_noticed(tmp_path, content):
    write_vocabulary(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ModelFormatError, match=r"tokenizer_config\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.real
def test_the_real_vocabulary_alone_gives_the_ids_of_its_tokenizer_json(minilm_folder, tmp_path):
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((minilm_folder / name).read_bytes())
    whole, alone = load_tokenizer(minilm_folder), load_tokenizer(tmp_path)
    assert whole.size == alone.size == 30522
    texts = NASTY + [row["text"] for row in golden()["rows"]]
    assert ids_of(alone, texts) == ids_of(whole, texts)


@pytest.mark.real
def test_the_real_ids_are_those_of_transformers(minilm_folder):
    tokenizer = load_tokenizer(minilm_folder)
    for row in golden()["rows"]:
        ids = tokenizer.with_special(tokenizer.encode_batch([row["text"]])[0][:510])
        assert ids.tolist() == row["ids"], row["text"]


def golden() -> dict:
    return json.loads((Path(__file__).parents[1] / "golden/minilm.json").read_text(encoding="utf-8"))
