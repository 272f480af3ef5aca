import csv
import json
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import StoreError, UnknownNameError
from embedsvc.formats import FORMATS, convert
from embedsvc.store import open_store
from embedsvc.types import Block, Mode, ModelSpec, Text
from tests.sets import MANIFEST, block, blocks, honest_blocks, snapshot, write

PLAIN = ["id", "text", "label", "n_tokens", "truncated"]
FILES = sorted(FORMATS)


def read_csv(path):
    """Rows of a csv as its documentation describes them: plain cells and vectors of each variant."""
    csv.field_size_limit(sys.maxsize)
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, strict=True)
    assert header[:5] == PLAIN
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        vectors = {}
        for column in header[5:]:
            vectors.setdefault(column.rpartition("[")[0], []).append(float(cells[column]))
        n_tokens = int(cells["n_tokens"]) if cells["n_tokens"] else -1
        yield [cells["id"], cells["text"], cells["label"] or None, n_tokens, cells["truncated"] == "true"], vectors


def read_jsonl(path):
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            row = json.loads(line)
            plain = [row.pop(name) for name in PLAIN]
            yield [*plain[:3], -1 if plain[3] is None else plain[3], plain[4]], row


def read_set(path):
    embeddings = EmbeddingSet.read(path)
    vectors = {name: embeddings[name] for name in embeddings.variants}
    plain = zip(
        embeddings.ids, embeddings.texts, embeddings.labels, embeddings.n_tokens, embeddings.truncated, strict=True
    )
    for at, row in enumerate(plain):
        yield list(row), {name: vector[at] for name, vector in vectors.items()}


READ = {"csv": read_csv, "jsonl": read_jsonl, "npz": read_set, "parquet": read_set}


def test_every_format_is_tested():
    assert set(FORMATS) == set(READ)


@pytest.mark.parametrize("name", FILES)
def test_a_format_carries_every_variant_bit_for_bit(tmp_path, name):
    write(tmp_path / "out", honest_blocks(10))
    expected = list(read_set(tmp_path / "out"))
    convert(tmp_path / "out", tmp_path / f"x.{name}")
    found = list(READ[name](tmp_path / f"x.{name}"))
    assert len(found) == 10
    for (plain, vectors), (expected_plain, expected_vectors) in zip(found, expected, strict=True):
        assert plain == expected_plain
        assert tuple(vectors) == MANIFEST.variants
        for variant, vector in vectors.items():
            assert np.float32(vector).tobytes() == expected_vectors[variant].tobytes()


# Nothing but lone surrogates is left out, which no UTF-8 file can hold.
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TINY = replace(
    MANIFEST,
    model=ModelSpec("tiny", "0", "", None, {"pre_dropout": 3, "post_dropout": 3}, MANIFEST.model.sites),
    head=replace(MANIFEST.head, kernel=None, bias=None, classes=()),
    taps=("pre_dropout", "post_dropout"),
    rows_per_part=3,
)


@st.composite
def tiny_blocks(draw):
    rows = draw(st.lists(st.builds(Text, STRINGS, STRINGS, st.none() | STRINGS), min_size=1, max_size=7))
    made = []
    for index, start in enumerate(range(0, len(rows), 3)):
        some = tuple(rows[start : start + 3])
        n = len(some)
        vectors = npst.arrays(np.float32, (n, 3), elements=st.floats(width=32))
        made.append(
            Block(
                index,
                start,
                some,
                draw(npst.arrays(np.int64, n, elements=st.integers(-1, 2**40))),
                draw(npst.arrays(np.bool_, n)),
                {name: draw(vectors) for name in TINY.stored},
            )
        )
    return made


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(every=tiny_blocks())
def test_any_text_and_any_float_come_back_from_any_format(name, every):
    rows = [text for each in every for text in each.texts]
    strings = [string for text in rows for string in (text.id, text.text, text.label or "")]
    with TemporaryDirectory() as folder:
        out, path = Path(folder, "out"), Path(folder, f"x.{name}")
        write(out, every, TINY)
        if name == "npz" and any(string.endswith("\0") for string in strings):
            with np.errstate(over="ignore"), pytest.raises(StoreError, match="ends in NUL"):
                convert(out, path)
            return
        with np.errstate(over="ignore"):  # 3e38 / (1 - rate) is infinite, and shall be
            convert(out, path)
            found = list(READ[name](path))
    assert len(found) == len(rows)
    at = 0
    for each in every:
        for row, text in enumerate(each.texts):
            plain, vectors = found[at]
            # Python's csv reader does not tell "" from an empty cell; the file does.
            label = (text.label or None) if name == "csv" else text.label
            assert plain == [text.id, text.text, label, each.n_tokens[row], each.truncated[row]]
            for variant, expected in each.vectors.items():
                np.testing.assert_array_equal(np.float32(vectors[variant]), expected[row])
                zero = expected[row] == 0
                np.testing.assert_array_equal(np.signbit(vectors[variant])[zero], np.signbit(expected[row])[zero])
            at += 1


