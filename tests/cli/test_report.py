import json

import pytest
from click.testing import CliRunner

from embedsvc.cli import cli
from tests.reporting.conftest import build


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return str(build(tmp_path_factory.mktemp("cli"), 60).path)


def run(*arguments: str):
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_report_writes_the_page_and_says_what_it_found(path, tmp_path):
    out = tmp_path / "deep" / "report.html"
    done = run("report", path, "-o", str(out), "--map-method", "pca", "--passes", "4", "--also", "markdown,json")
    assert done.exit_code == 0
    assert done.stdout.startswith("Take pre_dropout.inference")
    assert done.stdout.splitlines()[-1].startswith("The report: ")
    assert "Clustering …" in done.stderr
    assert sorted(file.name for file in out.parent.iterdir()) == ["report.html", "report.json", "report.md"]
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_report_prints_json(path, tmp_path):
    out = str(tmp_path / "report.md")
    done = run("report", path, "-o", out, "--map-method", "pca", "--passes", "4", "--quiet", "--json", "--seed", "5")
    data = json.loads(done.stdout)
    assert data["seed"] == 5
    assert data["verdict"]["headline"]
    assert done.stderr == ""


def test_report_refuses_a_strange_number_of_clusters(path):
    done = run("report", path, "--clusters", "one")
    assert done.exit_code == 2
    assert "neither a whole number from 2 nor auto" in done.stderr


def test_export_prints_what_it_wrote(path, tmp_path):
    done = run("export", path, "--to", "tensorboard", "-o", str(tmp_path / "p"), "--variants", "pre_dropout.inference")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        str(tmp_path / "p" / name) for name in ("metadata.tsv", "pre_dropout.inference.tsv", "projector_config.pbtxt")
    ]
