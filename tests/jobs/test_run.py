"""A job does what is not done, and only that."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from embedsvc import EmbeddingSet, extract, extract_files
from embedsvc.errors import InputError, LockedError, SettingsError, StoreError, UnknownNameError
from embedsvc.extraction import Settings
from embedsvc.jobs import engines, plan_job, run_job
from embedsvc.jobs.log import prometheus_text
from embedsvc.jobs.records import Run, known_outs, runs_of
from embedsvc.models.fake import FakeEncoder
from embedsvc.types import Mode
from tests.jobs.conftest import lines, results

CLUSTER = "[cluster]\nk = 3\nresamples = 2\n"
SETTINGS = Settings(modes=(Mode.INFERENCE, Mode.TRAINING, Mode.HEAD), passes=2, seed=7, rows_per_part=20)


def states(done):
    return {step.name: step.state for step in done.run.steps}


def encoded(done):
    return {step.name: step.encoded for step in done.run.steps if step.encoded is not None}


def full_set(folder: Path, settings: Settings = SETTINGS) -> dict[str, bytes]:
    """The files of a set that `extract` makes of the texts in one go."""
    extract_files(["texts/*.txt"], folder / "full", model="fake:", settings=settings)
    files = {file.name: file.read_bytes() for file in (folder / "full").iterdir()}
    shutil.rmtree(folder / "full")
    return files


def set_of(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (out / "extract").iterdir()}


def differing(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Names of files that are not the same, or in one place only: shorter to read than their bytes."""
    return sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))


def test_a_job_writes_the_set_that_extract_writes(folder, job):
    done = run_job(job())
    assert states(done) == {"extract": "done"}
    assert encoded(done) == {"extract": 80}
    assert set_of(folder / "out") == full_set(folder)


def test_a_second_run_does_nothing(folder, job):
    run_job(job(steps=CLUSTER))
    before = results(folder / "out")
    stamps = {file: file.stat().st_mtime_ns for file in (folder / "out" / "extract").iterdir()}
    again = run_job(job(steps=CLUSTER))
    assert states(again) == {"extract": "kept", "cluster": "kept"}
    assert encoded(again) == {"extract": 0}
    assert results(folder / "out") == before
    assert {file: file.stat().st_mtime_ns for file in (folder / "out" / "extract").iterdir()} == stamps


def test_another_k_encodes_nothing(folder, job):
    run_job(job(steps=CLUSTER))
    stamp = (folder / "out/extract/part-00000.parquet").stat().st_mtime_ns
    done = run_job(job("cluster.k=4", steps=CLUSTER))
    assert states(done) == {"extract": "kept", "cluster": "done"}
    assert (folder / "out/extract/part-00000.parquet").stat().st_mtime_ns == stamp
    assert len(json.loads((folder / "out/cluster.json").read_text())["variants"][0]["clusters"]) == 4


def test_more_head_passes_encode_nothing(folder, job):
    text = '[extract]\nsources = ["texts/*.txt"]\nmodel = "fake:"\nrows-per-part = 20\n'
    run_job(job("out=out", text=text))
    done = run_job(job("out=out", "extract.passes=50", text=text))
    assert (states(done), encoded(done)) == ({"extract": "done"}, {"extract": 0})
    settings = Settings(modes=(Mode.INFERENCE, Mode.HEAD), passes=50, seed=0, rows_per_part=20)
    assert set_of(folder / "out") == full_set(folder, settings)


@pytest.fixture
def rows_by_pass(monkeypatch) -> Counter[str]:
    """How many rows the encoder is given for each pass."""
    counts: Counter[str] = Counter()
    real = FakeEncoder.encode

    def counted(self, batch, **options):
        counts[f"{options['pass_'].mode}.{options['pass_'].index}".removesuffix(".None")] += len(batch)
        return real(self, batch, **options)

    monkeypatch.setattr(FakeEncoder, "encode", counted)
    return counts


def test_more_training_passes_encode_the_new_passes_only(folder, job, rows_by_pass):
    run_job(job())
    assert rows_by_pass == {"inference": 80, "training.0": 80, "training.1": 80}
    rows_by_pass.clear()
    done = run_job(job("extract.passes=4"))
    assert rows_by_pass == {"training.2": 80, "training.3": 80}
    assert encoded(done) == {"extract": 80}
    assert set_of(folder / "out") == full_set(folder, replace(SETTINGS, passes=4)), "to the byte as a full run"
    rows_by_pass.clear()
    assert encoded(run_job(job("extract.passes=3"))) == {"extract": 0}, "fewer are there already"
    assert not rows_by_pass
    assert set_of(folder / "out") == full_set(folder, replace(SETTINGS, passes=3))


