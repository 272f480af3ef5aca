import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedsvc import arrow
from embedsvc.errors import StoreError, StoreMismatchError
from embedsvc.formats import FORMATS
from embedsvc.manifest import Manifest
from embedsvc.parts import write_part
from embedsvc.storage import atomic_file
from embedsvc.store import open_store
from embedsvc.stored import pieces_of, verify
from embedsvc.types import Mode, Text
from tests.sets import MANIFEST, block, blocks, snapshot, write

OTHER = replace(MANIFEST, seed=8, versions={"numpy": "2.1", "pyarrow": "16.0"})
REJECTED = [{"source": "reviews.txt", "row": 3, "reason": "blank"}]
TARGETS = pytest.mark.parametrize("target", ["out", "out.parquet", "out.csv"])


def options(target):
    return {"export": FORMATS["csv"]} if target.endswith(".csv") else {}


def flip(path: Path, where: float) -> None:
    """Change one byte of a file, so far into it."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 0xFF
    path.write_bytes(data)


# What is written


def test_a_directory_holds_manifest_parts_and_rejected_rows(tmp_path):
    manifest = write(tmp_path / "out", blocks(10), rejected=REJECTED)
    assert set(snapshot(tmp_path / "out")) == {
        "manifest.json",
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
        "rejected.jsonl",
    }
    assert Manifest.from_json((tmp_path / "out" / "manifest.json").read_bytes()) == manifest
    assert [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()] == REJECTED


def test_a_file_stands_alone_with_rejected_rows_beside_it(tmp_path):
    write(tmp_path / "deep" / "out.parquet", blocks(10), rejected=REJECTED)
    assert set(snapshot(tmp_path / "deep")) == {"out.parquet", "out.rejected.jsonl"}
    assert not list((tmp_path / "deep").glob(".*"))


def test_an_export_stands_with_its_manifest_beside_it(tmp_path):
    manifest = write(tmp_path / "out.csv", blocks(10), export=FORMATS["csv"])
    assert set(snapshot(tmp_path)) == {"out.csv", "out.csv.manifest.json"}
    assert Manifest.from_json((tmp_path / "out.csv.manifest.json").read_bytes()) == manifest


def test_no_rejected_rows_leave_no_file(tmp_path):
    write(tmp_path / "out", blocks(5))
    write(tmp_path / "out.parquet", blocks(5))
    assert not [name for name in snapshot(tmp_path) if "rejected" in name]


def test_row_groups_of_a_file_are_the_parts_and_its_metadata_holds_the_manifest(tmp_path):
    manifest = write(tmp_path / "out.parquet", blocks(10))
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert [metadata.row_group(number).num_rows for number in range(3)] == [4, 4, 2]
    assert pq.read_schema(tmp_path / "out.parquet").metadata[b"embedsvc"].decode() == manifest.to_json()


def test_columns_are_named_typed_and_ordered_as_documented(tmp_path):
    write(tmp_path / "out.parquet", blocks(10))
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.names == ["id", "text", "label", "n_tokens", "truncated", *MANIFEST.stored]
    assert [str(kind) for kind in schema.types[:5]] == ["string", "string", "string", "int64", "bool"]
    for name in MANIFEST.stored:
        kind = schema.field(name).type
        assert (kind.list_size, kind.value_type) == (MANIFEST.width(name), pa.float32())


@pytest.mark.parametrize("target", ["out", "out.parquet"])
def test_rows_come_back_as_they_were(tmp_path, target):
    write(tmp_path / target, blocks(10))
    _, pieces = pieces_of(tmp_path / target)
    for piece, expected in zip(pieces, blocks(10), strict=True):
        table = piece.read()
        strings = [table[name].to_pylist() for name in ("id", "text", "label")]
        assert tuple(map(Text, *strings)) == expected.texts
        assert table["n_tokens"].to_pylist() == [None if n < 0 else n for n in expected.n_tokens]
        assert table["truncated"].to_pylist() == expected.truncated.tolist()
        for name in MANIFEST.stored:
            np.testing.assert_array_equal(np.array(table[name].to_pylist(), np.float32), expected.vectors[name])


def test_results_count_rows_tokens_truncated_and_rejected(tmp_path):
    manifest = write(tmp_path / "out", blocks(10), rejected=REJECTED)
    every = blocks(10)
    assert manifest.complete
    assert manifest.rows == 10
    assert manifest.tokens == sum(int(n) for each in every for n in each.n_tokens if n > 0)
    assert manifest.truncated == sum(int(each.truncated.sum()) for each in every)
    assert manifest.rejected == 1
    assert [(part.name, part.rows) for part in manifest.parts] == [
        ("part-00000.parquet", 4),
        ("part-00001.parquet", 4),
        ("part-00002.parquet", 2),
    ]


def test_a_file_and_a_directory_have_one_manifest(tmp_path):
    assert write(tmp_path / "out", blocks(10)) == write(tmp_path / "out.parquet", blocks(10))


@TARGETS
def test_equal_runs_write_equal_bytes_in_whatever_order_their_blocks_come(tmp_path, target):
    write(tmp_path / "a" / target, blocks(10), **options(target))
    write(tmp_path / "b" / target, reversed(blocks(10)), **options(target))
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


@pytest.mark.parametrize("target", ["out", "out.parquet"])
def test_an_empty_set_is_a_set(tmp_path, target):
    manifest = write(tmp_path / target, [])
    assert (manifest.rows, manifest.parts) == (0, ())
    assert verify(tmp_path / target) == manifest


def test_vectors_are_smaller_than_plain_floats(tmp_path):
    manifest = replace(
        MANIFEST, rows_per_part=2000, taps=("pre_dropout",), modes=(Mode.INFERENCE,), passes=0, seed=None
    )
    rng = np.random.default_rng(1)
    rows = [Text(str(row), "") for row in range(2000)]
    vectors = np.tanh(rng.standard_normal((2000, 16), dtype=np.float32))
    write(
        tmp_path / "out.parquet",
        [replace(block(0, rows, manifest), vectors={"pre_dropout.inference": vectors})],
        manifest,
    )
    column = pq.read_metadata(tmp_path / "out.parquet").row_group(0).column(5)
    assert column.path_in_schema.startswith("pre_dropout.inference")
    assert "BYTE_STREAM_SPLIT" in column.encodings
    assert column.total_compressed_size < 0.93 * vectors.nbytes


def test_the_digest_is_over_names_and_values_and_no_encoding():
    table = arrow.table_of(block(0), MANIFEST)
    names = table.column_names
    assert arrow.digest(table) == arrow.digest(pa.concat_tables([table[:1], table[1:]]))
    assert arrow.digest(table) != arrow.digest(table.rename_columns([*names[:-1], "other"]))
    others = {
        "id": Text("other", block(0).texts[0].text, "joy"),
        "text": replace(block(0).texts[0], text="other"),
        "label": replace(block(0).texts[0], label=None),
    }
    for text in others.values():
        other = block(0, [text, *block(0).texts[1:]])
        assert arrow.digest(table) != arrow.digest(arrow.table_of(other, MANIFEST))
    for changes in (
        {"n_tokens": block(0).n_tokens + 1},
        {"truncated": ~block(0).truncated},
        {"vectors": {name: -vectors for name, vectors in block(0).vectors.items()}},
    ):
        assert arrow.digest(table) != arrow.digest(arrow.table_of(replace(block(0), **changes), MANIFEST))


# What others read


def test_pandas_opens_a_file_and_the_parts_of_a_directory(tmp_path):
    pandas = pytest.importorskip("pandas")
    write(tmp_path / "out.parquet", blocks(10))
    write(tmp_path / "out", blocks(10))
    for source in (tmp_path / "out.parquet", sorted((tmp_path / "out").glob("*.parquet"))):
        frame = pandas.read_parquet(source)
        assert frame.shape == (10, 5 + len(MANIFEST.stored))
        assert frame["label"].notna().sum() == 4
        np.testing.assert_array_equal(
            np.stack(frame["pre_dropout.inference"])[4:8], block(1).vectors["pre_dropout.inference"]
        )


def test_polars_opens_a_file_and_the_parts_of_a_directory(tmp_path):
    polars = pytest.importorskip("polars")
    write(tmp_path / "out.parquet", blocks(10))
    write(tmp_path / "out", blocks(10))
    for source in (tmp_path / "out.parquet", tmp_path / "out" / "*.parquet"):
        frame = polars.read_parquet(source)
        assert frame.schema["post_dropout.training.1"] == polars.Array(polars.Float32, 16)
        assert frame["n_tokens"].null_count() == 3
        np.testing.assert_array_equal(
            frame["pre_dropout.inference"].to_numpy()[4:8], block(1).vectors["pre_dropout.inference"]
        )


def test_duckdb_queries_a_file_and_the_parts_of_a_directory(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    write(tmp_path / "out.parquet", blocks(10))
    write(tmp_path / "out", blocks(10))
    for source in (tmp_path / "out.parquet", tmp_path / "out" / "*.parquet"):
        rows = duckdb.sql(f"""SELECT "pre_dropout.inference"[1] FROM '{source}' ORDER BY id""").fetchall()
        assert rows[4][0] == block(1).vectors["pre_dropout.inference"][0, 0]


# Going on


@TARGETS
def test_an_unfinished_set_keeps_its_parts_and_ends_in_the_same_bytes(tmp_path, target):
    with open_store(tmp_path / "a" / target, MANIFEST, **options(target)) as store:
        store.write(block(0))
        store.write(block(2, blocks(10)[2].texts))
    folder = tmp_path / "a" / target if target == "out" else tmp_path / "a" / f".{target}.partial"
    before = (folder / "part-00000.parquet").stat().st_mtime_ns
    with open_store(tmp_path / "a" / target, MANIFEST, **options(target)) as store:
        assert store.done == {0, 2}
        assert store.rows == 6
        assert not store.complete
        assert (folder / "part-00000.parquet").stat().st_mtime_ns == before
    write(tmp_path / "a" / target, blocks(10), **options(target))
    write(tmp_path / "b" / target, blocks(10), **options(target))
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


@TARGETS
def test_a_finished_set_is_done_already_and_nothing_is_written(tmp_path, target):
    manifest = write(tmp_path / target, blocks(10), rejected=REJECTED, **options(target))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    for overwrite in (False, True):
        with open_store(tmp_path / target, MANIFEST, overwrite=overwrite, **options(target)) as store:
            assert store.complete
            assert store.done == {0, 1, 2}
            assert (store.rows, store.tokens) == (10, manifest.tokens)
            assert store.finish(rows=10) == manifest
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == before


@TARGETS
@pytest.mark.parametrize("finished", [True, False])
def test_another_identity_is_refused_with_every_difference(tmp_path, target, finished):
    if finished:
        write(tmp_path / target, blocks(10), **options(target))
    else:
        with open_store(tmp_path / target, MANIFEST, **options(target)) as store:
            store.write(block(0))
    before = snapshot(tmp_path)
    with (
        pytest.raises(StoreMismatchError, match="finished set" if finished else "unfinished run") as caught,
        open_store(tmp_path / target, OTHER, **options(target)),
    ):
        pass
    assert "seed: this run has 8, the stored one 7" in str(caught.value)
    assert "versions.numpy: this run has 2.1, the stored one 2.0" in str(caught.value)
    assert snapshot(tmp_path) == before
    assert not (tmp_path / ".out.parquet.partial").exists() or not finished


@TARGETS
@pytest.mark.parametrize("finished", [True, False])
def test_overwrite_replaces_the_set_and_no_file_of_others(tmp_path, target, finished):
    if finished:
        write(tmp_path / "a" / target, blocks(14), rejected=REJECTED, **options(target))
    else:
        with open_store(tmp_path / "a" / target, MANIFEST, **options(target)) as store:
            store.write(block(0))
    if target == "out":
        (tmp_path / "a" / "out" / "notes.txt").write_text("mine")
    write(tmp_path / "a" / target, blocks(10, OTHER), OTHER, overwrite=True, **options(target))
    write(tmp_path / "b" / target, blocks(10, OTHER), OTHER, **options(target))
    found = snapshot(tmp_path / "a")
    assert found.pop("out/notes.txt", b"mine") == b"mine"
    assert found == snapshot(tmp_path / "b")


def test_an_overwriting_run_keeps_the_old_file_until_it_is_done(tmp_path):
    manifest = write(tmp_path / "out.parquet", blocks(10))
    with open_store(tmp_path / "out.parquet", OTHER, overwrite=True) as store:
        store.write(block(0))
    assert verify(tmp_path / "out.parquet") == manifest
    with open_store(tmp_path / "out.parquet", OTHER, overwrite=True) as store:
        assert store.done == {0}


# Damage


@pytest.mark.parametrize("where", [0.0, 0.1, 0.3, 0.6, 0.9, 0.999])
def test_a_part_with_a_flipped_byte_never_changes_the_result(tmp_path, where):
    with open_store(tmp_path / "a", MANIFEST) as store:
        store.write(block(0))
        store.write(block(1))
    flip(tmp_path / "a" / "part-00001.parquet", where)
    write(tmp_path / "a", blocks(10))
    write(tmp_path / "b", blocks(10))
    tables = [[piece.read() for piece in pieces_of(tmp_path / name)[1]] for name in "ab"]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_a_torn_part_is_written_again(tmp_path, size):
    with open_store(tmp_path / "out", MANIFEST) as store:
        store.write(block(0))
        store.write(block(1))
    os.truncate(tmp_path / "out" / "part-00001.parquet", size)
    with open_store(tmp_path / "out", MANIFEST) as store:
        assert store.done == {0}
        assert not (tmp_path / "out" / "part-00001.parquet").exists()


def test_a_part_of_another_run_or_place_is_written_again(tmp_path):
    write(tmp_path / "other", blocks(10, OTHER), OTHER)
    with open_store(tmp_path / "out", MANIFEST) as store:
        store.write(block(0))
    (tmp_path / "out" / "part-00001.parquet").write_bytes((tmp_path / "other" / "part-00001.parquet").read_bytes())
    (tmp_path / "out" / "part-00002.parquet").write_bytes((tmp_path / "out" / "part-00000.parquet").read_bytes())
    with open_store(tmp_path / "out", MANIFEST) as store:
        assert store.done == {0}


def test_temporary_files_of_a_killed_run_are_swept_up(tmp_path):
    with open_store(tmp_path / "out", MANIFEST) as store:
        store.write(block(0))
    (tmp_path / "out" / ".part-00009.parquet.tmp").write_bytes(b"PAR1")
    (tmp_path / "out" / ".other.tmp").write_bytes(b"mine")
    with open_store(tmp_path / "out", MANIFEST):
        assert not (tmp_path / "out" / ".part-00009.parquet.tmp").exists()
        assert (tmp_path / "out" / ".other.tmp").exists()


def test_temporary_files_of_a_process_killed_beside_this_one_are_not_in_the_set(tmp_path):
    with open_store(tmp_path / "out", MANIFEST) as store:
        for each in blocks(10):
            store.write(each)
        (tmp_path / "out" / ".part-00001.parquet.5eed.tmp").write_bytes(b"PAR1")
        store.finish(rows=10)
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        *(f"part-{index:05}.parquet" for index in range(3)),
    ]


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_a_finished_directory_that_lost_a_part_is_mended(tmp_path, damage):
    write(tmp_path / "out", blocks(10))
    before = snapshot(tmp_path)
    part = tmp_path / "out" / "part-00001.parquet"
    part.unlink() if damage == "missing" else os.truncate(part, 100)
    with open_store(tmp_path / "out", MANIFEST) as store:
        assert store.done == {0, 2}
        assert not store.complete
        with pytest.raises(StoreError, match="unfinished"):
            pieces_of(tmp_path / "out")
    write(tmp_path / "out", blocks(10))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("text", ["", "{", '{"format": "embedsvc", "sch', "\0\0\0"])
def test_a_torn_manifest_is_an_error_even_when_overwriting(tmp_path, text):
    write(tmp_path / "out", blocks(10))
    (tmp_path / "out" / "manifest.json").write_text(text)
    before = snapshot(tmp_path)
    for overwrite in (False, True):
        with (
            pytest.raises(StoreError, match="manifest.json is torn"),
            open_store(tmp_path / "out", MANIFEST, overwrite=overwrite),
        ):
            pass
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("target", ["out", "out.parquet"])
def test_verify_names_what_was_changed(tmp_path, target):
    manifest = write(tmp_path / target, blocks(10))
    assert verify(tmp_path / target) == manifest
    changed = replace(manifest, parts=(*manifest.parts[:2], replace(manifest.parts[2], sha256="0" * 64)))
    if target == "out":
        (tmp_path / "out" / "manifest.json").write_text(changed.to_json())
        (tmp_path / "out" / "part-00000.parquet").unlink()
        os.truncate(tmp_path / "out" / "part-00001.parquet", 200)
        words = [
            "part-00000.parquet is torn or missing",
            "part-00001.parquet is torn",
            "part-00002.parquet was changed",
        ]
    else:
        table = pq.read_table(tmp_path / target).replace_schema_metadata({b"embedsvc": changed.to_json()})
        pq.write_table(table, tmp_path / target, row_group_size=4)
        words = ["part-00002.parquet was changed"]
    with pytest.raises(StoreError) as caught:
        verify(tmp_path / target)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("target", ["out", "out.parquet"])
def test_a_flipped_byte_is_an_error_of_ours_wherever_it_is(tmp_path, target):
    """Or changes nothing that is read: statistics, and padding."""
    write(tmp_path / target, blocks(10))
    path = tmp_path / target if target == "out.parquet" else tmp_path / "out" / "part-00001.parquet"
    whole, noticed = path.read_bytes(), 0
    places = range(0, len(whole), 7)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            verify(tmp_path / target)
        except StoreError:
            noticed += 1
    assert noticed > len(places) / 2


def test_content_that_disagrees_with_its_manifest_is_an_error(tmp_path):
    manifest = write(tmp_path / "out.parquet", blocks(10))
    table = pq.read_table(tmp_path / "out.parquet")
    for wrong in (
        table.drop_columns(["text"]),
        table[:9],
    ):
        pq.write_table(
            wrong.replace_schema_metadata({b"embedsvc": manifest.to_json()}), tmp_path / "x.parquet", row_group_size=4
        )
        with pytest.raises(StoreError, match="damaged"):
            verify(tmp_path / "x.parquet")


# What is refused


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "part-00000.parquet", "manifest.txt", ".hidden", "rejected.jsonl"])
def test_a_foreign_folder_is_refused_and_left_alone(tmp_path, name, overwrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with (
        pytest.raises(StoreError, match="no embedding set") as caught,
        open_store(tmp_path / "out", MANIFEST, overwrite=overwrite),
    ):
        pass
    assert name in str(caught.value)
    assert snapshot(tmp_path) == {f"out/{name}": b"mine"}


def test_a_folder_with_a_foreign_manifest_is_refused_and_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text('{"name": "web app"}')
    with (
        pytest.raises(StoreError, match="not written by embedsvc"),
        open_store(tmp_path / "out", MANIFEST, overwrite=True),
    ):
        pass
    assert list(snapshot(tmp_path)) == ["out/manifest.json"]


@pytest.mark.parametrize("target", ["out.parquet", "out.csv"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path, target, overwrite):
    pq.write_table(pa.table({"x": [1]}), tmp_path / target)
    before = snapshot(tmp_path)
    with (
        pytest.raises(StoreError, match="embedsvc did not write"),
        open_store(tmp_path / target, MANIFEST, overwrite=overwrite, **options(target)),
    ):
        pass
    assert snapshot(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 1


def test_an_empty_folder_is_as_good_as_none(tmp_path):
    (tmp_path / "out").mkdir()
    assert write(tmp_path / "out", blocks(10)).complete


def test_a_file_where_a_folder_should_be_and_the_reverse_are_errors(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.parquet").mkdir()
    for target, problem in {
        "file": "is a file, expected a folder",
        "folder.parquet": "is a folder, expected a file",
        "file/out": "cannot write .*file.out",
        "file/out.parquet": "cannot write .*file.out",
    }.items():
        with pytest.raises(StoreError, match=problem), open_store(tmp_path / target, MANIFEST):
            pass
    assert snapshot(tmp_path) == {"file": b"mine"}


@TARGETS
def test_a_set_that_another_process_writes_is_locked(tmp_path, target):
    script = """if True:
        import sys
        from embedsvc.formats import FORMATS
        from embedsvc.store import open_store
        from tests.sets import MANIFEST
        export = FORMATS["csv"] if sys.argv[1].endswith("csv") else None
        with open_store(sys.argv[1], MANIFEST, export=export):
            print("open", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", script, str(tmp_path / target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        with (
            pytest.raises(StoreError, match=r"another process is writing .*out.*\.lock"),
            open_store(tmp_path / target, MANIFEST, **options(target)),
        ):
            pass
        process.stdin.close()
        process.wait()
    assert write(tmp_path / target, blocks(10), **options(target)).complete
    assert not [name for name in snapshot(tmp_path) if "lock" in name]


