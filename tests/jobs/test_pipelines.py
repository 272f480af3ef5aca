"""The ready jobs run from a clone as they are, and schedulers start them by words that exist."""

import json
import re
from pathlib import Path

import click
import pytest

from embedsvc.cli.run import run
from embedsvc.embeddings import EmbeddingSet
from embedsvc.jobs import load_job, plan_job, run_job
from tests.jobs.test_run import encoded, states

CLONE = Path(__file__).parents[2]
PIPELINES = sorted((CLONE / "pipelines").glob("*.toml"))
ADAPTERS = sorted((CLONE / "pipelines" / "schedulers").iterdir())


def ready(name: str, *settings: str, out: Path):
    return load_job(CLONE / "pipelines" / name, settings=settings, arguments={"out": str(out)})


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_a_ready_job_can_be_planned_from_the_root_of_a_clone(path, folder, monkeypatch):
    monkeypatch.chdir(CLONE)
    plan = plan_job(load_job(path, arguments={"out": str(folder / "out")}))
    assert all(each.why == "new" for each in plan.steps)
    assert {each.scan.rows for each in plan.steps if each.scan} == {361}
    assert not (CLONE / plan.job.out).is_absolute() or not (folder / "out").exists()


def test_drift_compares_two_checkpoints(folder, monkeypatch):
    monkeypatch.chdir(CLONE)
    quick = ("extract.model=fake:", "compare.permutations=20", "compare.bootstrap=20", "cluster.resamples=2")
    done = run_job(ready("drift.toml", *quick, out=folder / "out"))
    assert set(states(done).values()) == {"done"}
    pairs = json.loads((folder / "out/compare.json").read_text())["pairs"]
    assert pairs
    before, after = (EmbeddingSet.read(folder / "out" / f"extract.{name}") for name in ("before", "after"))
    assert (before.manifest.head.rate, after.manifest.head.rate) == (0.1, 0.3)
    assert (folder / "out/cluster.before.json").exists()


def test_nightly_encodes_what_is_new(folder):
    texts = (CLONE / "examples/texts.csv").read_text().splitlines(keepends=True)
    (folder / "inbox").mkdir()
    quick = ("extract.model=fake:", "extract.sources=inbox/*.csv", "cluster.resamples=2", "stability.passes=5")
    (folder / "inbox/monday.csv").write_text("".join(texts[:200]))
    assert encoded(run_job(ready("nightly.toml", *quick, out=folder / "out"))) == {"extract": 199}
    (folder / "inbox/tuesday.csv").write_text("".join([texts[0], *texts[200:], "bad-row,,,\n"]))
    night = run_job(ready("nightly.toml", *quick, out=folder / "out"))
    assert encoded(night) == {"extract": len(EmbeddingSet.read(folder / "out/extract")) - 199}
    assert night.run.steps[0].rejected == 1
    assert (folder / "out/extract/rejected.jsonl").exists()


@pytest.mark.slow
def test_reviews_runs_to_its_report(folder, monkeypatch):
    monkeypatch.chdir(CLONE)
    quick = ("compare.permutations=20", "compare.bootstrap=20", "cluster.resamples=2", "probe.repeats=1")
    smaller = ("extract.model=fake:", "stability.passes=5", "report.passes=5", "report.map-method=pca")
    done = run_job(ready("reviews.toml", *quick, *smaller, out=folder / "out"))
    assert set(states(done).values()) == {"done"}
    assert {"report.html", "report.md", "report.json", "probe.json"} <= {p.name for p in (folder / "out").iterdir()}


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.tensorflow
def test_nightly_runs_with_the_real_model(folder, minilm_folder, monkeypatch):
    monkeypatch.chdir(CLONE)
    done = run_job(ready("nightly.toml", "cluster.resamples=2", "stability.passes=5", out=folder / "out"))
    assert encoded(done) == {"extract": 361}
    assert encoded(run_job(ready("nightly.toml", "extract.passes=50", out=folder / "out"))) == {"extract": 0}


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.name)
def test_an_adapter_uses_words_that_exist(path):
    text = path.read_text()
    known = {option for param in run.params for option in param.opts if isinstance(param, click.Option)}
    commands = re.findall(r"embedsvc[ ,]+run[ ,]+([^\n\]]+)", text)
    for command in commands:
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", command)) <= known
        name = re.search(r"pipelines/(\w+\.toml)", command)[1]
        variables = dict(re.findall(r"(EMBEDSVC_JOB__\w+)\W+(?:value: )?\W*([^\s\"}]+)", text))
        load_job(CLONE / "pipelines" / name, environment=variables)
    assert commands or path.suffix == ".timer"
