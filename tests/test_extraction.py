"""From texts to blocks and from files to sets, on the numpy encoder."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embedsvc import EmbeddingSet, Settings, Text, extract, extract_files, forward, load_model
from embedsvc.batching import OnLong
from embedsvc.errors import InputError, SettingsError, StoreMismatchError, UnknownTapError
from embedsvc.extraction import describe
from embedsvc.types import Mode, Pass, Variant

ALL_MODES = (Mode.INFERENCE, Mode.TRAINING, Mode.HEAD)
EVERY = Settings(modes=ALL_MODES, passes=2, seed=7, rows_per_part=10, token_budget=40)


@pytest.fixture(scope="module")
def encoder():
    return load_model("fake:")


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(1)
    words = ["the", "rain", "in", "spain", "falls", "mainly", "on", "plains", "where", "cats", "and", "dogs", "sleep"]
    return [Text(f"t{i}", " ".join(rng.choices(words, k=rng.randint(1, 30))), "ab"[i % 2]) for i in range(57)]


@pytest.fixture
def source(tmp_path, texts):
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text.text}\n" for text in texts), encoding="utf-8")
    return path


def columns(blocks):
    blocks = list(blocks)
    return {name: np.concatenate([block.vectors[name] for block in blocks]) for name in blocks[0].vectors}


def test_blocks_hold_every_text_once_and_in_order(encoder, texts):
    blocks = list(extract(iter(texts), encoder, EVERY))
    assert [text for block in blocks for text in block.texts] == texts
    assert [block.index for block in blocks] == list(range(6))
    assert [block.offset for block in blocks] == [0, 10, 20, 30, 40, 50]


def test_a_stored_variant_is_what_a_lone_forward_pass_gives(encoder, texts):
    stored = columns(extract(texts, encoder, EVERY))
    for name, column in stored.items():
        variant = Variant.parse(name)
        pass_ = Pass(variant.mode, variant.index, 7 if variant.mode.stochastic else None)
        for row in (0, 13, 56):
            alone = forward(encoder, [texts[row]], taps=[variant.tap], pass_=pass_).vectors[variant.tap]
            np.testing.assert_allclose(column[row], alone[0], atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"token_budget": 1}, {"token_budget": 10_000}, {"rows_per_part": 3}, {"rows_per_part": 1000}]
)
@pytest.mark.parametrize("workers", [1, 4])
def test_vectors_do_not_depend_on_batches_parts_or_workers(encoder, texts, changes, workers):
    settings = {name: getattr(EVERY, name) for name in Settings.__slots__} | changes
    changed = columns(extract(texts, encoder, Settings(**settings), workers=workers))
    for name, column in columns(extract(texts, encoder, EVERY)).items():
        np.testing.assert_array_equal(column, changed[name])


def test_order_does_not_change_a_texts_vectors(encoder, texts):
    forwards = columns(extract(texts, encoder, EVERY))
    backwards = columns(extract(texts[::-1], encoder, EVERY))
    for name, column in forwards.items():
        np.testing.assert_array_equal(column, backwards[name][::-1])


def test_post_in_training_mode_comes_from_the_same_pass_as_pre(encoder, texts):
    stored = columns(extract(texts, encoder, EVERY))
    for index in range(2):
        pre, post = stored[f"pre_dropout.training.{index}"], stored[f"post_dropout.training.{index}"]
        kept = post != 0
        np.testing.assert_array_equal(post[kept], (pre * np.float32(1 / 0.9))[kept])
        assert 0.86 < kept.mean() < 0.94


def test_skipped_blocks_are_not_encoded(encoder, texts):
    told = []
    blocks = list(extract(texts, encoder, EVERY, skip={0, 2, 5}, progress=lambda rows, tokens: told.append(rows)))
    assert [block.index for block in blocks] == [1, 3, 4]
    assert sum(told) == 30


def test_progress_counts_each_text_once_even_in_chunks(encoder):
    settings = Settings(on_long=OnLong.CHUNK_MEAN, max_tokens=4, token_budget=8)
    told = []
    rows = [Text(str(i), "word " * (1 + 7 * i)) for i in range(9)]
    list(extract(rows, encoder, settings, progress=lambda rows, tokens: told.append((rows, tokens))))
    assert sum(rows for rows, _ in told) == 9


class Counting:
    """The numpy encoder, and the rows it was given in each mode."""

    def __init__(self, encoder, **attributes):
        self.spec, self.head, self.tokenize = encoder.spec, encoder.head, encoder.tokenize
        self._encode = encoder.encode
        self.rows = dict.fromkeys(Mode, 0)
        vars(self).update(attributes)

    def encode(self, tokens, *, pass_, **rest):
        self.rows[pass_.mode] += len(tokens)
        return self._encode(tokens, pass_=pass_, **rest)


@pytest.fixture
def repeated(texts):
    """30 texts of which 13 are different, no two next to each other."""
    return [Text(f"r{i}", texts[i % 13].text) for i in range(30)]


@pytest.mark.parametrize("modes", [(Mode.INFERENCE,), ALL_MODES])
@pytest.mark.parametrize("on_long", [OnLong.TRUNCATE, OnLong.CHUNK_MEAN])
def test_repeated_texts_share_their_inference_pass_and_keep_masks_of_their_own(encoder, repeated, modes, on_long):
    stochastic = {"passes": 2, "seed": 7} if len(modes) > 1 else {}
    settings = Settings(modes=modes, rows_per_part=15, on_long=on_long, max_tokens=12, **stochastic)
    sharing, apart = Counting(encoder, inference_by_tokens=True), Counting(encoder)
    told = []
    shared = columns(extract(repeated, sharing, settings, workers=1, progress=lambda rows, _: told.append(rows)))
    for name, column in columns(extract(repeated, apart, settings, workers=1)).items():
        np.testing.assert_array_equal(shared[name], column)
    assert sum(told) == len(repeated)
    assert sharing.rows[Mode.INFERENCE] < apart.rows[Mode.INFERENCE]
    assert sharing.rows[Mode.TRAINING] == apart.rows[Mode.TRAINING]
    if on_long is OnLong.TRUNCATE:
        assert sharing.rows[Mode.INFERENCE] == 13 + 13  # each part by itself
    if len(modes) > 1:
        assert (shared["pre_dropout.training.0"][0] != shared["pre_dropout.training.0"][13]).any()


def test_an_encoder_that_fails_stops_the_run_with_its_own_error(encoder, texts):
    class Broken:
        spec, head, tokenize = encoder.spec, encoder.head, encoder.tokenize

        def encode(self, tokens, **_):
            raise ModuleNotFoundError("no such kernel")

    with pytest.raises(ModuleNotFoundError, match="no such kernel"):
        list(extract(texts, Broken(), EVERY))


def test_unknown_taps_and_impossible_limits_are_refused_before_anything_runs(encoder):
    with pytest.raises(UnknownTapError, match=r"no tap 'pooled'[\s\S]*pooled_output"):
        describe(encoder, Settings(taps=("pooled",)))
    with pytest.raises(SettingsError, match="reads at most 64"):
        describe(encoder, Settings(max_tokens=65))
    with pytest.raises(SettingsError, match="needs passes and a seed"):
        describe(encoder, Settings(modes=(Mode.TRAINING,)))


def test_a_set_made_from_files_gives_stored_identical_and_virtual_variants(source, tmp_path, texts, encoder):
    out = tmp_path / "out.parquet"
    summary = extract_files([str(source)], out, model="fake:", settings=EVERY)
    embeddings = EmbeddingSet.read(out)
    assert summary.manifest.complete
    assert (summary.new_rows, summary.manifest.rows, len(embeddings)) == (57, 57, 57)
    assert embeddings.texts == tuple(text.text for text in texts)
    assert embeddings.ids[0] == f"{source}:1"
    pre = embeddings["pre_dropout.inference"]
    np.testing.assert_array_equal(embeddings["post_dropout.inference"], pre)
    post = embeddings["post_dropout.head.1"]
    np.testing.assert_array_equal(post[post != 0], (pre * np.float32(1 / 0.9))[post != 0])
    assert embeddings["logits.head.1"].shape == (57, 3)


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_the_same_command_again_does_nothing(source, tmp_path, name):
    out = tmp_path / name
    extract_files([str(source)], out, model="fake:", settings=EVERY)
    before = fingerprint(out)
    again = extract_files([str(source)], out, model="fake:", settings=EVERY)
    assert again.new_rows == 0
    assert fingerprint(out) == before


def test_other_settings_are_refused_with_the_difference_and_overwrite_replaces(source, tmp_path):
    out = tmp_path / "out"
    extract_files([str(source)], out, model="fake:", settings=EVERY)
    other = Settings(modes=ALL_MODES, passes=2, seed=8, rows_per_part=10, token_budget=40)
    with pytest.raises(StoreMismatchError, match="seed: this run has 8, the stored one 7"):
        extract_files([str(source)], out, model="fake:", settings=other)
    extract_files([str(source)], out, model="fake:", settings=other, overwrite=True)
    assert EmbeddingSet.read(out).manifest.seed == 8


def test_changed_input_is_refused_on_resume(source, tmp_path):
    out = tmp_path / "out"
    extract_files([str(source)], out, model="fake:", settings=EVERY)
    with source.open("a") as file:
        file.write("one more\n")
    with pytest.raises(StoreMismatchError, match=r"source .*texts\.txt"):
        extract_files([str(source)], out, model="fake:", settings=EVERY)


def test_bad_input_fails_before_a_model_is_looked_for(tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"fine\n\xff\xfe broken\n")
    with pytest.raises(InputError, match=r"bad\.txt:2"):
        extract_files([str(bad)], tmp_path / "out", model="no-such-model")


@pytest.mark.parametrize("name", ["out.npz", "out.csv", "out.jsonl"])
def test_other_formats_carry_every_variant_and_leave_no_working_files(source, tmp_path, name):
    out = tmp_path / name
    summary = extract_files([str(source)], out, model="fake:", settings=EVERY)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, f"{name}.manifest.json", source.name])
    assert summary.path == out
    if name == "out.npz":
        assert "post_dropout.head.1" in np.load(out)
    else:
        assert "post_dropout.head.1" in out.read_text(encoding="utf-8")
    assert extract_files([str(source)], out, model="fake:", settings=EVERY).new_rows == 0


def fingerprint(path: Path) -> dict[str, bytes]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {file.name: file.read_bytes() for file in files if file.is_file()}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    path = tmp_path_factory.mktemp("many") / "many.txt"
    rng = random.Random(2)
    path.write_text("".join(" ".join(rng.choices(["ab", "cd", "ef", "gh"], k=12)) + "\n" for _ in range(4000)))
    return path


def command(source: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "embedsvc", "extract", str(source), "-o", str(out), "--model", "fake:"),
        *("--modes", "inference,training,head", "--passes", "2", "--seed", "3", "--rows-per-part", "200"),
    ]


@pytest.mark.parametrize("name", ["out", "out.parquet", "out.csv"])
def test_a_killed_run_resumes_to_the_bytes_of_an_unbroken_one(many, tmp_path, name):
    whole = tmp_path / "whole" / name
    subprocess.run(command(many, whole), check=True, capture_output=True)
    rng = random.Random(name)
    broken = tmp_path / "broken" / name
    for parts in (0, 3, 6, 10, 14):
        process = subprocess.Popen(command(many, broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(list(broken.parent.rglob("part-*.parquet"))) < parts and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    subprocess.run(command(many, broken), check=True, capture_output=True)
    assert fingerprint(broken.parent) == fingerprint(whole.parent)


def test_finished_parts_are_not_computed_again(many, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(command(many, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(out.glob("part-*.parquet"))) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    subprocess.run(command(many, out), check=True, capture_output=True)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert len(after) == 20
    assert {name: after[name] for name in before} == before


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(many, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(command(many, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while len(list(out.glob("part-*.parquet"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "give the same command again" in messages
    assert "Traceback" not in messages
    subprocess.run(command(many, out), check=True, capture_output=True)
    assert len(EmbeddingSet.read(out)) == 4000
