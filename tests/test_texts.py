"""Readers: what passes unchanged, what is refused, and how it is said."""

from __future__ import annotations

import csv
import dataclasses
import errno
import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedsvc.errors import DuplicateIdError, EmbedsvcError, InputError, SettingsError
from embedsvc.texts import READERS, OnError, Reader, ReadOptions, Rows, read, scan
from embedsvc.types import Text

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
MIXED = [
    "plain words",
    "crème brûlée",
    "👩‍🍳 cooks 🍜",
    "שלום עולם",
    "e\u0301 is not \u00e9",
    "a\u2028b\x0bc\x85d",
    'she said "hi", twice',
]


def write(path: Path, content: str | bytes) -> str:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return str(path)


def write_rows(path: Path, rows: list[dict[str, object]]) -> str:
    """Rows in the format that the suffix names, gzipped if it ends in .gz."""
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix == ".txt":
        return write(path, "".join(f"{row['text']}\n" for row in rows))
    if suffix == ".jsonl":
        return write(path, "".join(json.dumps(row, ensure_ascii=len(rows) % 2 == 0) + "\n" for row in rows))
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        return write(path, buffer.getvalue())
    out = io.StringIO(newline="")
    table = csv.DictWriter(out, list(rows[0]), delimiter="," if suffix == ".csv" else "\t")
    table.writeheader()
    table.writerows(rows)
    return write(path, out.getvalue())


def texts_of(*sources: str, **options) -> list[str]:
    return [text.text for text in all_of(*sources, **options)]


def all_of(*sources: str, **options) -> list[Text]:
    return list(read(scan(sources, ReadOptions(**options))))


def problem_of(*sources: str, error: type[EmbedsvcError] = InputError, **options) -> str:
    with pytest.raises(error) as caught:
        scan(sources, ReadOptions(**options))
    return caught.value.problem


def rejected_of(source: str, **options) -> list[tuple[int, str]]:
    found = scan([source], ReadOptions(on_error="skip", **options))
    assert len(list(read(found))) == found.rows
    return [(row.row, row.reason) for row in found.rejected]


# What passes


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_format_gives_the_texts_unchanged_with_file_and_row_as_ids(tmp_path, suffix, gz):
    name = write_rows(tmp_path / f"x{suffix}{gz}", [{"text": text} for text in MIXED])
    assert all_of(name) == [Text(f"{name}:{row}", text) for row, text in enumerate(MIXED, 1)]


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_columns_give_ids_and_labels(tmp_path, suffix):
    rows = [{"key": "a", "body": "one", "tone": "good"}, {"key": "b", "body": "two", "tone": "bad"}]
    name = write_rows(tmp_path / f"x{suffix}", rows)
    options = {"text_column": "body", "id_column": "key", "label_column": "tone"}
    assert all_of(name, **options) == [Text("a", "one", "good"), Text("b", "two", "bad")]


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_label_column_is_taken_without_being_asked_for(tmp_path, suffix):
    name = write_rows(tmp_path / f"x{suffix}", [{"text": "one", "label": "good"}])
    assert [text.label for text in all_of(name)] == ["good"]


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_one_column_may_be_text_and_id_and_label(tmp_path, suffix):
    name = write_rows(tmp_path / f"x{suffix}", [{"label": "one", "n": "1"}])
    options = {"text_column": "label", "id_column": "label", "label_column": "label"}
    assert all_of(name, **options) == [Text("one", "one", "one")]
    assert all_of(name, text_column="label")[0].label is None


def test_numbers_and_booleans_become_strings_and_null_is_no_label(tmp_path):
    rows = [{"text": "t", "id": i, "label": label} for i, label in enumerate([3, 0.5, True, False, None, "", "x"])]
    expected = ["3", "0.5", "true", "false", None, None, "x"]
    name = write_rows(tmp_path / "x.jsonl", rows)
    assert [(t.id, t.label) for t in all_of(name, id_column="id")] == [(str(i), e) for i, e in enumerate(expected)]
    for column, values in {"i": [1, None], "f": [0.5, None], "b": [True, None], "s": ["", None]}.items():
        parquet = write_rows(tmp_path / f"{column}.parquet", [{"text": "t", "label": value} for value in values])
        assert all_of(parquet)[0].label == {"i": "1", "f": "0.5", "b": "true", "s": None}[column]
        assert all_of(parquet)[1].label is None


def test_an_empty_csv_label_is_none(tmp_path):
    assert [t.label for t in all_of(write(tmp_path / "x.csv", "text,label\na,\nb,good\n"))] == [None, "good"]


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_windows_files_read_as_unix_files_do(tmp_path, suffix):
    unix = Path(write_rows(tmp_path / f"unix{suffix}", [{"text": "ein Text"}, {"text": "noch einer"}])).read_bytes()
    lines = unix.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    windows = write(tmp_path / f"windows{suffix}", b"\xef\xbb\xbf" + lines)
    assert texts_of(windows) == ["ein Text", "noch einer"]


def test_a_byte_order_mark_is_dropped_at_the_start_of_the_file_only(tmp_path):
    assert texts_of(write(tmp_path / "x.txt", "\ufeffone\n\ufefftwo\n")) == ["one", "\ufefftwo"]


def test_the_last_line_needs_no_line_end(tmp_path):
    assert texts_of(write(tmp_path / "x.txt", "one\ntwo")) == ["one", "two"]


