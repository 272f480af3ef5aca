import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedsvc
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import SettingsError, StoreError, UnknownVariantError
from embedsvc.formats import convert
from embedsvc.models.base import forward
from embedsvc.parts import Piece
from embedsvc.store import open_store
from embedsvc.types import Mode, Pass
from tests.sets import ENCODER, MANIFEST, block, blocks, honest_blocks, texts, write

N = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One honest set in each form that can be read."""
    place = tmp_path_factory.mktemp("sets")
    write(place / "out", honest_blocks(N))
    write(place / "out.parquet", honest_blocks(N))
    convert(place / "out", place / "out.npz")
    return place


@pytest.fixture(params=["out", "out.parquet", "out.npz"])
def embeddings(request, folder):
    return EmbeddingSet.read(folder / request.param)


def test_every_variant_is_what_the_encoder_gives(embeddings):
    # Virtual ones too: drawing them from what is stored is running the head.
    for name in embeddings.variants:
        tap, mode, *index = name.split(".")
        pass_ = Pass(Mode(mode), *(int(k) for k in index), *((7,) if index else ()))
        expected = forward(ENCODER, texts(N), taps=[tap], pass_=pass_).vectors[tap]
        # logits go through BLAS, whose last bits depend on the number of rows.
        np.testing.assert_allclose(embeddings[name], expected, rtol=1e-5, atol=1e-6)
        if tap != "logits":
            np.testing.assert_array_equal(embeddings[name], expected)


def test_vectors_are_contiguous_float32_of_one_row_a_text(embeddings):
    for name in (*embeddings.variants, "post_dropout.head.99"):
        vectors = embeddings[name]
        assert vectors.shape == (N, embeddings.manifest.width(name))
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
        assert vectors.flags.writeable


def test_head_passes_beyond_the_manifest_are_drawn_just_the_same(embeddings):
    expected = forward(ENCODER, texts(N), taps=["post_dropout"], pass_=Pass(Mode.HEAD, 123, 7)).vectors["post_dropout"]
    np.testing.assert_array_equal(embeddings["post_dropout.head.123"], expected)
    assert "logits.head.123" in embeddings
    assert "post_dropout.training.123" not in embeddings


def test_an_identical_variant_gives_the_same_vectors(embeddings):
    np.testing.assert_array_equal(embeddings["post_dropout.inference"], embeddings["pre_dropout.inference"])


def test_changing_what_was_read_changes_nothing_else(embeddings):
    before = embeddings["pre_dropout.inference"].copy()
    embeddings["pre_dropout.inference"][:] = 0
    embeddings["post_dropout.inference"][:] = 0
    np.testing.assert_array_equal(embeddings["pre_dropout.inference"], before)


def test_a_set_that_keeps_gives_the_same_vectors_once_and_read_only(embeddings):
    keeping = embeddings.keeping()
    for name in embeddings.variants:
        np.testing.assert_array_equal(keeping[name], embeddings[name])
        assert keeping[name] is keeping[name]
    assert keeping["post_dropout.inference"] is keeping["pre_dropout.inference"]
    with pytest.raises(ValueError, match="read-only"):
        keeping["pre_dropout.inference"][0] = 0
    assert embeddings["pre_dropout.inference"] is not embeddings["pre_dropout.inference"]


def test_columns_beside_the_vectors_are_there(embeddings):
    every = honest_blocks(N)
    assert len(embeddings) == N
    assert embeddings.ids == tuple(text.id for text in texts(N))
    assert embeddings.texts == tuple(text.text for text in texts(N))
    assert embeddings.labels == tuple(text.label for text in texts(N))
    assert embeddings.n_tokens.tolist() == [n for each in every for n in each.n_tokens]
    assert embeddings.n_tokens.dtype == np.int64
    assert embeddings.truncated.tolist() == [cut for each in every for cut in each.truncated]
    assert embeddings.truncated.any()
    assert embeddings.truncated.dtype == np.bool_
    assert embeddings.manifest.complete
    assert embeddings.variants == MANIFEST.variants


def test_unknown_token_counts_are_minus_one(tmp_path):
    write(tmp_path / "out", blocks(N))
    assert EmbeddingSet.read(tmp_path / "out").n_tokens.tolist() == [n for each in blocks(N) for n in each.n_tokens]


def test_its_repr_says_where_it_is_and_what_it_holds(embeddings):
    assert repr(embeddings).endswith("logits.training.0 … 1, post_dropout.head.0 … 1, logits.head.0 … 1>")
    assert f"{N} texts" in repr(embeddings)
    assert str(embeddings.path) in repr(embeddings)


def test_what_is_not_finite_comes_back_as_it_was(tmp_path):
    odd = np.array([np.nan, np.inf, -np.inf, -0.0], dtype=np.float32)
    vectors = {name: np.tile(odd, (4, MANIFEST.width(name)))[:, : MANIFEST.width(name)] for name in MANIFEST.stored}
    write(tmp_path / "out", [replace(block(0), vectors=vectors)])
    found = EmbeddingSet.read(tmp_path / "out")["pre_dropout.inference"]
    assert found.tobytes() == np.ascontiguousarray(vectors["pre_dropout.inference"]).tobytes()


# Unknown variants


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("post_dropout.trainin.0", "Did you mean 'post_dropout.training.0'?"),
        ("pre_dropout.inferense", "Did you mean 'pre_dropout.inference'?"),
        ("post_dropout", "Did you mean 'post_dropout.inference'?"),
        ("pre_dropout.head.0", "Head mode leaves the encoder as it is: take pre_dropout.inference."),
        ("cls.inference", "It holds: pre_dropout.inference, "),
        ("post_dropout.training.2", "post_dropout.training.0 … 1"),
        ("", "It holds"),
    ],
)
def test_an_unknown_variant_is_an_error_with_the_known_ones(embeddings, name, hint):
    with pytest.raises(UnknownVariantError, match="holds no variant") as caught:
        embeddings[name]
    assert hint in caught.value.hint
    assert name not in embeddings


def test_head_passes_without_a_seed_ask_for_one(tmp_path):
    manifest = replace(MANIFEST, modes=(Mode.INFERENCE,), passes=0, seed=None)
    write(tmp_path / "out", blocks(N, manifest), manifest)
    embeddings = EmbeddingSet.read(tmp_path / "out")
    with pytest.raises(UnknownVariantError, match="need a seed"):
        embeddings["post_dropout.head.0"]


def test_an_untrained_head_has_no_logits(tmp_path):
    manifest = replace(
        MANIFEST, taps=("post_dropout",), head=replace(MANIFEST.head, kernel=None, bias=None, classes=())
    )
    write(tmp_path / "out", blocks(N, manifest), manifest)
    embeddings = EmbeddingSet.read(tmp_path / "out")
    assert "post_dropout.head.5" in embeddings
    assert "logits.head.5" not in embeddings


# Streaming


@pytest.mark.parametrize("rows", [None, 1, 3, 100])
def test_blocks_together_are_the_set(embeddings, rows):
    got = list(embeddings.iter_blocks(rows=rows))
    assert max(len(each.texts) for each in got) == min(rows or 4, 4)
    assert [each.index for each in got] == list(range(len(got)))
    assert [each.offset for each in got] == np.cumsum([0, *(len(each.texts) for each in got)])[:-1].tolist()
    assert [text for each in got for text in each.texts] == texts(N)
    np.testing.assert_array_equal(np.concatenate([each.n_tokens for each in got]), embeddings.n_tokens)
    np.testing.assert_array_equal(np.concatenate([each.truncated for each in got]), embeddings.truncated)
    assert all(tuple(each.vectors) == embeddings.variants for each in got)
    for name in embeddings.variants:
        np.testing.assert_array_equal(np.concatenate([each.vectors[name] for each in got]), embeddings[name])
        assert all(type(each.vectors[name]) is np.ndarray and each.vectors[name].flags.aligned for each in got)


def test_asking_to_stream_what_is_not_there_fails_at_once(embeddings):
    with pytest.raises(UnknownVariantError):
        embeddings.iter_blocks(["cls.inference"])
    with pytest.raises(SettingsError, match="rows is 0"):
        embeddings.iter_blocks(rows=0)


def test_only_the_columns_asked_for_are_read(folder, monkeypatch):
    asked = []
    real = Piece.read
    monkeypatch.setattr(Piece, "read", lambda piece, columns=None: asked.append(columns) or real(piece, columns))
    embeddings = EmbeddingSet.read(folder / "out.parquet")
    assert asked == []
    embeddings["logits.training.1"]
    assert asked == [["logits.training.1"]] * 3
    asked.clear()
    embeddings["post_dropout.head.0"]
    assert asked == [["pre_dropout.inference", "id"]] * 3
    asked.clear()
    assert embeddings.ids == embeddings.ids
    assert asked == [["id"]] * 3


def test_reading_loads_neither_tensorflow_nor_pandas(folder):
    script = """if True:
        import sys
        from embedsvc.embeddings import EmbeddingSet
        assert "pyarrow" not in sys.modules
        embeddings = EmbeddingSet.read(sys.argv[1])
        embeddings["post_dropout.head.3"], embeddings.labels, embeddings.n_tokens
        list(embeddings.iter_blocks())
        print({"tensorflow", "pandas", "keras"} & set(sys.modules))
    """
    result = subprocess.run([sys.executable, "-c", script, folder / "out"], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


# What cannot be read


@pytest.mark.parametrize("target", ["out", "out.parquet"])
def test_an_unfinished_set_says_how_far_it_got_and_can_be_read_on_request(tmp_path, target):
    with open_store(tmp_path / target, MANIFEST) as store:
        store.write(block(0))
        store.write(block(2, texts(N)[8:]))
    with pytest.raises(StoreError, match="is unfinished: 2 parts are there, of 4 rows each") as caught:
        EmbeddingSet.read(tmp_path / target)
    assert "Run the same command again" in caught.value.hint
    embeddings = EmbeddingSet.read(tmp_path / target, allow_partial=True)
    assert embeddings.ids == tuple(text.id for text in [*texts(4), *texts(N)[8:]])
    assert embeddings["post_dropout.head.3"].shape == (6, 16)
    assert "unfinished" in repr(embeddings)


def test_a_place_without_a_set_is_an_error(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.parquet").write_text("hello")
    for name, problem in {
        "nothing": "does not exist",
        "nothing.parquet": "does not exist",
        "folder": "no manifest.json",
        "text.parquet": "no readable Parquet",
    }.items():
        with pytest.raises(StoreError, match=problem):
            EmbeddingSet.read(tmp_path / name)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_exports_say_that_they_are_no_sets(folder, tmp_path, suffix):
    convert(folder / "out", tmp_path / f"x.{suffix}")
    with pytest.raises(StoreError, match="export for other programs"):
        EmbeddingSet.read(tmp_path / f"x.{suffix}")


def test_a_part_that_vanished_is_an_error(tmp_path):
    write(tmp_path / "out", blocks(N))
    embeddings = EmbeddingSet.read(tmp_path / "out")
    (tmp_path / "out" / "part-00001.parquet").unlink()
    with pytest.raises(StoreError, match="part-00001.parquet cannot be read"):
        embeddings["pre_dropout.inference"]


def test_rows_or_columns_that_disagree_with_the_manifest_are_an_error(folder, tmp_path):
    table = pq.read_table(folder / "out.parquet")
    name = "pre_dropout.inference"
    narrow = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(N, np.float32)), 1)
    at = table.column_names.index(name)
    for wrong in (table.drop_columns([name]), table[:9], table.set_column(at, name, narrow)):
        wrong = wrong.replace_schema_metadata(table.schema.metadata)
        pq.write_table(wrong, tmp_path / "x.parquet", row_group_size=4)
        with pytest.raises(StoreError, match="x.parquet (holds 1 rows|does not fit)"):
            EmbeddingSet.read(tmp_path / "x.parquet")[name]


def repacked(source, path, **changes):
    """An npz with some arrays replaced, or left out where None."""
    with np.load(source) as file:
        arrays = dict(file)
    np.savez(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return path


class Bomb:
    def __reduce__(self):
        return (print, ("the pickle ran",))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"manifest": None}, "no manifest"),
        ({"manifest": np.array("{}")}, "not written by embedsvc"),
        ({"id": None}, "id is missing"),
        ({"id": np.array(["a"])}, "id is <U1 of shape"),
        ({"labelled": None}, "labelled is missing"),
        ({"pre_dropout.inference": np.zeros((N, 1), np.float32)}, r"of shape \(10, 1\)"),
        ({"pre_dropout.inference": None}, "pre_dropout.inference is missing"),
        ({"pre_dropout.inference": np.zeros((N, 16), np.float64)}, "float64"),
        ({"pre_dropout.inference": np.full((N, 16), Bomb(), object)}, "holds pickled objects"),
        ({"id": np.full(N, Bomb(), object)}, "object"),
    ],
)
def test_a_foreign_npz_is_an_error_and_no_pickle_is_opened(folder, tmp_path, capsys, changes, problem):
    path = repacked(folder / "out.npz", tmp_path / "x.npz", **changes)
    with pytest.raises(StoreError, match=problem):
        EmbeddingSet.read(path)
    assert "pickle ran" not in capsys.readouterr().out


def test_an_npz_that_was_compressed_again_reads_the_same(folder, tmp_path):
    with np.load(folder / "out.npz") as file:
        np.savez_compressed(tmp_path / "x.npz", **file)
    expected, found = EmbeddingSet.read(folder / "out"), EmbeddingSet.read(tmp_path / "x.npz")
    for name in (*expected.variants, "post_dropout.head.50"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_an_npz_that_unpacks_to_far_more_than_it_holds_is_refused_unread(folder, tmp_path, monkeypatch):
    with np.load(folder / "out.npz") as file:
        np.savez_compressed(tmp_path / "x.npz", **dict(file) | {"text": np.full(N, "a" * 100_000)})
    EmbeddingSet.read(tmp_path / "x.npz")  # small enough to do no harm
    monkeypatch.setattr("embedsvc.columns._ROOM", 2**20)
    with pytest.raises(StoreError, match=r"text\.npy unpacks to 4,000,\d{3} bytes"):
        EmbeddingSet.read(tmp_path / "x.npz")


@pytest.mark.parametrize("size", [100, 2000, 5000])
def test_a_torn_npz_is_an_error(folder, tmp_path, size):
    (tmp_path / "x.npz").write_bytes((folder / "out.npz").read_bytes()[:size])
    with pytest.raises(StoreError):
        EmbeddingSet.read(tmp_path / "x.npz")


def test_an_npz_whose_member_headers_lie_is_an_error(folder, tmp_path):
    path = tmp_path / "x.npz"
    data = bytearray((folder / "out.npz").read_bytes())
    with zipfile.ZipFile(folder / "out.npz") as file:
        at = file.getinfo("pre_dropout.inference.npy").header_offset
    data[at + 26 : at + 30] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(StoreError, match="cannot be read"):
        EmbeddingSet.read(path)


def test_a_set_reseeded_draws_its_head_passes_under_the_other_seed_and_keeps_the_rest(embeddings):
    other = embeddings.reseeded(8)
    assert not np.array_equal(other["post_dropout.head.0"], embeddings["post_dropout.head.0"])
    np.testing.assert_array_equal(other["post_dropout.training.0"], embeddings["post_dropout.training.0"])
    np.testing.assert_array_equal(other.reseeded(7)["post_dropout.head.0"], embeddings["post_dropout.head.0"])


def test_analyses_take_a_set_or_its_path_and_nothing_else(folder):
    path = folder / "out"
    expected = embedsvc.compare(EmbeddingSet.read(path)).to_json()
    assert embedsvc.compare(path, other=None).to_json() == embedsvc.compare(str(path)).to_json() == expected
    with pytest.raises(SettingsError, match="got ndarray, expected an embedding set or its path"):
        embedsvc.cluster(np.zeros((20, 4), np.float32), seed=0)