def test_new_passes_and_new_texts_come_together(folder, job, rows_by_pass):
    run_job(job())
    (folder / "texts/aa.txt").write_text(lines(3, 25))
    rows_by_pass.clear()
    run_job(job("extract.passes=3"))
    assert rows_by_pass == {"inference": 25, "training.0": 25, "training.1": 25, "training.2": 105}
    assert set_of(folder / "out") == full_set(folder, replace(SETTINGS, passes=3))


def test_another_seed_encodes_no_inference(folder, job, rows_by_pass):
    run_job(job())
    rows_by_pass.clear()
    run_job(job("extract.seed=8"))
    assert rows_by_pass == {"training.0": 80, "training.1": 80}
    assert set_of(folder / "out") == full_set(folder, replace(SETTINGS, seed=8))


def test_of_added_files_only_new_texts_are_encoded(folder, job):
    run_job(job())
    (folder / "texts/aa.txt").write_text(lines(3, 25))  # sorts between the two: every later row moves
    done = run_job(job())
    assert encoded(done) == {"extract": 25}
    assert set_of(folder / "out") == full_set(folder), "to the byte as a full run"


def test_of_a_grown_file_only_new_lines_are_encoded(folder, job):
    run_job(job())
    with (folder / "texts/a.txt").open("a") as file:
        file.write(lines(4, 7))
    assert encoded(run_job(job())) == {"extract": 7}
    assert set_of(folder / "out") == full_set(folder)


def test_a_changed_text_is_encoded_again_and_a_gone_one_is_gone(folder, job):
    run_job(job())
    every = (folder / "texts/a.txt").read_text().splitlines(keepends=True)
    (folder / "texts/a.txt").write_text("".join(["quite another\n", *every[1:40]]))
    assert encoded(run_job(job())) == {"extract": 1}
    assert set_of(folder / "out") == full_set(folder)


def test_the_same_text_under_another_id_is_encoded_only_where_masks_depend_on_it(folder, job):
    run_job(job())
    (folder / "texts/a.txt").rename(folder / "texts/c.txt")
    assert encoded(run_job(job())) == {"extract": 50}, "training mode: masks follow the id"
    inference = ["out=second", "extract.modes=inference,head"]
    run_job(job(*inference))
    (folder / "texts/c.txt").rename(folder / "texts/d.txt")
    assert encoded(run_job(job(*inference))) == {"extract": 0}, "inference vectors depend on the text alone"
    settings = Settings(modes=(Mode.INFERENCE, Mode.HEAD), passes=2, seed=7, rows_per_part=20)
    extract_files(["texts/*.txt"], folder / "full", model="fake:", settings=settings)
    assert {f.name: f.read_bytes() for f in (folder / "full").iterdir()} == {
        f.name: f.read_bytes() for f in (folder / "second/extract").iterdir()
    }


def test_labels_come_from_the_new_file(folder, job):
    (folder / "t.csv").write_text("id,text,label\na,good film,x\nb,bad film,y\n")
    run_job(job("extract.sources=t.csv", "extract.id-column=id"))
    (folder / "t.csv").write_text("id,text,label\na,good film,z\nb,bad film,y\n")
    assert encoded(run_job(job("extract.sources=t.csv", "extract.id-column=id"))) == {"extract": 0}
    assert EmbeddingSet.read(folder / "out/extract").labels == ("z", "y")


@pytest.mark.parametrize("setting", ["extract.model=fake:8", "extract.rate=0.2"])
def test_what_changes_vectors_encodes_everything(folder, job, setting):
    run_job(job())
    assert encoded(run_job(job(setting))) == {"extract": 80}


def test_other_batches_and_parts_encode_nothing(folder, job):
    run_job(job())
    assert encoded(run_job(job("extract.token-budget=64", "extract.rows-per-part=33"))) == {"extract": 0}
    whole = EmbeddingSet.read(folder / "out/extract")
    assert len(whole.manifest.parts) == 3
    extract_files(["texts/*.txt"], folder / "full", model="fake:", settings=SETTINGS)
    full = EmbeddingSet.read(folder / "full")
    for name in full.variants:
        np.testing.assert_array_equal(whole[name], full[name])


