"""``embedsvc extract`` as a user types it."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

from embedsvc import EmbeddingSet


def run(*arguments, cwd, stdin=""):
    command = [sys.executable, "-m", "embedsvc", *map(str, arguments)]
    return subprocess.run(command, check=False, cwd=cwd, input=stdin.encode(), capture_output=True, timeout=120)


def extracted(*arguments, cwd, stdin=""):
    done = run("extract", *arguments, "--model", "fake:", cwd=cwd, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return done


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("first text\nsecond text\n")
    (tmp_path / "b.jsonl").write_text('{"body": "third", "key": "x"}\n{"body": "fourth", "key": "y"}\n')
    return tmp_path


def test_the_plain_command_says_what_was_done_and_what_to_try_next(folder):
    done = extracted("a.txt", "-o", "out.parquet", cwd=folder)
    out = done.stdout.decode()
    for word in ("texts", "tokens", "truncated", "texts/s", "post_dropout.head.0", "out.parquet", "Try next"):
        assert word in out
    assert "2 of 2 texts" in done.stderr.decode()
    assert EmbeddingSet.read(folder / "out.parquet").ids == ("a.txt:1", "a.txt:2")


def test_a_report_is_what_to_try_next_where_there_are_texts_enough(folder):
    (folder / "many.txt").write_text("".join(f"text number {at}\n" for at in range(60)))
    out = extracted("many.txt", "-o", "out.parquet", cwd=folder).stdout.decode()
    assert "report out.parquet -o report.html" in out.split("Try next:\n")[1].splitlines()[0]


def test_what_it_says_to_try_next_works(folder):
    out = extracted("a.txt", "-o", "out.parquet", cwd=folder).stdout.decode()
    commands, python = out.split("Try next:\n")[1].split("\n\nOr in Python:\n")
    words = commands.replace("embedsvc show", f"{sys.executable} -m embedsvc show", 1)
    done = subprocess.run(words, shell=True, cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout
    *first, last = [line.strip() for line in python.splitlines()]
    code = "\n".join([*first, f"print({last}.shape)"])
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "(2, 16)\n"


def test_columns_of_jsonl_and_modes_and_passes(folder):
    arguments = "*.jsonl --text-column body --id-column key -o out/ --modes inference,training,head --passes 8 --seed 7"
    extracted(*arguments.split(), cwd=folder)
    embeddings = EmbeddingSet.read(folder / "out")
    assert embeddings.ids == ("x", "y")
    assert {"post_dropout.training.7", "post_dropout.head.7"} <= set(embeddings.variants)
    assert embeddings.manifest.seed == 7


def test_standard_input_gives_ids_of_its_own(folder):
    extracted("-", "-o", "x.parquet", cwd=folder, stdin="one\ntwo\nthree\n")
    assert EmbeddingSet.read(folder / "x.parquet").ids == ("stdin:1", "stdin:2", "stdin:3")


def test_standard_input_resumes_when_it_is_the_same_and_is_refused_when_not(folder):
    extracted("-", "-o", "x.parquet", cwd=folder, stdin="one\ntwo\n")
    assert b"nothing new" in extracted("-", "-o", "x.parquet", cwd=folder, stdin="one\ntwo\n").stdout
    done = run("extract", "-", "-o", "x.parquet", "--model", "fake:", cwd=folder, stdin="one\nTWO\n")
    assert done.returncode == 1
    assert b"stdin" in done.stderr


def test_json_is_all_there_is_on_stdout(folder):
    facts = json.loads(extracted("a.txt", "-o", "o.parquet", "--json", cwd=folder).stdout)
    assert facts["texts"] == 2
    assert facts["truncated"] == 0
    assert "post_dropout.inference" in facts["variants"]


def test_skipped_rows_are_counted_and_listed(folder):
    (folder / "bad.txt").write_bytes(b"good\n\xff\xfe\n\nalso good\n")
    failed = run("extract", "bad.txt", "-o", "out", "--model", "fake:", cwd=folder)
    assert failed.returncode == 1
    assert b"bad.txt:2" in failed.stderr
    assert b"--on-error skip" in failed.stderr
    assert not (folder / "out").exists()
    out = extracted("bad.txt", "-o", "out", "--on-error", "skip", cwd=folder).stdout.decode()
    listed = [json.loads(line) for line in (folder / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(row["source"], row["row"]) for row in listed] == [("bad.txt", 2), ("bad.txt", 3)]
    assert "2, listed in out/rejected.jsonl" in out


@pytest.mark.parametrize("name", ["o.parquet", "o.npz", "o.csv"])
def test_skipped_rows_of_a_single_file_are_listed_beside_it(folder, name):
    (folder / "bad.txt").write_bytes(b"good\n \n")
    out = extracted("bad.txt", "-o", name, "--on-error", "skip", cwd=folder).stdout.decode()
    assert "1, listed in o.rejected.jsonl" in out
    assert len((folder / "o.rejected.jsonl").read_text().splitlines()) == 1


def test_truncated_rows_are_counted_flagged_or_refused(folder):
    (folder / "long.txt").write_text("short\n" + "word " * 100 + "\n")
    out = extracted("long.txt", "-o", "o.parquet", cwd=folder).stdout.decode()
    assert "truncated  1" in out
    assert EmbeddingSet.read(folder / "o.parquet").truncated.tolist() == [False, True]
    refused = run("extract", "long.txt", "-o", "p.parquet", "--model", "fake:", "--on-long", "fail", cwd=folder)
    assert refused.returncode == 1
    assert b"long.txt:2: the text has 101 tokens, the limit is 64" in refused.stderr
    extracted("long.txt", "-o", "q.parquet", "--on-long", "chunk-mean", cwd=folder)
    chunked = EmbeddingSet.read(folder / "q.parquet")
    assert chunked.truncated.tolist() == [False, False]
    assert not np.allclose(
        chunked["pre_dropout.inference"][1], EmbeddingSet.read(folder / "o.parquet")["pre_dropout.inference"][1]
    )


def test_texts_pass_through_unchanged(folder):
    texts = [
        "Ünïcödé 👩‍👩‍👧",
        "שלום עולם",
        "e\u0301 combining",
        "tab\tinside",
        'quote " and , comma',
        "\u2028 line separator",
    ]
    with (folder / "t.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["text"], *([text] for text in texts)])
    (folder / "t.csv.gz").write_bytes(gzip.compress((folder / "t.csv").read_bytes()))
    extracted("t.csv.gz", "-o", "o.parquet", cwd=folder)
    assert EmbeddingSet.read(folder / "o.parquet").texts == tuple(texts)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["a.txt", "-o", "o", "--modes", "trainin"], 1, "Expected one or more of: inference, training, head"),
        (["a.txt", "-o", "o", "--modes", "inference", "--passes", "3"], 1, "takes no passes"),
        (["a.txt", "-o", "o", "--taps", "pooled"], 1, "It has: pre_dropout"),
        (["a.txt", "-o", "o", "--format", "npy"], 1, "Did you mean 'npz'"),
        (["missing.txt", "-o", "o"], 1, "missing.txt: no such file"),
        (["a.txt"], 2, "Missing option '-o'"),
        (["b.jsonl", "-o", "o"], 1, "it has: 'body', 'key'"),
        (["a.txt", "-o", "o", "--max-tokens", "65"], 1, "reads at most 64"),
        (["a.txt", "-o", "a.txt"], 1, "a.txt"),
    ],
)
def test_bad_requests_get_one_clear_error(folder, arguments, code, words):
    done = run("extract", "--model", "fake:", *arguments, cwd=folder)
    message = done.stderr.decode()
    assert done.returncode == code
    assert words in message
    assert "Traceback" not in message
    assert not (folder / "o").exists()
    assert (folder / "a.txt").read_text() == "first text\nsecond text\n"


def test_an_unknown_model_names_the_known_ones(folder):
    done = run("extract", "a.txt", "-o", "o", "--model", "minilm", cwd=folder)
    assert done.returncode == 1
    assert b"minilm-l6" in done.stderr
    assert b"Traceback" not in done.stderr