def test_csv_texts_keep_their_line_ends_and_rows_count_records(tmp_path):
    name = write(tmp_path / "x.csv", 'text\n"one\r\ntwo\nthree"\n\n  four\n')
    assert all_of(name) == [Text(f"{name}:1", "one\r\ntwo\nthree"), Text(f"{name}:2", "  four")]


def test_tsv_keeps_commas_and_reads_quoted_tabs(tmp_path):
    assert texts_of(write(tmp_path / "x.tsv", 'text\tn\na, b\t1\n"c\td"\t2\n')) == ["a, b", "c\td"]


def test_blank_lines_between_json_lines_are_passed_over_and_count_as_lines(tmp_path):
    name = write(tmp_path / "x.jsonl", '{"text": "a"}\n\n{"text": "b"}\n \n')
    assert [text.id for text in all_of(name)] == [f"{name}:1", f"{name}:3"]


def test_whole_files_are_one_text_each_to_the_last_line_end(tmp_path):
    one, two = write(tmp_path / "1.txt", "\ufeffone\r\n\ntwo\n"), write(tmp_path / "2.txt.gz", "three")
    assert all_of(str(tmp_path), whole_files=True) == [Text(one, "one\r\n\ntwo\n"), Text(two, "three")]


def test_lines_are_whole_wherever_the_pieces_read_from_disk_end(tmp_path, monkeypatch):
    texts = [f"{'é' * (i % 7)}{i}" for i in range(200)]
    for piece in (1, 2, 3, 5, 64):
        monkeypatch.setattr("embedsvc.texts.lines._CHUNK", piece)
        name = write(tmp_path / "x.txt", ("\ufeff" + "\r\n".join(texts)).encode().replace(b"55\r\n", b"\xff\r\n"))
        left = [Text(f"{name}:{row}", text) for row, text in enumerate(texts, 1) if not text.endswith("55")]
        assert all_of(name, on_error="skip") == left


