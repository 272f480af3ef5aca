"""A job whose inputs and outputs are objects in a store: the same set as on a disk, whatever happens on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedsvc import EmbeddingSet
from embedsvc.errors import LockedError, StorageError
from embedsvc.jobs import run_job
from embedsvc.jobs.records import runs_of
from embedsvc.storage import locked, place
from tests.jobs.conftest import EXTRACT, Command, lines, results
from tests.jobs.test_run import CLUSTER, encoded, set_of, states
from tests.objects import needs_s3

pytestmark = needs_s3


@pytest.fixture
def remote(bucket, job):
    """The job of the other tests with its output in the bucket."""

    def make(*settings, steps=""):
        return job(f"out={bucket.address}/jobs/out", *settings, steps=steps)

    return make


def test_a_job_leaves_in_a_bucket_what_it_leaves_on_a_disk(folder, job, bucket, remote):
    run_job(job(steps=CLUSTER))
    done = run_job(remote(steps=CLUSTER))
    assert states(done) == {"extract": "done", "cluster": "done"}
    made = {name: content for name, content in bucket.objects("jobs/out").items() if not name.startswith("runs/")}
    assert made == results(folder / "out")
    assert len(EmbeddingSet.read(f"{bucket.address}/jobs/out/extract")) == 80
    again = run_job(remote(steps=CLUSTER))
    assert states(again) == {"extract": "kept", "cluster": "kept"}
    assert [run.state for run in runs_of(place(f"{bucket.address}/jobs/out"))] == ["done", "done"]
    log = [json.loads(line) for line in bucket.get(f"jobs/out/runs/{done.run.id}/log.jsonl").decode().splitlines()]
    assert log[-1]["event"] == "run-finished"


def test_texts_in_a_bucket_give_the_vectors_of_texts_on_a_disk(folder, job, bucket):
    for name in ("a.txt", "b.txt"):
        bucket.put(f"texts/{name}", (folder / "texts" / name).read_bytes())
    text = EXTRACT.replace("passes = 2\nseed = 7\n", "").replace(', "training", "head"', "")
    run_job(job(text=text))
    here = EmbeddingSet.read("out/extract")
    for source in ("texts", "texts/*.txt", "texts/a.txt,{}/texts/b.txt"):
        sources = f"{bucket.address}/{source.format(bucket.address)}"
        run_job(job("out=second", f"extract.sources={sources}", text=text))
        there = EmbeddingSet.read("second/extract")
        assert there.ids[0] == f"{bucket.address}/texts/a.txt:1"
        assert (there["pre_dropout.inference"] == here["pre_dropout.inference"]).all()


def test_of_added_files_only_new_texts_are_encoded(folder, job, bucket, remote):
    run_job(remote())
    (folder / "texts/aa.txt").write_text(lines(3, 25))
    assert encoded(run_job(remote())) == {"extract": 25}
    run_job(job())
    assert bucket.objects("jobs/out/extract") == set_of(folder / "out"), "and nothing else is left there"


def test_a_damaged_part_is_found_named_and_made_again(folder, bucket, remote):
    run_job(remote())
    before = bucket.objects("jobs/out/extract")
    data = bytearray(before["part-00001.parquet"])
    data[len(data) // 2] ^= 4
    bucket.put("jobs/out/extract/part-00001.parquet", bytes(data))
    assert encoded(run_job(remote(), verify=True)) == {"extract": 20}
    assert bucket.objects("jobs/out/extract") == before


def test_a_second_run_in_the_same_folder_is_refused(bucket, remote):
    with locked(place(f"{bucket.address}/jobs/out"), "held", ""), pytest.raises(LockedError, match="another run works"):
        run_job(remote())


def test_what_the_user_must_do_is_said_once(folder, job, bucket, monkeypatch):
    with pytest.raises(StorageError, match="there is no bucket 'nowhere-at-all'"):
        run_job(job("out=s3://nowhere-at-all/x"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    command = [sys.executable, "-m", "embedsvc", "run", "job.toml", "-q", "-o", f"{bucket.address}/x"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no credentials for s3://" in done.stderr
    assert "AWS_ACCESS_KEY_ID" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_killed_before_any_change_ends_with_the_same_objects(tmp_path, bucket):
    command = [sys.executable, "-m", "tests.jobs.object_kills", str(tmp_path), bucket.name]
    here = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[1]) > 30


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_killed_with_signal_9_goes_on_at_once_on_the_same_machine(folder, job, bucket):
    (folder / "texts/big.txt").write_text(lines(9, 3000))
    settings = ("extract.model=fake:256", "extract.passes=6")
    run_job(job(*settings))
    command = Command(f"{bucket.address}/out", settings)
    for n_parts in (20, 70):
        command.kill_when(lambda n=n_parts: sum("part-" in name for name in bucket.objects("out/.extract.next")) >= n)
        assert any(".lock." in name for name in bucket.objects("out")), "its lock is left"
    assert 0 < command.run()["steps"][0]["encoded"] <= 3080 - 70 * 20
    assert bucket.objects("out/extract") == set_of(folder / "out")