def test_blocks_that_do_not_fit_the_manifest_are_refused(tmp_path):
    name = "pre_dropout.inference"
    good = block(0)
    wrong = {
        "holds pre_dropout.inference, not": replace(good, vectors={name: good.vectors[name]}),
        "expected float32": replace(good, vectors=good.vectors | {name: good.vectors[name].astype(np.float64)}),
        r"of shape \(4, 3\)": replace(good, vectors=good.vectors | {name: good.vectors[name][:, :3]}),
        "from 2 on": replace(good, offset=2),
        "holds 5 rows": block(0, [*good.texts, Text("x", "x")]),
    }
    with open_store(tmp_path / "out", MANIFEST) as store:
        for problem, bad in wrong.items():
            with pytest.raises(StoreError, match=problem):
                store.write(bad)
        store.write(good)
        with pytest.raises(StoreError, match="written already"):
            store.write(good)


def test_a_part_of_another_process_is_taken_if_it_is_the_one_that_was_written(tmp_path):
    with open_store(tmp_path / "out", MANIFEST) as store:
        done = write_part(store.folder, block(0), MANIFEST)
        write_part(store.folder, block(0), OTHER)
        with pytest.raises(StoreError, match=r"part-00000\.parquet is not the part that was written"):
            store.record(0, done)
        assert not store.done
        store.record(0, write_part(store.folder, block(0), MANIFEST))
        assert (store.done, store.rows) == ({0}, 4)


