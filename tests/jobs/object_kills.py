"""Ends a job in an object store before each thing it would change there, runs it again, and compares all objects.

Run as ``python -m tests.jobs.object_kills PLACE BUCKET`` with the environment of a server. Each process to be ended is
a fork of this one, which itself speaks to the server by another client.
"""

import os
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import filelock  # noqa: F401 - imported here so that forks need not
import platformdirs  # noqa: F401
import pyarrow.parquet  # noqa: F401

import embedsvc.models.fake
import embedsvc.uncertainty  # noqa: F401
from embedsvc.jobs import load_job, run_job
from embedsvc.storage import ObjectPath
from tests.crashes import forked, wait
from tests.jobs.conftest import lines
from tests.objects import Bucket

JOB = """
[extract]
sources = ["s3://{bucket}/{folder}/texts/*.txt"]
model = "fake:"
modes = ["inference", "training", "head"]
passes = 2
seed = 7
rows-per-part = 20
[stability]
passes = 2
neighbor-passes = 0
cluster-passes = 0
"""
CHANGES = ("put", "put_file", "copy_from", "unlink")


class Trial:
    """A folder of the bucket with texts and what the job made of them."""

    def __init__(self, place: Path, bucket: Bucket, folder: str) -> None:
        self.bucket = bucket
        self.folder = folder
        self._job = place / f"{folder}.toml"
        self._job.write_text(JOB.format(bucket=bucket.name, folder=folder))

    def run(self) -> None:
        run_job(load_job(self._job, arguments={"out": f"s3://{self.bucket.name}/{self.folder}/out"}))

    def results(self) -> dict[str, bytes]:
        """All objects but the records of runs; the folder's own name, which ids and sources begin with, left out."""
        found = self.bucket.objects(f"{self.folder}/out")
        return {name: content for name, content in found.items() if not name.startswith("runs/")}

    def finish(self, what: str) -> None:
        if wait(forked(self.run)):
            sys.exit(f"{what}: could not go on")


def ending_before(change: int, work: Callable[[], None]) -> None:
    """Do the work; end at once, as signal 9 would, before that change, counted from 1."""
    counter = count(1)
    for name in CHANGES:
        real = getattr(ObjectPath, name)

        def counted(*args, real=real, **kwargs):
            if next(counter) == change:
                os._exit(9)
            return real(*args, **kwargs)

        setattr(ObjectPath, name, counted)
    work()


def main(place: Path, bucket: Bucket) -> int:
    """Kill at each change of an increment, which reads an old set, writes a new one and changes the two."""
    trial = Trial(place, bucket, "trial")
    bucket.put("trial/texts/a.txt", lines(1, 50))
    trial.finish("first run")
    first = bucket.objects("trial")
    bucket.put("trial/texts/0.txt", lines(2, 30))
    trial.finish("increment")
    expected = trial.results()
    for change in count(1):
        bucket.remove_folder("trial")
        for name, content in first.items():
            bucket.put(f"trial/{name}", content)
        bucket.put("trial/texts/0.txt", lines(2, 30))
        if wait(forked(lambda change=change: ending_before(change, trial.run))) == 0:
            return change - 1
        trial.finish(f"before change {change}")
        found = trial.results()
        if found != expected:
            differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            sys.exit(f"before change {change}: other bytes in {differing}")
    raise AssertionError("unreachable")


if __name__ == "__main__":
    import boto3
    import s3fs  # noqa: F401

    os.environ["EMBEDSVC_STATE"] = str(Path(sys.argv[1]) / "state")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    print(f"survived {main(Path(sys.argv[1]), Bucket(sys.argv[2], client))}")