@pytest.mark.parametrize("name", FILES)
def test_the_same_set_gives_the_same_bytes(tmp_path, name):
    write(tmp_path / "out", blocks(10))
    for target in ("a", "b"):
        convert(tmp_path / "out", tmp_path / target, format=name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_set_read_from_a_file_exports_as_one_from_a_directory(tmp_path):
    write(tmp_path / "out", blocks(10))
    convert(tmp_path / "out", tmp_path / "x.parquet")
    convert(tmp_path / "x.parquet", tmp_path / "x.npz")
    for source in ("out", "x.parquet", "x.npz"):
        convert(tmp_path / source, tmp_path / f"{source}.csv")
    files = snapshot(tmp_path)
    assert files["out.csv"] == files["x.parquet.csv"] == files["x.npz.csv"]


def test_converting_to_parquet_gives_the_file_that_a_run_would_have_written(tmp_path):
    write(tmp_path / "out", blocks(10))
    write(tmp_path / "x.parquet", blocks(10))
    convert(tmp_path / "out", tmp_path / "y.parquet")
    assert (tmp_path / "x.parquet").read_bytes() == (tmp_path / "y.parquet").read_bytes()


def test_csv_quotes_as_the_standard_says_and_keeps_formulas_as_data(tmp_path):
    rows = [
        Text("=1+1", 'say "no"', "@x"),
        Text("-2", "a,b", ""),
        Text("+3", "two\nlines", None),
        Text("4", " spaced\r", "x"),
    ]
    write(tmp_path / "out", [block(0, rows)])
    convert(tmp_path / "out", tmp_path / "x.csv")
    text = (tmp_path / "x.csv").read_bytes().decode()
    assert '\r\n=1+1,"say ""no""",@x,2,false,' in text
    assert '\r\n-2,"a,b","",,true,' in text
    assert '\r\n+3,"two\nlines",,4,false,' in text
    assert '\r\n4," spaced\r",x,5,true,' in text
    assert text.endswith("\r\n")
    assert text.startswith("id,text,label,n_tokens,truncated,pre_dropout.inference[0],pre_dropout.inference[1],")


def test_floats_are_written_in_their_shortest_form(tmp_path):
    vectors = {name: np.full((1, MANIFEST.width(name)), 0.1, np.float32) for name in MANIFEST.stored}
    write(tmp_path / "out", [replace(block(0, block(0).texts[:1]), vectors=vectors)])
    convert(tmp_path / "out", tmp_path / "x.jsonl")
    assert '"logits.inference": [0.1,0.1,0.1]' in (tmp_path / "x.jsonl").read_text()


def test_npz_is_read_by_numpy_without_pickle_and_holds_no_time(tmp_path):
    write(tmp_path / "out", blocks(10))
    convert(tmp_path / "out", tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz") as file:
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert set(file) == {"manifest", *PLAIN, "labelled", *MANIFEST.variants}
        assert file["id"].tolist() == [text.id for each in blocks(10) for text in each.texts]
        assert json.loads(str(file["manifest"]))["seed"] == 7


def test_npz_refuses_one_very_long_text_among_many_short_ones(tmp_path):
    manifest = replace(TINY, modes=(Mode.INFERENCE,), passes=0, seed=None, rows_per_part=300)
    rows = [Text(str(at), "short") for at in range(299)] + [Text("long", "x" * 1_000_000)]
    write(tmp_path / "out", [block(0, rows, manifest)], manifest)
    with pytest.raises(StoreError, match="the longest text has 1000000 characters"):
        convert(tmp_path / "out", tmp_path / "x.npz")
    assert not [name for name in snapshot(tmp_path) if name.startswith((".", "x"))]
    convert(tmp_path / "out", tmp_path / "x.jsonl")
    assert next(iter(list(read_jsonl(tmp_path / "x.jsonl"))[-1]))[1] == "x" * 1_000_000


@pytest.mark.parametrize("name", ["csv", "jsonl", "npz"])
def test_memory_does_not_grow_with_the_set(tmp_path, name):
    manifest = replace(TINY, rows_per_part=100)
    peaks = []
    for n_parts in (5, 50):
        rows = [Text(f"{at}", "some text") for at in range(100)]
        with open_store(tmp_path / str(n_parts), manifest) as store:
            for index in range(n_parts):
                store.write(block(index, rows, manifest))
            store.finish(rows=n_parts * 100)
        tracemalloc.start()
        convert(tmp_path / str(n_parts), tmp_path / f"{n_parts}.{name}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.parametrize("name", FILES)
def test_an_unfinished_set_is_not_exported(tmp_path, name):
    with open_store(tmp_path / "out", MANIFEST) as store:
        store.write(block(0))
    with pytest.raises(StoreError, match="unfinished"):
        convert(tmp_path / "out", tmp_path / f"x.{name}")
    assert not list(tmp_path.glob("*x.*"))


def test_a_file_that_is_there_stays_unless_told_otherwise(tmp_path):
    write(tmp_path / "out", blocks(10))
    (tmp_path / "x.csv").write_text("mine")
    with pytest.raises(StoreError, match="exists already"):
        convert(tmp_path / "out", tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == "mine"
    convert(tmp_path / "out", tmp_path / "x.csv", overwrite=True)
    assert (tmp_path / "x.csv").read_text() != "mine"


def test_an_unknown_format_names_the_known_ones(tmp_path):
    with pytest.raises(UnknownNameError, match="csv, jsonl, npz, parquet"):
        convert(tmp_path / "out", tmp_path / "x.xlsx")