def test_an_unfinished_run_serves_one_with_more_files(folder, job, monkeypatch):
    """Its parts were written under other inputs; its rows are the same."""

    def two_blocks(*args, **kwargs):
        yield from islice(extract(*args, **kwargs), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(engines, "extract", two_blocks)
        with pytest.raises(KeyboardInterrupt):
            run_job(job())
    (folder / "texts/c.txt").write_text(lines(5, 10))
    assert encoded(run_job(job())) == {"extract": 50}
    assert set_of(folder / "out") == full_set(folder)
    assert not list((folder / "out").glob(".extract*"))


def test_analyses_run_again_when_their_set_changes(folder, job):
    run_job(job(steps=CLUSTER))
    (folder / "texts/c.txt").write_text(lines(3, 5))
    assert states(run_job(job(steps=CLUSTER))) == {"extract": "done", "cluster": "done"}


def test_a_result_that_was_deleted_or_changed_is_made_again(folder, job):
    run_job(job(steps=CLUSTER))
    before = results(folder / "out")
    (folder / "out/cluster.json").write_text("{}")
    assert states(run_job(job(steps=CLUSTER))) == {"extract": "kept", "cluster": "done"}
    (folder / "out/cluster.parquet").unlink()
    assert states(run_job(job(steps=CLUSTER))) == {"extract": "kept", "cluster": "done"}
    assert results(folder / "out") == before


def test_all_analyses_run_from_one_file(folder, job):
    (folder / "t.csv").write_text(
        "text,label\n" + "".join(f"{line},{row % 2}\n" for row, line in enumerate(lines(6, 60).splitlines()))
    )
    steps = CLUSTER + "[compare]\npermutations = 20\nbootstrap = 20\nks = 5\n[project]\n[stability]\npasses = 5\n"
    done = run_job(job("extract.sources=t.csv", steps=steps + "[probe]\nfolds = 2\nrepeats = 1\n"))
    assert set(states(done).values()) == {"done"}
    made = {name for name in results(folder / "out") if "/" not in name}
    assert made == {
        *("compare.json", "compare.parquet", "cluster.json", "cluster.parquet", "project.json", "project.parquet"),
        *("stability.json", "stability.parquet", "probe.json", "steps.json"),
    }


def test_the_plan_is_what_then_runs(folder, job):
    first = plan_job(job(steps=CLUSTER), estimates=True)
    assert not (folder / "out").exists(), "planning changes nothing"
    assert [(each.step.name, each.done, each.why, each.work and each.work.rows) for each in first.steps] == [
        ("extract", False, "new", 80),
        ("cluster", False, "new", None),
    ]
    done = run_job(job(steps=CLUSTER))
    assert [each.key for each in done.plan.steps] == [each.key for each in first.steps]
    tokens = first.steps[0].estimate.tokens
    assert done.run.steps[0].tokens == pytest.approx(tokens, rel=0.2)
    size = sum(file.stat().st_size for file in (folder / "out/extract").iterdir())
    assert first.steps[0].estimate.n_bytes == pytest.approx(size, rel=0.75), "small parts: footers weigh"
    (folder / "texts/c.txt").write_text(lines(3, 5))
    second = plan_job(job("cluster.k=4", steps=CLUSTER), estimates=True)
    assert [(each.why, each.work and each.work.rows) for each in second.steps] == [
        ("1 file added", 5),
        ("k changed, its set changes", None),
    ]
    assert second.steps[1].estimate.seconds > 0, "it was timed by the first run"


@pytest.mark.parametrize(
    ("setting", "grown", "rows", "partly", "lacking", "passes"),
    [
        ("extract.passes=5", False, 80, 80, 3, 6),
        ("extract.passes=3", True, 105, 80, 1, 4),
        ("extract.seed=8", False, 80, 80, 2, 3),
        ("extract.passes=2", True, 25, 0, 0, 3),
        ("extract.passes=1", False, 0, 0, 0, 2),
        ("extract.model=fake:8", True, 105, 0, 0, 1),
    ],
)
def test_the_plan_counts_passes_that_are_there(
    folder, job, rows_by_pass, setting, grown, rows, partly, lacking, passes
):
    run_job(job())
    if grown:
        (folder / "texts/aa.txt").write_text(lines(3, 25))
    plan = plan_job(job(setting), estimates=True)
    work = plan.steps[0].work
    assert (work.rows, work.partly, work.lacking, work.passes) == (rows, partly, lacking, passes)
    rows_by_pass.clear()
    done = run_job(job(setting))
    assert encoded(done) == {"extract": rows}
    if passes > 1:
        assert sum(rows_by_pass.values()) == (rows - partly) * passes + partly * lacking
        assert work.whole_rows * passes == pytest.approx(sum(rows_by_pass.values()))
    assert done.run.steps[0].tokens == pytest.approx(plan.steps[0].estimate.tokens, rel=0.2)
    size = sum(file.stat().st_size for file in (folder / "out/extract").iterdir())
    assert plan.steps[0].estimate.n_bytes == pytest.approx(size, rel=0.75)


def test_the_plan_of_a_stopped_run_counts_what_it_left(folder, job, monkeypatch):
    def two_blocks(*args, **kwargs):
        yield from islice(extract(*args, **kwargs), 2)
        raise KeyboardInterrupt

    for setting, partly in (("extract.passes=2", 0), ("extract.passes=4", 40)):
        with monkeypatch.context() as patched:
            patched.setattr(engines, "extract", two_blocks)
            with pytest.raises(KeyboardInterrupt):
                run_job(job(setting))
        work = plan_job(job(setting), estimates=True).steps[0].work
        assert (work.rows, work.partly) == (40, partly)
        assert encoded(run_job(job(setting))) == {"extract": 40}


def test_the_log_is_json_lines_with_rates_and_rejects_and_without_texts(folder, job):
    (folder / "texts/c.txt").write_bytes(b"confidential words\n\xff\xfe\n \n")
    done = run_job(job("extract.on-error=skip"))
    raw = done.log_path.read_text()
    events = [json.loads(line) for line in raw.splitlines()]
    assert {event["run"] for event in events} == {done.run.id}
    rows = [event for event in events if event["event"] == "rows"]
    assert rows[-1]["rows"] == rows[-1]["of"] == 81
    assert rows[-1]["rows_per_second"] > 0
    assert [(event["source"], event["rows"]) for event in events if event["event"] == "rejected"] == [
        ("texts/c.txt", 2)
    ]
    assert events[-1] | {"state": "done"} == events[-1]
    assert done.run.steps[0].rejected == 2
    assert "confidential" not in raw
    assert "film" not in raw


def test_runs_are_remembered_with_their_state(folder, job):
    run_job(job())
    with pytest.raises(InputError):
        run_job(job("extract.sources=absent.txt"))
    assert [run.state for run in runs_of(folder / "out")] == ["done", "failed"]
    assert "absent.txt" in list(runs_of(folder / "out"))[1].error
    assert known_outs() == [str(folder / "out")]


def test_a_run_that_ended_without_a_word_is_known_as_killed(folder, job):
    done = run_job(job())
    path = done.log_path.parent / "run.json"
    mine = json.loads(path.read_text())
    path.write_text(json.dumps(mine | {"state": "running", "ended": None}))
    assert [run.state for run in runs_of(folder / "out")] == ["running"], "this process is still there"
    path.write_text(json.dumps(mine | {"state": "running", "process": [mine["process"][0], 1]}))
    assert [run.state for run in runs_of(folder / "out")] == ["killed"], "another process of the same id"


def test_two_runs_cannot_work_in_one_folder(folder, job):
    run_job(job())
    before = results(folder / "out")
    code = (
        "import filelock, sys; lock = filelock.FileLock('out/.lock'); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match="another run works in"):
            run_job(job("extract.seed=9"))
        other.stdin.close()
    assert {name: data for name, data in results(folder / "out").items() if name != ".lock"} == before


def test_an_unknown_engine_or_mode_is_an_error_before_anything_is_made(folder, job):
    with pytest.raises(UnknownNameError, match="no engine named 'rya'"):
        run_job(job("engine=rya"))
    assert not (folder / "out").exists()
    with pytest.raises(SettingsError, match="no mode is called 'trainin'"):
        run_job(job("extract.modes=trainin"))


def test_standard_input_is_refused(job):
    with pytest.raises(InputError, match="cannot read standard input"):
        run_job(job("extract.sources=-"))


def test_damaged_bookkeeping_is_named_and_costs_no_encoding(folder, job):
    run_job(job())
    (folder / "out/steps.json").write_text("{")
    with pytest.raises(StoreError, match=r"steps\.json is damaged"):
        run_job(job())
    (folder / "out/steps.json").unlink()
    assert encoded(run_job(job())) == {"extract": 0}


def test_prometheus_metrics_are_well_formed(folder, job):
    done = run_job(job("name=job"), prometheus=folder / "job.prom")
    text = (folder / "job.prom").read_text()
    assert text == prometheus_text(done.run)
    assert 'embedsvc_job_success{job_name="job"} 1.0\n' in text
    assert 'embedsvc_job_encoded_rows{job_name="job",step="extract"} 80.0\n' in text
    for line in text.splitlines():
        assert line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0
    with pytest.raises(InputError):
        run_job(job("extract.sources=absent.txt"), prometheus=folder / "job.prom")
    assert 'embedsvc_job_success{job_name="job"} 0.0\n' in (folder / "job.prom").read_text()


def test_labels_of_metrics_are_escaped():
    run = Run("id", 'a"b\\c\nd', "out", "local", "done")
    assert r'{job_name="a\"b\\c\nd"}' in prometheus_text(run)


def test_a_terminated_run_is_noted_as_interrupted_and_goes_on(folder, job):
    job("extract.rows-per-part=1", steps="")
    (folder / "texts/big.txt").write_text(lines(9, 3000))
    command = [sys.executable, "-m", "embedsvc", "run", "job.toml", "--set", "extract.rows-per-part=5"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ) as process:
        while not list(Path("out").glob(".extract.next/part-*")):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert [run.state for run in runs_of(folder / "out")] == ["interrupted"]
    done = run_job(job("extract.rows-per-part=5"))
    assert 0 < encoded(done)["extract"] < 3080
