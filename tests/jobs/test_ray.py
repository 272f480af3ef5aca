"""The same job on a cluster: equal bytes, whoever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from embedsvc.errors import MissingExtraError
from embedsvc.jobs import load_job, ray_engine, run_job
from embedsvc.jobs.records import runs_of
from tests.jobs.conftest import lines
from tests.jobs.ray_cluster import Cluster, cluster
from tests.jobs.test_run import set_of

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason='needs Ray: pip install "embedsvc[ray]"')

ROWS = 4000
SETTINGS = ("extract.rows-per-part=40", "extract.model=fake:256", "extract.passes=6")


@pytest.fixture
def big(folder, job):
    """A job long enough to be interrupted, and the set that one process makes of it."""
    (folder / "texts/big.txt").write_text(lines(9, ROWS))
    job()
    run_job(load_job("job.toml", settings=SETTINGS, arguments={"out": "local"}))
    return set_of(folder / "local")


def start(out: str, nodes: Cluster) -> subprocess.Popen:
    command = [sys.executable, "-m", "embedsvc", "run", "job.toml", "-q", "-o", out]
    command += ["--engine", "ray", "--address", nodes.address, "--workers", "3"]
    for setting in SETTINGS:
        command += ["--set", setting]
    environment = nodes.environment | {"EMBEDSVC_STATE": os.environ["EMBEDSVC_STATE"]}
    with Path("driver.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def wait_for_parts(out: str, count: int, driver: subprocess.Popen) -> None:
    while len(list(Path(out).glob(".extract.next/part-*"))) < count:
        assert driver.poll() is None, Path("driver.log").read_text()
        time.sleep(0.05)


def wait_for_worker(nodes: Cluster, name: str, driver: subprocess.Popen) -> int:
    while not nodes.workers(name):
        assert driver.poll() is None, Path("driver.log").read_text()
        time.sleep(0.1)
    return nodes.workers(name)[0]


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whoever_is_killed_every_row_is_there_exactly_once(folder, big):
    n_parts = len(big) - 1
    with cluster("a", "b", "c") as nodes:
        driver = start("ray", nodes)
        wait_for_parts("ray", n_parts // 8, driver)
        # An actor, then a whole node.
        os.kill(wait_for_worker(nodes, "a", driver), signal.SIGKILL)
        wait_for_parts("ray", n_parts // 4, driver)
        nodes.kill("b")
        assert driver.wait() == 0, Path("driver.log").read_text()
        assert set_of(folder / "ray") == big

        # The driver; what it had finished is not done again.
        driver = start("again", nodes)
        wait_for_parts("again", n_parts // 4, driver)
        driver.kill()
        driver.wait()
        before = len(list(Path("again").glob(".extract.next/part-*")))
        driver = start("again", nodes)
        assert driver.wait() == 0, Path("driver.log").read_text()
        assert set_of(folder / "again") == big
    assert [run.state for run in runs_of(folder / "again")] == ["killed", "done"]
    encoded = list(runs_of(folder / "again"))[-1].steps[0].encoded
    assert 0 < encoded <= ROWS + 80 - 40 * (before - 1)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_of_its_own_takes_over_known_rows_and_names_its_errors(folder, job):
    """Without an address one is started here, in a process of its own: Ray holds on to the first it meets."""
    job()

    def run(*settings):
        command = [sys.executable, "-m", "embedsvc", "run", "job.toml", "--json", "-q", "--engine", "ray"]
        for setting in settings:
            command += ["--set", setting]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run([*command, "--workers", "2"], env=env, capture_output=True, text=True, check=False)

    first = run()
    assert first.returncode == 0, first.stderr
    (folder / "texts/aa.txt").write_text(lines(3, 25))
    second = run()
    assert json.loads(second.stdout)["steps"][0]["encoded"] == 25
    run_job(load_job("job.toml", arguments={"out": "local"}))
    assert set_of(folder / "out") == set_of(folder / "local")
    failed = run("extract.on-long=fail", "extract.max-tokens=5")
    assert failed.returncode == 1
    assert "tokens, the limit is 5" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_without_ray_the_extra_is_named(job, monkeypatch):
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "embedsvc\[ray\]"'):
        run_job(job("engine=ray"))