def test_finishing_with_missing_rows_is_an_error(tmp_path):
    with open_store(tmp_path / "out", MANIFEST) as store:
        store.write(block(1))
        with pytest.raises(StoreError, match="holds 4 rows, expected 8; block 0 is missing"):
            store.finish(rows=8)
        store.write(block(0, block(0).texts[:3]))
        with pytest.raises(StoreError, match="block 0 is missing or short"):
            store.finish(rows=7)
        assert not store.complete


def test_finishing_without_the_last_block_is_an_error(tmp_path):
    """Nothing but the count tells that it is missing."""
    with open_store(tmp_path / "out", MANIFEST) as store:
        store.write(block(0))
        with pytest.raises(StoreError, match="holds 4 rows, expected 8$"):
            store.finish(rows=8)
        assert not store.complete


@pytest.mark.parametrize("field", ["id", "text", "label"])
def test_a_lone_surrogate_is_an_error_that_names_the_row(tmp_path, field):
    rows = list(block(0).texts)
    rows[2] = replace(rows[2], **{field: "caf\udce9"})
    with open_store(tmp_path / "out", MANIFEST) as store, pytest.raises(StoreError, match=f"row 2 .*the {field} holds"):
        store.write(block(0, rows))


def test_strings_beyond_two_gigabytes_are_cut_into_chunks(tmp_path, monkeypatch):
    write(tmp_path / "a", blocks(10))
    monkeypatch.setattr(arrow, "_STRING_BYTES", 30)
    write(tmp_path / "b", blocks(10))
    assert verify(tmp_path / "a").parts == verify(tmp_path / "b").parts