def test_dictionary_encoded_and_large_strings_are_read_from_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {"text": pa.array(["a", "b", "a"], pa.large_string()), "label": pa.array(["x", "y", "x"]).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    assert [(t.text, t.label) for t in all_of(str(tmp_path / "x.parquet"))] == [("a", "x"), ("b", "y"), ("a", "x")]


def test_parquet_rows_are_numbered_through_batches_and_row_groups(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = str(tmp_path / "x.parquet")
    pq.write_table(pa.table({"text": [str(i) for i in range(20_000)]}), name, row_group_size=7_000)
    assert [text.id for text in all_of(name)] == [f"{name}:{i}" for i in range(1, 20_001)]


# Sources


def test_a_folder_gives_its_known_files_in_order_and_nothing_else(tmp_path):
    write(tmp_path / "b.txt", "b\n")
    write(tmp_path / "a.jsonl.gz", '{"text": "a"}\n')
    write(tmp_path / "notes.md", "no\n")
    write(tmp_path / ".hidden.txt", "no\n")
    (tmp_path / "deeper").mkdir()
    write(tmp_path / "deeper" / "c.txt", "no\n")
    assert texts_of(str(tmp_path)) == ["a", "b"]


def test_a_folder_without_a_known_file_is_an_error(tmp_path):
    write(tmp_path / "notes.md", "no\n")
    assert problem_of(str(tmp_path)).startswith(f"{tmp_path}: no file in this folder ends in .csv, ")


def test_globs_are_sorted_and_two_stars_go_into_folders(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    for name in ("2.txt", "1.txt", "x/3.txt", "x/y/4.txt", "x/5.md"):
        write(tmp_path / name, f"{name}\n")
    assert texts_of(f"{tmp_path}/*.txt") == ["1.txt", "2.txt"]
    assert texts_of(f"{tmp_path}/**") == ["1.txt", "2.txt", "x/3.txt", "x/y/4.txt"]
    known = ".csv, .jsonl, .parquet, .tsv, .txt or one of these with .gz"
    assert problem_of(f"{tmp_path}/x/*.md") == f"{tmp_path}/x/*.md: no file that ends in {known} matches"


def test_a_file_whose_name_looks_like_a_glob_is_itself(tmp_path):
    assert texts_of(write(tmp_path / "a[1].txt", "one\n")) == ["one"]


def test_ids_begin_with_the_path_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.txt", "one\n")
    assert [all_of(name)[0].id for name in ("x.txt", "./x.txt", "*.txt", ".")] == [
        "x.txt:1",
        "./x.txt:1",
        "x.txt:1",
        "./x.txt:1",
    ]


def test_sources_keep_the_order_in_which_they_are_given(tmp_path):
    b, a = write(tmp_path / "b.txt", "b\n"), write(tmp_path / "a.txt", "a\n")
    assert texts_of(b, a) == ["b", "a"]


def test_a_path_alone_is_a_list_of_one(tmp_path):
    name = write(tmp_path / "x.txt", "one\n")
    assert [t.text for s in (name, Path(name)) for t in read(scan(s))] == ["one", "one"]


@pytest.mark.parametrize("again", ["{0}/x.txt", "{0}/./x.txt", "{0}/*.txt", "{0}", "{0}/link.txt"])
def test_the_same_file_given_twice_is_an_error_that_names_both(tmp_path, again):
    name = write(tmp_path / "x.txt", "one\n")
    if "link" in again:
        (tmp_path / "link.txt").symlink_to(name)
    assert f"given twice, the first time as {name}" in problem_of(name, again.format(tmp_path))


def test_missing_files_and_unknown_suffixes_are_errors(tmp_path):
    assert problem_of("nowhere.txt") == "nowhere.txt: no such file or folder"
    assert problem_of("nowhere*.txt").startswith("nowhere*.txt: no file that ends in")
    assert problem_of("a\0b.txt") == "a\0b.txt: embedded null byte"
    with pytest.raises(
        InputError, match=r"x\.json: there is no reader for files that end in '\.json'\nDid you mean '\.jsonl'"
    ):
        scan([write(tmp_path / "x.json", "[]")])
    assert "files without a suffix" in problem_of(write(tmp_path / "x", "a\n"))
    assert problem_of() == "no source is given"


def test_a_pipe_is_refused_with_the_way_to_read_it(tmp_path):
    os.mkfifo(tmp_path / "x.txt")
    with pytest.raises(InputError, match="not a regular file\nPipe it in, and read it with -"):
        scan([tmp_path / "x.txt"])


def test_an_unreadable_file_is_an_error_with_the_reason_of_the_system(tmp_path, monkeypatch):
    name = write(tmp_path / "x.txt", "one\n")

    def fail(*_args, **_keywords):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("embedsvc.texts.sources.Path.open", fail)
    assert problem_of(name) == f"{name}: cannot be read: Input/output error"


def test_a_disk_that_fails_under_parquet_is_not_blamed_on_the_file(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    name = write_rows(tmp_path / "x.parquet", [{"text": "one"}])

    def fail(*_args, **_keywords):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pq, "ParquetFile", fail)
    assert problem_of(name) == f"{name}: cannot be read: Input/output error"


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path):
    try:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt"))).write_text("one\n")
    except OSError:
        pytest.skip("this file system only takes UTF-8 names; run on ext4, xfs or tmpfs")
    assert "the file name is not UTF-8" in problem_of(str(tmp_path))


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv.gz", ".parquet"])
def test_standard_input_is_kept_in_the_spool_folder_and_read_as_asked(tmp_path, suffix):
    raw = Path(write_rows(tmp_path / f"x{suffix}", [{"text": "one"}, {"text": "two"}])).read_bytes()
    found = scan(["-"], ReadOptions(stdin_suffix=suffix), spool=tmp_path / "spool", stdin=io.BytesIO(raw))
    assert list(read(found)) == [Text("stdin:1", "one"), Text("stdin:2", "two")]
    assert (tmp_path / "spool" / f"stdin{suffix}").read_bytes() == raw


def test_standard_input_needs_a_spool_folder_and_a_known_suffix(tmp_path):
    with pytest.raises(SettingsError, match="needs a folder"):
        scan(["-"])
    with pytest.raises(SettingsError, match=r"stdin_suffix is '\.doc'"):
        scan(["-"], ReadOptions(stdin_suffix=".doc"), spool=tmp_path, stdin=io.BytesIO(b"a"))


def test_standard_input_and_a_file_named_stdin_cannot_share_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(READERS._entries, "", READERS[".txt"])
    write(tmp_path / "stdin", "one\n")
    with pytest.raises(InputError, match="stdin: given twice"):
        scan(["stdin", "-"], spool=tmp_path / "spool", stdin=io.BytesIO(b"one\n"))


def test_a_reader_can_be_added(tmp_path, monkeypatch):
    def shout(stream, name, options):
        yield Rows((1,), (stream.read().decode().upper(),))

    monkeypatch.setitem(READERS._entries, ".shout", Reader(shout))
    assert texts_of(write(tmp_path / "x.shout.gz", "hello")) == ["HELLO"]


# What a scan says


def test_a_scan_counts_rows_and_hashes_the_raw_bytes(tmp_path):
    import hashlib

    names = [
        write_rows(tmp_path / f"x{s}", [{"text": t} for t in MIXED])
        for s in (".txt", ".csv.gz", ".parquet", ".parquet.gz")
    ]
    found = scan(names)
    raw = [Path(name).read_bytes() for name in names]
    assert [source.sha256 for source in found.sources] == [hashlib.sha256(content).hexdigest() for content in raw]
    assert found.n_bytes == sum(map(len, raw))
    assert found.rows == 4 * len(MIXED) == len(list(read(found)))
    assert json.loads(json.dumps(dataclasses.asdict(found.sources[0])))["rows"] == len(MIXED)


def test_skipped_rows_are_listed_and_counted_and_the_rest_keep_their_ids(tmp_path):
    name = write(tmp_path / "x.txt", "one\n\n \t\ntwo\n")
    found = scan([name], ReadOptions(on_error=OnError.SKIP))
    assert [(r.source, r.row, r.reason) for r in found.rejected] == [
        (name, 2, "the text is empty"),
        (name, 3, "the text is blank"),
    ]
    assert (found.sources[0].rows, found.sources[0].rejected, found.rows) == (2, 2, 2)
    assert list(read(found)) == [Text(f"{name}:1", "one"), Text(f"{name}:4", "two")]


def test_the_first_bad_row_fails_the_scan_and_the_hint_says_how_to_go_on(tmp_path):
    name = write(tmp_path / "x.txt", "one\n\ntwo\n")
    with pytest.raises(InputError) as caught:
        scan([name])
    assert caught.value.problem == f"{name}:2: the text is empty"
    assert "--on-error skip" in caught.value.hint
    assert "rejected.jsonl" in caught.value.hint


def test_sources_without_any_text_are_an_error(tmp_path):
    empty = [write(tmp_path / "0.txt", ""), write(tmp_path / "1.csv", "text\n"), write(tmp_path / "2.jsonl.gz", "")]
    assert problem_of(*empty) == f"no texts in {', '.join(empty)}"
    assert problem_of(write(tmp_path / "x.txt", " \n \n"), on_error="skip").endswith(
        "all 2 rows are bad, the first: the text is blank"
    )


def test_empty_lines_at_the_end_of_a_text_file_are_no_texts(tmp_path):
    assert texts_of(write(tmp_path / "x.txt", "one\ntwo\n\r\n\n")) == ["one", "two"]
    assert problem_of(write(tmp_path / "y.txt", "\n\n")).startswith("no texts in")
    # Also where they come in a block of their own, or are followed by more after all.
    many = "one\n" + "\n" * 600_000
    assert texts_of(write(tmp_path / "z.txt", many)) == ["one"]
    assert problem_of(write(tmp_path / "w.txt", many + "two\n")).endswith("w.txt:2: the text is empty")


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_csv_without_a_comma_in_its_header_is_read_by_semicolons_or_tabs(tmp_path, mark):
    rows = f'text{mark}label\n"a, b{mark} c"{mark}x\nd, e{mark}y\n'
    assert texts_of(write(tmp_path / "x.csv", rows)) == [f"a, b{mark} c", "d, e"]
    quoted = f'"text"{mark}"label"\n"a"{mark}"x"\n'
    assert texts_of(write(tmp_path / "y.csv", quoted)) == ["a"]
    assert texts_of(write(tmp_path / "z.csv", f"text,a{mark}b\nc{mark}d,1\n")) == [f"c{mark}d"], "a comma wins"


def test_another_encoding_is_named_as_what_may_be_wrong_before_rows_are_left_out(tmp_path):
    with pytest.raises(InputError) as caught:
        scan([write(tmp_path / "x.csv", "text\ncaf\u00e9\n".encode("latin-1"))])
    assert caught.value.hint.startswith("If the whole file is in another encoding, convert it: iconv")


def test_a_column_like_the_one_asked_for_is_proposed(tmp_path):
    name = write(tmp_path / "x.csv", "Review Text,Stars\na,1\n")
    with pytest.raises(InputError) as caught:
        scan([name], ReadOptions(text_column="review_text"))
    assert caught.value.hint == "Did you mean 'Review Text'? Name the right one with --text-column."


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_file_among_others_is_no_error_unless_it_is_parquet(tmp_path, suffix):
    full, empty = write(tmp_path / "full.txt", "one\n"), write(tmp_path / f"empty{suffix}", "")
    if suffix == ".parquet":
        assert problem_of(full, empty).startswith(f"{empty}: not a Parquet file, or a damaged one")
    else:
        assert texts_of(full, empty) == ["one"]


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".parquet"])
@pytest.mark.parametrize("new", ["longer", "tow"])
def test_a_file_that_changes_after_the_scan_is_an_error(tmp_path, suffix, new):
    path = tmp_path / f"x{suffix}"
    found = scan([write_rows(path, [{"text": "two"}])])
    write_rows(path, [{"text": new}])
    with pytest.raises(InputError, match="changed while it was being used"):
        list(read(found))


