"""What `embedsvc doctor` finds, on environments that are made up: every known conflict is found, and no other."""

import json
import os
import sys
from importlib import metadata

import pytest
from click.testing import CliRunner

from embedsvc import diagnosis, machine
from embedsvc.cli import cli
from embedsvc.diagnosis import diagnose

SOUND = {
    **{"embedsvc": "0.1.0", "tensorflow": "2.21.0", "tensorflow-text": "2.21.1", "tensorflow-hub": "0.16.1"},
    **{"tf-keras": "2.21.0", "keras": "3.15.1", "setuptools": "81.0.0", "numpy": "2.4.6", "click": "8.5.1"},
    **{"umap-learn": "0.5.12"},
}
REQUIRES = ["click>=8.1.7,<9", "numpy>=1.26,<3", "tensorflow>=2.20,<2.22", 'umap-learn<0.6; extra == "report"']


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """An environment without fault; tests spoil it."""
    versions: dict[str, str] = dict(SOUND)

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    class Metadata:
        def get_all(self, field):
            return ["report"] if field == "Provides-Extra" else None

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(metadata, "metadata", lambda name: Metadata())
    monkeypatch.setattr(machine, "memory", lambda: (16_000_000_000, 12_000_000_000))
    monkeypatch.setattr(machine, "cards", lambda: [])
    monkeypatch.setattr(diagnosis, "_folder", lambda package: None)
    monkeypatch.setenv("EMBEDSVC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)
    return versions


def problems():
    return [(str(each.severity), each.problem, each.fix) for each in diagnose().findings]


def test_a_sound_environment_has_no_findings(installed):
    assert problems() == []
    assert diagnose().healthy
    assert diagnose().extras == {"report": ()}


@pytest.mark.parametrize(
    ("changes", "problem", "fix"),
    [
        ({"setuptools": "82.0.1"}, "setuptools 82.0.1 has no pkg_resources", 'pip install "setuptools<82"'),
        ({"tensorflow-text": "2.20.0"}, "tensorflow-text 2.20.0 is built for another", '"tensorflow-text==2.21.*"'),
        ({"tf-keras": "2.19.0"}, "tf-keras 2.19.0 is built for another TensorFlow than 2.21.0", '"tf-keras==2.21.*"'),
        ({"tensorflow-cpu": "2.21.0"}, "tensorflow and tensorflow-cpu are both installed", "pip uninstall"),
        ({"numpy": "1.20.0"}, "numpy 1.20.0 is installed, expected <3,>=1.26", 'pip install "numpy<3,>=1.26"'),
        ({"click": None}, "click is not installed", 'pip install "click<9,>=8.1.7"'),
        ({"embedsvc": None}, "embedsvc is not installed, only its source", "pip install -e ."),
    ],
)
def test_a_known_conflict_is_an_error_with_its_fix(installed, changes, problem, fix):
    for name, version in changes.items():
        installed.pop(name) if version is None else installed.update({name: version})
    (found,) = problems()
    assert found[0] == "error"
    assert problem in found[1]
    assert fix in found[2]
    assert not diagnose().healthy


def test_without_tensorflow_that_is_said(installed):
    del installed["tensorflow"]
    assert ("error", "tensorflow is not installed", "Run: pip install tensorflow") in problems()


def test_the_cpu_build_stands_in_for_tensorflow(installed):
    installed["tensorflow-cpu"] = installed.pop("tensorflow")
    assert problems() == []


def test_a_missing_extra_is_no_fault(installed):
    del installed["umap-learn"]
    assert diagnose().extras == {"report": ("umap-learn",)}
    assert problems() == []


@pytest.mark.parametrize(("version", "sound"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)])
def test_python_is_one_that_tensorflow_is_built_for(version, sound):
    assert (not list(diagnosis._python(version))) == sound


def test_a_card_that_the_cpu_build_leaves_idle_is_a_warning(installed, monkeypatch):
    monkeypatch.setattr(machine, "cards", lambda: ["NVIDIA L4, 23034 MiB, 580.65"])
    assert problems() == []
    installed["tensorflow-cpu"] = installed.pop("tensorflow")
    (found,) = problems()
    assert found[0] == "warning"
    assert "tensorflow[and-cuda]==2.21.0" in found[2]
    assert diagnose().healthy


def test_another_backend_of_keras_is_an_error(installed, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert "KERAS_BACKEND is 'jax'" in problems()[0][1]


def test_a_hub_cache_that_cleaners_delete_is_a_warning(installed, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", "/tmp/tfhub")
    assert problems()[0][0] == "warning"


def test_little_memory_is_a_warning(installed, monkeypatch):
    monkeypatch.setattr(machine, "memory", lambda: (4_000_000_000, 900_000_000))
    assert "0.9 GB of memory are free" in problems()[0][1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; run the tests as another user")
def test_a_cache_that_cannot_be_written_is_an_error(installed, monkeypatch, tmp_path):
    (tmp_path / "shut").mkdir(mode=0o555)
    monkeypatch.setenv("EMBEDSVC_CACHE", str(tmp_path / "shut" / "cache"))
    assert "cannot be written" in problems()[0][1]


def test_bytecode_that_is_not_compiled_is_a_warning(installed, monkeypatch, tmp_path):
    (tmp_path / "tensorflow").mkdir()
    monkeypatch.setattr(diagnosis, "_folder", lambda package: tmp_path / package)
    assert "bytecode" in problems()[0][1]
    (tmp_path / "tensorflow" / "__pycache__").mkdir()
    assert problems() == []


def test_imports_are_tried_in_processes_of_their_own(installed, monkeypatch, tmp_path):
    (tmp_path / "torn.py").write_text("raise ImportError('torn.so: undefined symbol')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(diagnosis, "_STACK", ("json", "no_such_module_anywhere", "torn"))
    found = diagnose(imports=True)
    assert list(found.imports) == ["json"], "what is not installed is no fault, and no time"
    assert [each.problem for each in found.findings] == ["importing torn fails: ImportError: torn.so: undefined symbol"]
    assert "torn" not in sys.modules


def test_the_command_exits_with_what_it_found(installed):
    done = CliRunner().invoke(cli, ["doctor", "--json"], standalone_mode=False)
    assert done.return_value == 0
    assert json.loads(done.stdout)["healthy"] is True
    installed["setuptools"] = "82.0.1"
    done = CliRunner().invoke(cli, ["doctor"], standalone_mode=False)
    assert done.return_value == 1
    assert "Error: setuptools 82.0.1" in done.stdout
    assert 'Run: pip install "setuptools<82"' in done.stdout
    assert json.loads(CliRunner().invoke(cli, ["doctor", "--json"], standalone_mode=False).stdout)["healthy"] is False