# Trouble with the disk


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "Allow writing"),
        (errno.EIO, "Check"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
@TARGETS
def test_a_failing_disk_is_an_error_with_path_and_hint_and_the_run_goes_on_later(
    tmp_path, monkeypatch, target, call, code, hint
):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    with open_store(tmp_path / "a" / target, MANIFEST, **options(target)) as store:
        store.write(block(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(StoreError, match=r"cannot write .*part-00001\.parquet") as caught:
                store.write(block(1))
            assert hint in caught.value.hint
            with pytest.raises(StoreError, match="cannot write"):
                store.finish(rows=4, rejected=REJECTED)
            assert not store.complete
        assert not [name for name in snapshot(tmp_path) if name.endswith(".tmp")]
    write(tmp_path / "a" / target, blocks(10), rejected=REJECTED, **options(target))
    write(tmp_path / "b" / target, blocks(10), rejected=REJECTED, **options(target))
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def crash(how: str, target: str, folder: Path) -> str:
    """Output of `tests.crashes`, which says how it works."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.crashes", how, target, folder], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@TARGETS
def test_a_file_that_may_not_grow_is_an_error_and_the_run_goes_on_later(tmp_path, target):
    assert "part-00000.parquet: File too large" in crash("full", target, tmp_path)


@pytest.mark.parametrize(
    "target",
    [pytest.param("out", marks=pytest.mark.slow), "out.parquet", pytest.param("out.csv", marks=pytest.mark.slow)],
)
def test_runs_killed_at_any_moment_end_in_the_same_bytes(tmp_path, target):
    assert "survived 10" in crash("random", target, tmp_path)


@pytest.mark.slow
@TARGETS
def test_runs_killed_before_each_change_to_the_disk_end_in_the_same_bytes(tmp_path, target):
    assert int(crash("steps", target, tmp_path).split()[-1]) > 25


def test_an_interrupted_file_leaves_nothing_behind(tmp_path):
    (tmp_path / "x").write_text("old")

    def interrupted():
        with atomic_file(tmp_path / "x") as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert snapshot(tmp_path) == {"x": b"old"}
