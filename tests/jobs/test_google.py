"""A job in Google's store, against a server of its protocol: what differs from S3 is the client, gcsfs."""

import json

import pytest

from embedsvc import EmbeddingSet
from embedsvc.errors import LockedError, StorageError
from embedsvc.jobs import load_job, run_job
from embedsvc.storage import locked, place
from tests.jobs.conftest import Command, lines, results
from tests.jobs.test_run import CLUSTER, encoded, set_of, states
from tests.objects import needs_gs

pytestmark = needs_gs


def test_a_job_leaves_in_googles_store_what_it_leaves_on_a_disk(folder, job, google_bucket):
    run_job(job(steps=CLUSTER))
    remote = {"out": f"{google_bucket.address}/jobs/out"}
    done = run_job(load_job("job.toml", arguments=remote))
    assert states(done) == {"extract": "done", "cluster": "done"}
    objects = google_bucket.objects("jobs/out")
    assert {name: content for name, content in objects.items() if not name.startswith("runs/")} == results(
        folder / "out"
    )
    assert json.loads(objects[f"runs/{done.run.id}/log.jsonl"].splitlines()[-1])["event"] == "run-finished"
    assert states(run_job(load_job("job.toml", arguments=remote))) == {"extract": "kept", "cluster": "kept"}


def test_of_texts_added_to_googles_store_only_the_new_are_encoded(folder, job, google_bucket):
    for name in ("a.txt", "b.txt"):
        google_bucket.put(f"texts/{name}", (folder / "texts" / name).read_bytes())
    settings = (f"out={google_bucket.address}/out", f"extract.sources={google_bucket.address}/texts/*.txt")
    run_job(job(*settings))
    google_bucket.put("texts/aa.txt", lines(3, 25))
    assert encoded(run_job(job(*settings))) == {"extract": 25}
    there = EmbeddingSet.read(f"{google_bucket.address}/out/extract")
    assert (len(there), there.ids[50]) == (105, f"{google_bucket.address}/texts/aa.txt:1")
    assert not any(".next" in name or ".lock" in name for name in google_bucket.names()), "nothing else is left there"


def test_what_is_wrong_in_googles_store_is_said(job, google_bucket):
    run = place(f"{google_bucket.address}/jobs/out")
    with locked(run, "held", ""), pytest.raises(LockedError, match="another run works"):
        run_job(job(f"out={run}"))
    with pytest.raises(StorageError, match="there is no bucket 'nowhere-at-all'"):
        run_job(job("out=gs://nowhere-at-all/x"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_job_goes_on_in_googles_store(folder, job, google_bucket):
    (folder / "texts/big.txt").write_text(lines(9, 600))
    settings = ("extract.model=fake:256", "extract.passes=6")
    run_job(job(*settings))
    command = Command(f"{google_bucket.address}/out", settings)
    command.kill_when(lambda: sum("part-" in name for name in google_bucket.names("out/.extract.next")) >= 8)
    assert 0 < command.run()["steps"][0]["encoded"] <= 680 - 8 * 20
    assert google_bucket.objects("out/extract") == set_of(folder / "out")
