"""The same job on a cluster: equal bytes, whoever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from embedsvc import EmbeddingSet
from embedsvc.errors import MissingExtraError
from embedsvc.jobs import load_job, ray_engine, run_job
from embedsvc.jobs.records import runs_of
from embedsvc.storage import place
from tests.jobs.conftest import lines
from tests.jobs.ray_cluster import Cluster, cluster
from tests.jobs.test_run import differing, set_of
from tests.models.tiny_bert import make_tensors, write_folder
from tests.objects import needs_s3

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


def start(out: str, nodes: Cluster, *options: str, settings: Sequence[str] = SETTINGS) -> subprocess.Popen:
    command = [sys.executable, "-m", "embedsvc", "run", "job.toml", "-q", "-o", out]
    command += ["--engine", "ray", "--address", nodes.address, *(options or ("--workers", "3"))]
    for setting in settings:
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
        assert not differing(set_of(folder / "ray"), big)

        # The driver; what it had finished is not done again.
        driver = start("again", nodes)
        wait_for_parts("again", n_parts // 4, driver)
        driver.kill()
        driver.wait()
        before = len(list(Path("again").glob(".extract.next/part-*")))
        driver = start("again", nodes)
        assert driver.wait() == 0, Path("driver.log").read_text()
        assert not differing(set_of(folder / "again"), big)
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
    assert not differing(set_of(folder / "out"), set_of(folder / "local"))
    failed = run("extract.on-long=fail", "extract.max-tokens=5")
    assert failed.returncode == 1
    assert "tokens, the limit is 5" in failed.stderr
    assert "Traceback" not in failed.stderr


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_actors_run_where_there_are_graphics_cards(folder, big):
    with cluster("plain", "card", gpus=["card"]) as nodes:
        driver = start("ray", nodes, "--workers", "2", "--gpus", "1")
        wait_for_worker(nodes, "card", driver)
        wait_for_parts("ray", 20, driver)
        assert not nodes.workers("plain"), "each actor asks for a whole card"
        assert driver.wait() == 0, Path("driver.log").read_text()
        assert not differing(set_of(folder / "ray"), big)
        driver = start("more", nodes, "--gpus", "2")
        assert driver.wait() == 1
        assert "each actor needs 2 GPUs, and the cluster has 1" in Path("driver.log").read_text()


@needs_ray
@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["tensorflow", "openvino"])
def test_a_real_model_gives_on_a_cluster_what_it_gives_here(folder, job, engine):
    if engine == "openvino" and find_spec("openvino") is None:
        pytest.skip("openvino is not installed: pip install 'embedsvc[openvino]'")
    write_folder(folder / "bert", make_tensors(n_classes=2))
    job()
    settings = (f"extract.model=hf:{folder / 'bert'}", f"extract.engine={engine}", "extract.rows-per-part=10")
    settings += ("extract.on-long=truncate",)
    run_job(load_job("job.toml", settings=settings, arguments={"out": "local"}))
    with cluster("a", "b") as nodes:
        driver = start("ray", nodes, "--workers", "2", settings=settings)
        assert driver.wait() == 0, Path("driver.log").read_text()
    here, there = EmbeddingSet.read("local/extract"), EmbeddingSet.read("ray/extract")
    assert here.manifest.identity == there.manifest.identity
    assert there.ids == here.ids
    for name in here.manifest.stored:
        np.testing.assert_allclose(there[name], here[name], rtol=0, atol=1e-6, err_msg=name)
    # Of equal batches on one machine not even the last bit is another.
    assert not differing(set_of(folder / "ray"), set_of(folder / "local"))


@needs_ray
@needs_s3
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_reads_from_a_bucket_and_writes_into_it(folder, job, bucket):
    job()
    for name in ("a.txt", "b.txt"):
        bucket.put(f"texts/{name}", (folder / "texts" / name).read_bytes())
    settings = (f"extract.sources={bucket.address}/texts/*.txt", "extract.rows-per-part=10")
    run_job(load_job("job.toml", settings=settings, arguments={"out": "local"}))
    with cluster("a", "b") as nodes:
        driver = start(f"{bucket.address}/out", nodes, "--workers", "2", settings=settings)
        assert driver.wait() == 0, Path("driver.log").read_text()
        assert not differing(bucket.objects("out/extract"), set_of(folder / "local"))
        bucket.put("texts/aa.txt", lines(3, 25))
        driver = start(f"{bucket.address}/out", nodes, "--workers", "2", settings=settings)
        assert driver.wait() == 0, Path("driver.log").read_text()
    assert [run.steps[0].encoded for run in runs_of(place(f"{bucket.address}/out"))] == [80, 25]
    run_job(load_job("job.toml", settings=settings, arguments={"out": "local"}))
    assert not differing(bucket.objects("out/extract"), set_of(folder / "local"))


def test_without_ray_the_extra_is_named(job, monkeypatch):
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "embedsvc\[ray\]"'):
        run_job(job("engine=ray"))