def test_a_file_that_grew_is_noticed_before_its_first_text(tmp_path):
    found = scan([write(tmp_path / "x.txt", "one\n")])
    write(tmp_path / "x.txt", "one\ntwo\n")
    with pytest.raises(InputError, match="changed while it was being used"):
        next(read(found))


def test_a_row_that_turns_bad_after_the_scan_ends_the_reading(tmp_path):
    found = scan([write(tmp_path / "x.txt", "one\ntwo\nthree\n")])
    write(tmp_path / "x.txt", "one\n   \nthree\n")
    texts = read(found)
    assert next(texts).text == "one"
    with pytest.raises(InputError, match="changed while it was being used"):
        next(texts)


def test_options_accept_plain_strings(tmp_path):
    assert ReadOptions(on_error="fail").on_error is OnError.FAIL
    assert problem_of(write(tmp_path / "x.txt", "one\n\ntwo"), on_error="fail").endswith(":2: the text is empty")


def test_options_out_of_range_are_refused():
    for wrong in ({"on_error": "ignore"}, {"max_text_bytes": 0}, {"text_column": ""}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            ReadOptions(**wrong)


# Ids


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_two_rows_with_one_id_are_an_error_that_names_both_places(tmp_path, suffix):
    a = write_rows(tmp_path / f"a{suffix}", [{"id": str(i), "text": "t"} for i in range(2000)])
    b = write_rows(tmp_path / f"b{suffix}", [{"id": str(i), "text": "t"} for i in (5000, 1234, 77)])
    with pytest.raises(DuplicateIdError) as caught:
        scan([a, b], ReadOptions(id_column="id", on_error="skip"))
    assert caught.value.problem == f"{b}:2: the id '1234' is taken already, by {a}:1235"


def test_ids_whose_hashes_meet_are_no_duplicates(tmp_path, monkeypatch):
    monkeypatch.setattr("embedsvc.texts.scan.hash", lambda _: 7, raising=False)
    name = write_rows(tmp_path / "x.csv", [{"id": str(i), "text": "t"} for i in range(50)])
    assert [text.id for text in all_of(name, id_column="id")] == [str(i) for i in range(50)]


def test_the_id_of_a_rejected_row_is_free(tmp_path):
    name = write(tmp_path / "x.csv", "id,text\na,\na,good\n")
    assert all_of(name, id_column="id", on_error="skip") == [Text("a", "good")]


def test_a_missing_id_is_a_bad_row(tmp_path):
    assert rejected_of(write(tmp_path / "x.csv", "id,text\n,a\n ,b\nx,c\n"), id_column="id") == [
        (1, "the id is missing (line 2 of the file)"),
        (2, "the id is blank (line 3 of the file)"),
    ]
    objects = [{"id": None, "text": "a"}, {"text": "b"}, {"id": "", "text": "c"}, {"id": [1], "text": "c"}]
    assert rejected_of(write_rows(tmp_path / "x.jsonl", [*objects, {"id": 0, "text": "d"}]), id_column="id") == [
        (1, "the id is missing"),
        (2, "there is no field 'id'; it has: 'text'"),
        (3, "the id is missing"),
        (4, "the field 'id' is a list, expected a string, number or boolean"),
    ]
    parquet = write_rows(tmp_path / "x.parquet", [{"id": None, "text": "a"}, {"id": "x", "text": "b"}])
    assert rejected_of(parquet, id_column="id") == [(1, "the id is missing")]


# Columns


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
@pytest.mark.parametrize("on_error", OnError)
def test_a_missing_column_is_an_error_that_lists_those_there_are(tmp_path, suffix, on_error):
    name = write_rows(tmp_path / f"x{suffix}", [{"body": "one", "n": "1"}])
    if suffix == ".jsonl" and on_error is OnError.FAIL:
        assert problem_of(name) == f"{name}:1: there is no field 'text'; it has: 'body', 'n'"
    else:
        assert problem_of(name, on_error=on_error) == f"{name}: there is no column 'text'; it has: 'body', 'n'"
    for flag in ("id", "label"):
        with pytest.raises(InputError) as caught:
            scan([name], ReadOptions(text_column="body", on_error="skip", **{f"{flag}_column": "key"}))
        assert caught.value.problem == f"{name}: there is no column 'key'; it has: 'body', 'n'"
        assert f"--{flag}-column" in caught.value.hint


def test_a_json_row_may_lack_the_label_but_not_the_text(tmp_path):
    name = write(tmp_path / "x.jsonl", '{"text": "a", "tone": "x"}\n{"text": "b"}\n{"body": "c"}\n')
    assert [t.label for t in all_of(name, label_column="tone", on_error="skip")] == ["x", None]
    assert rejected_of(name) == [(3, "there is no field 'text'; it has: 'body'")]


def test_txt_files_have_no_columns_and_others_are_no_whole_files(tmp_path):
    txt, table = write(tmp_path / "x.txt", "a\n"), write(tmp_path / "x.csv", "text\na\n")
    for column in ("text_column", "id_column", "label_column"):
        assert (
            problem_of(txt, **{column: "c"}) == f"{txt}: there is no column 'c', lines of a .txt file have no columns"
        )
    assert problem_of(table, whole_files=True) == f"{table}: only .txt files can be read as whole files"


def test_two_columns_of_one_name_are_an_error_unless_they_have_none(tmp_path):
    assert "more than one column is named 'n'" in problem_of(write(tmp_path / "x.csv", "n,text,n\n1,a,2\n"))
    assert texts_of(write(tmp_path / "y.csv", "text,,\na,,\n")) == ["a"]


def test_parquet_columns_of_other_types_are_errors(tmp_path):
    name = write_rows(tmp_path / "x.parquet", [{"text": 1, "id": [1], "blob": b"x", "body": "b"}])
    assert problem_of(name) == f"{name}: the column 'text' has type int64, expected strings"
    for column in ("id", "blob"):
        assert f"the column {column!r} has type" in problem_of(name, text_column="body", id_column=column)


# Bad rows


def test_bytes_that_are_not_utf8_are_named_with_their_position(tmp_path):
    bad = b"caf\xe9"
    assert rejected_of(write(tmp_path / "x.txt", b"good\n" + bad + b"\ngood\n")) == [
        (2, "byte 0xe9 at position 4 of the line is not UTF-8")
    ]
    assert rejected_of(write(tmp_path / "x.jsonl", b'{"text": "a"}\n{"text": "' + bad + b'"}\n')) == [
        (2, "byte 0xe9 at position 14 of the line is not UTF-8")
    ]
    assert rejected_of(write(tmp_path / "x.csv", b"text,n\na,1\n" + bad + b',2\n"b\n' + bad + b'",3\nd,4\n')) == [
        (2, "byte 0xe9 at position 4 of the line is not UTF-8 (line 3 of the file)"),
        (3, "byte 0xe9 at position 4 of the line is not UTF-8 (line 5 of the file)"),
    ]
    whole = write(tmp_path / "w.txt", b"a\n" + bad)
    assert problem_of(whole, whole_files=True) == f"{whole}: byte 0xe9 at position 6 of the file is not UTF-8"


def test_parquet_strings_that_are_not_utf8_are_bad_rows(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = pa.array([b"good", b"caf\xe9", None, b"fine"])
    for type_, name in ((pa.string(), "x.parquet"), (pa.dictionary(pa.int32(), pa.string()), "y.parquet")):
        column = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
        pq.write_table(
            pa.table({"text": column.dictionary_encode() if type_ != pa.string() else column}), tmp_path / name
        )
        assert rejected_of(str(tmp_path / name)) == [
            (2, "byte 0xe9 at position 4 of the value is not UTF-8"),
            (3, "the column 'text' is null, expected a string"),
        ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_blank_texts_and_nul_characters_are_bad_rows(tmp_path, suffix):
    rows = [{"text": text, "n": "1"} for text in ("good", " \u3000", "a\0b")]
    # Records of a table are numbered by record; editors show lines.
    lines = [" (line 3 of the file)", " (line 4 of the file)"] if suffix in (".csv", ".tsv") else ["", ""]
    assert rejected_of(write_rows(tmp_path / f"x{suffix}", rows)) == [
        (2, f"the text is blank{lines[0]}"),
        (3, f"the text has a NUL character at position 2{lines[1]}"),
    ]


def test_csv_rows_with_more_or_fewer_fields_than_the_header_are_bad(tmp_path):
    name = write(tmp_path / "x.csv", 'text,n\n"a\nb",1\nc\nd,1,2\ne,3\n')
    assert rejected_of(name) == [
        (2, "the number of fields is 1, the header has 2 (line 4 of the file)"),
        (3, "the number of fields is 3, the header has 2 (line 5 of the file)"),
    ]


def test_csv_quotes_that_never_close_are_an_error_that_names_their_line(tmp_path):
    name = write(tmp_path / "x.csv", 'text,n\na,1\n"b,2\nc,3\n')
    assert problem_of(name, on_error="skip").startswith(f"{name}:2: quotes that open on line 3 do not close properly")


def test_csv_quotes_that_close_elsewhere_never_invent_a_row(tmp_path):
    name = write(tmp_path / "x.csv", 'text,n\na,1\n"b,2\nc,3\n"d",4\ne,5\n')
    assert problem_of(name, on_error="skip").startswith(f"{name}:2: quotes that open on line 3 do not close properly")


def test_csv_quotes_broken_within_a_line_are_a_bad_row(tmp_path):
    assert rejected_of(write(tmp_path / "x.csv", 'text,n\n"a"b,1\nc\rd,2\ne,3\n')) == [
        (1, "broken CSV: ',' expected after '\"' (line 2 of the file)"),
        (2, "broken CSV: a carriage return outside quotes (line 3 of the file)"),
    ]


@pytest.fixture
def field_limit():
    """Python's own limit; some library in this process may have lifted it."""
    before = csv.field_size_limit(131_072)
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("field_limit")
def test_a_csv_field_above_the_limit_of_the_csv_module_is_a_bad_row(tmp_path):
    big = "x" * (csv.field_size_limit() + 1)
    name = write(tmp_path / "x.csv", f'text,n\n{big},1\n"{big}",2\nc,3\n')
    reason = f"broken CSV: field larger than field limit ({csv.field_size_limit()})"
    assert rejected_of(name) == [(1, f"{reason} (line 2 of the file)"), (2, f"{reason} (line 3 of the file)")]


def test_a_csv_header_that_cannot_be_read_is_an_error(tmp_path):
    assert problem_of(write(tmp_path / "x.csv", b"t\xffxt\na\n")).endswith(
        "the header cannot be read: byte 0xff at position 2 of the line is not UTF-8 (line 1 of the file)"
    )
    assert "the header cannot be read: broken CSV" in problem_of(write(tmp_path / "y.csv", '"t"ext\na\n'))


def test_json_lines_that_are_no_objects_with_a_string_are_bad_rows(tmp_path):
    lines = [
        '{"text": "good"}',
        '{"text": "secret',
        "[1]",
        '"secret"',
        "7",
        "null",
        '{"text": 7}',
        '{"text": null}',
        '{"text": ["secret"]}',
        "9" * 5000,
        "[" * 100_000,
    ]
    found = rejected_of(write(tmp_path / "x.jsonl", "\n".join(lines)))
    assert found == [
        (2, "broken JSON at character 10: Unterminated string starting at"),
        (3, "the line is a list, expected an object in braces"),
        (4, "the line is a string, expected an object in braces"),
        (5, "the line is a number, expected an object in braces"),
        (6, "the line is null, expected an object in braces"),
        (7, "the field 'text' is a number, expected a string"),
        (8, "the field 'text' is null, expected a string"),
        (9, "the field 'text' is a list, expected a string"),
        (10, "broken JSON: a number too long or brackets nested too deep"),
        (11, "broken JSON: a number too long or brackets nested too deep"),
    ]


def test_half_a_surrogate_pair_is_a_bad_row_and_a_whole_one_is_a_character(tmp_path):
    lines = ['{"text": "ab\\ud800"}', '{"text": "\\ud83d\\ude00"}', '{"text": "a", "label": "\\udfff"}']
    name = write(tmp_path / "x.jsonl", "\n".join(lines))
    assert rejected_of(name) == [
        (1, "the text has half a surrogate pair at position 3, which is not Unicode text"),
        (3, "the label has half a surrogate pair at position 1, which is not Unicode text"),
    ]
    assert texts_of(name, on_error="skip") == ["😀"]
    assert [row for row, _ in rejected_of(write(tmp_path / "y.jsonl", "\n".join(lines[1:])))] == [2]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("piece", [1, 3, 2**18])
def test_a_text_may_be_as_long_as_the_limit_in_bytes_and_no_longer(tmp_path, suffix, piece, end, monkeypatch):
    monkeypatch.setattr("embedsvc.texts.lines._CHUNK", piece)
    texts = ["é" * 20, "x" * 40, "é" * 20 + "x", "short", "x" * 41, "x" * 99]
    limit = 40
    path = tmp_path / f"x{suffix}"
    if suffix == ".parquet":
        write_rows(path, [{"text": text} for text in texts])
    elif suffix == ".jsonl":
        write(path, end.join(json.dumps({"text": text}, ensure_ascii=False) for text in texts))
        limit += len('{"text": ""}')  # a line has a limit, too
    else:
        write(path, end.join(texts if suffix == ".txt" else ["text", *texts]))
    rejected = rejected_of(str(path), max_text_bytes=limit)
    assert [row for row, _ in rejected] == [3, 5, 6]
    assert all(f"is longer than {limit} bytes" in reason for _, reason in rejected)


def test_a_whole_file_above_the_limit_is_a_bad_row(tmp_path):
    name = write(tmp_path / "x.txt", "\ufeff" + "x" * 11)
    assert texts_of(name, whole_files=True, max_text_bytes=11) == ["x" * 11]
    assert problem_of(name, whole_files=True, max_text_bytes=10) == f"{name}: the text is longer than 10 bytes"
    cut = write(tmp_path / "cut.txt", "x" + "é" * 20)  # wherever reading stops, it is in the middle of a character
    for limit in (9, 10, 11, 12):
        assert "is longer than" in problem_of(cut, whole_files=True, max_text_bytes=limit)


@pytest.mark.parametrize("suffix", [".txt.gz", ".jsonl.gz", ".csv.gz"])
def test_a_line_of_a_hundred_megabytes_never_comes_into_memory(tmp_path, suffix):
    first, last = {".txt.gz": ("a\n", "\nb\n"), ".csv.gz": ('text\na\n"', '"\nb\n')}.get(
        suffix, ('{"text": "a"}\n', '\n{"text": "b"}\n')
    )
    with gzip.open(tmp_path / f"x{suffix}", "wb", compresslevel=1) as file:
        file.write(first.encode())
        for _ in range(100):
            file.write(b"x" * 2**20)
        file.write(last.encode())
    tracemalloc.start()
    try:
        found = scan([tmp_path / f"x{suffix}"], ReadOptions(on_error="skip", max_text_bytes=2**20))
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    assert [row.row for row in found.rejected] == [2]
    assert "longer than 1048576 bytes" in found.rejected[0].reason
    assert [text.text for text in read(found)] == ["a", "b"]


def test_a_long_csv_line_with_open_quotes_leaves_the_parser_inside_them(tmp_path):
    name = write(tmp_path / "x.csv", f'text,n\na,1\n"{"x" * 99}\nstill the same field",2\nc,3\n')
    assert rejected_of(name, max_text_bytes=40) == [(2, "the line is longer than 40 bytes (line 3 of the file)")]
    assert texts_of(name, max_text_bytes=40, on_error="skip") == ["a", "c"]


def test_a_long_csv_line_that_opens_quotes_for_good_is_an_error(tmp_path):
    name = write(tmp_path / "x.csv", f'text,n\na,1\n"{"x" * 99}\nb,2\n')
    problem = problem_of(name, max_text_bytes=40, on_error="skip")
    assert problem.startswith(f"{name}:2: quotes that open on line 3 do not close properly: the line is longer than 40")


def test_reasons_never_quote_the_text(tmp_path):
    name = write(
        tmp_path / "x.csv",
        b'text,n\nsecret,1,2\nsecret\xff,1\n"secret"secret,1\nsecret\0,1\n' + b"secret" * 50_000 + b",1\nfine,2\n",
    )
    reasons = [reason for _, reason in rejected_of(name, max_text_bytes=200_000)]
    assert len(reasons) == 5
    assert not any("secret" in reason for reason in reasons)


# Damaged files


@pytest.mark.parametrize("on_error", OnError)
def test_torn_gzip_is_an_error_that_names_the_row_reached(tmp_path, on_error):
    lines = [f"line {i} {os.urandom(20).hex()}" for i in range(1, 5001)]
    for suffix, content in ((".txt", lines), (".jsonl", [json.dumps({"text": line}) for line in lines])):
        whole = gzip.compress("\n".join(content).encode())
        torn = tmp_path / f"x{suffix}.gz"
        torn.write_bytes(whole[: len(whole) // 2])
        row = zlib.decompressobj(wbits=31).decompress(torn.read_bytes()).count(b"\n")
        assert 2000 < row < 3000
        expected = f"{torn}:{row}: the gzip data is torn or damaged after this row"
        assert problem_of(str(torn), on_error=on_error) == expected


def test_the_row_reached_may_be_a_bad_one(tmp_path):
    writer = zlib.compressobj(wbits=31)
    (tmp_path / "x.txt.gz").write_bytes(writer.compress(b"a\n\xff\n") + writer.flush(zlib.Z_SYNC_FLUSH))
    assert problem_of(str(tmp_path / "x.txt.gz"), on_error="skip").startswith(
        f"{tmp_path}/x.txt.gz:2: the gzip data is"
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_gzip_is_an_error_that_does_not_quote_it(tmp_path, suffix):
    path = tmp_path / f"x{suffix}.gz"
    path.write_bytes(b"secret")
    assert problem_of(str(path)) == f"{path}: the gzip data is torn or damaged"


def test_gzip_with_a_wrong_checksum_is_an_error(tmp_path):
    raw = bytearray(gzip.compress(b"one\ntwo\n"))
    raw[-6] ^= 1
    (tmp_path / "x.txt.gz").write_bytes(raw)
    assert "the gzip data is torn or damaged" in problem_of(str(tmp_path / "x.txt.gz"))


@pytest.mark.parametrize(
    ("raw", "what"), [(gzip.compress(b"a\n"), "gzip data"), ("a\n".encode("utf-16"), "UTF-16")], ids=["gzip", "UTF-16"]
)
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_files_of_another_kind_are_recognised(tmp_path, raw, what, suffix):
    assert f"this is {what}, expected UTF-8 text" in problem_of(write(tmp_path / f"x{suffix}", raw), on_error="skip")


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_torn_and_foreign_parquet_is_an_error(tmp_path, gz):
    raw = Path(write_rows(tmp_path / "whole.parquet", [{"text": str(i)} for i in range(5000)])).read_bytes()
    damaged = bytearray(raw)
    damaged[100:2000] = os.urandom(1900)
    for content in (raw[: len(raw) // 2], raw[-2000:], b"text\n", bytes(damaged)):
        name = write(tmp_path / f"x.parquet{gz}", content)
        assert problem_of(name, on_error="skip").startswith(f"{name}: not a Parquet file, or a damaged one")


# Properties

line_texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\n\r")).filter(str.strip)
any_texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")).filter(str.strip)


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_texts_come_back_as_they_were_written(tmp_path, suffix, gz, data):
    texts = data.draw(st.lists(line_texts if suffix == ".txt" else any_texts, min_size=1, max_size=8))
    if suffix == ".txt" and texts[0].startswith("\ufeff"):
        texts[0] = "x" + texts[0]
    name = write_rows(tmp_path / f"x{suffix}{gz}", [{"text": text} for text in texts])
    assert texts_of(name) == texts


fragments = st.sampled_from(
    [
        b'"',
        b",",
        b"\n",
        b"\r\n",
        b"\t",
        b"text",
        b'{"text": "',
        b'"}',
        b"\\ud800",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"PAR1",
        b"[",
        b"1e999",
        b" ",
    ]
)
nonsense = st.one_of(st.binary(max_size=60), st.lists(fragments, max_size=20).map(b"".join))


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    raw=nonsense,
    gz=st.sampled_from(["", ".gz", ".torn"]),
    on_error=st.sampled_from(OnError),
    limit=st.sampled_from([5, 10_000]),
)
def test_nonsense_raises_embedsvc_errors_only_and_rows_come_out_as_counted(tmp_path, suffix, raw, gz, on_error, limit):
    path = tmp_path / f"x{suffix}{'.gz' if gz else ''}"
    path.write_bytes({"": raw, ".gz": gzip.compress(raw), ".torn": gzip.compress(raw)[: len(raw) + 5]}[gz])
    try:
        found = scan([path], ReadOptions(on_error=on_error, max_text_bytes=limit))
    except EmbedsvcError as error:
        problem = error.problem
    else:
        problem = str(path)
        assert len(list(read(found))) == found.rows > 0
    assert str(path) in problem


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=nonsense, rows=st.integers(0, 60), at=st.integers(0, 400))
def test_damaged_parquet_raises_embedsvc_errors_only(tmp_path, raw, rows, at):
    name = write_rows(tmp_path / "x.parquet", [{"text": f"text {i}", "n": i} for i in range(rows)] or [{"text": "a"}])
    whole = Path(name).read_bytes()
    Path(name).write_bytes(whole[:at] + raw + whole[at + len(raw) :])
    problem = name
    try:
        list(read(scan([name], ReadOptions(on_error="skip"))))
    except EmbedsvcError as error:
        problem = error.problem
    assert name in problem


# Cost


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_the_rows(tmp_path, suffix):
    ids = suffix not in (".txt", ".parquet")
    peaks = []
    for rows in (4_000, 24_000):
        name = write_rows(tmp_path / f"{rows}{suffix}", [{"id": i, "text": f"short text {i}" * 9} for i in range(rows)])
        tracemalloc.start()
        try:
            for _ in read(scan([name], ReadOptions(id_column="id" if ids else None))):
                pass
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    # With an id column: a hash of 8 bytes a row, in a buffer that doubles, and what comparing them takes.
    growth_per_row = (peaks[1] - peaks[0]) / 20_000
    assert growth_per_row < (40 if ids else 8), f"{growth_per_row} bytes a row, the texts take over 100"


def test_importing_the_readers_loads_nothing_heavy():
    code = "import sys, embedsvc.texts; print({'pyarrow', 'pandas', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# The examples


def test_the_example_texts_are_many_varied_and_unique():
    name = Path(__file__).parents[1] / "examples" / "texts.csv"
    texts = list(read(scan([name], ReadOptions(id_column="id"))))
    topics = {text.label for text in read(scan([name], ReadOptions(label_column="topic")))}
    assert len(texts) == len({text.text for text in texts}) >= 320
    assert {text.label for text in texts} == {"positive", "negative", "neutral"}
    assert len(topics) == 10
    words = sorted(len(text.text.split()) for text in texts)
    assert words[1] <= 3
    assert words[-2] > 256
    assert f"{len(texts)} short texts" in name.with_name("README.md").read_text()
