"""A command that runs no model loads no TensorFlow (nor Keras, nor torch), not even through UMAP's optional import."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from embedsvc.models.fake import FakeEncoder
from embedsvc.types import Text
from tests.sets import MANIFEST, honest_blocks, write

# Python imports it as it starts, in processes that a command starts as well; what they hold is written as they end.
WITNESS = """
import atexit, os, sys

def tell():
    roots = {name.partition(".")[0] for name, module in list(sys.modules.items()) if module is not None}
    with open(os.environ["EMBEDSVC_TEST_WITNESS"], "a") as out:
        print(*sorted(roots & {"click", "tensorflow", "keras", "tf_keras", "torch"}), file=out)

atexit.register(tell)
"""

COMMANDS = {
    "show": "show {set}",
    "compare": "compare {set} --permutations 20 --bootstrap 20",
    "compare two sets": "compare {set} {set} --permutations 20 --bootstrap 20 --scores {folder}/scores.parquet",
    "cluster": "cluster {set} -k 3 --resamples 2 --passes 2",
    "cluster by hdbscan": "cluster {set} --method hdbscan --resamples 2 --passes 2",
    "project by pca": "project {set} --method pca -o {folder}/map.parquet",
    "project by umap": "project {set} --method umap",
    "project by aligned-umap": "project {set} --method aligned-umap",
    "stability": "stability {set} --passes 8",
    "probe": "probe {set}",
    "neighbors": "neighbors {set} --id reviews.txt:1 -k 3",
    "report": "report {set} --passes 4 --map-method pca -q -o {folder}/r.html --also markdown,json",
    "report of two sets": "report {set} {set} --passes 4 --map-method pca -q -o {folder}/r.html --also png",
    "report with umap": "report {set} --passes 4 -q -o {folder}/r.html",
    "export to tensorboard": "export {set} --to tensorboard -o {folder}/projector",
    "export to faiss": "export {set} --to faiss -o {folder}/faiss",
    "export to embedding-atlas": "export {set} --to embedding-atlas -o {folder}/atlas.parquet",
    "export to npz": "export {set} --to npz -o {folder}/set.npz",
    "run --dry-run": "run {folder}/job.toml --dry-run",
    "jobs": "jobs",
    "models": "models",
    "doctor": "doctor",
    "train --help": "train --help",
}
NUMBA = {name for name in COMMANDS if "umap" in name or "atlas" in name}  # compiles for many seconds in each process
SLOW = NUMBA | {name for name in COMMANDS if "two sets" in name or "hdbscan" in name}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of a model that is nowhere to be found, so that a command which loaded it would fail."""
    encoder = FakeEncoder(width=16, n_classes=3, max_tokens=8)
    manifest = replace(MANIFEST, model=replace(encoder.spec, uri="savedmodel:/nowhere"), rows_per_part=60)
    blocks = honest_blocks(60, manifest)
    texts = [Text(text.id, text.text, ("joy", "anger")[row % 2]) for row, text in enumerate(blocks[0].texts)]
    path = tmp_path_factory.mktemp("light") / "set"
    write(path, [replace(blocks[0], texts=tuple(texts))], manifest)
    return path


def heavy_of(command: list[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What came out of a command, and what each of its processes had loaded when it ended."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(WITNESS)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder / "site"), *sys.path]),
        "EMBEDSVC_TEST_WITNESS": str(folder / "witness"),
        "EMBEDSVC_STATE": str(folder / "state"),
    }
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", timeout=240, check=False, env=environment, cwd=folder
    )
    return done, (folder / "witness").read_text().splitlines()


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in COMMANDS])
def test_a_command_that_runs_no_model_loads_no_tensorflow(made, tmp_path, name):
    (tmp_path / "texts.txt").write_text("good morning\n")
    (tmp_path / "job.toml").write_text(f'[extract]\nsources = ["{tmp_path}/texts.txt"]\nmodel = "fake:"\n')
    arguments = [each.format(set=made, folder=tmp_path) for each in COMMANDS[name].split()]
    done, loaded = heavy_of([sys.executable, "-m", "embedsvc", *arguments], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "click" in loaded[-1].split(), "the command itself is among what was watched"
    assert {each for line in loaded for each in line.split()} == {"click"}


def test_the_witness_sees_what_a_command_or_a_process_of_it_loads(tmp_path):
    (tmp_path / "keras.py").touch()
    code = textwrap.dedent(
        """
        import subprocess, sys
        if len(sys.argv) == 1:
            subprocess.run([sys.executable, __file__, "child"], check=True)
        else:
            import keras
        """
    )
    (tmp_path / "main.py").write_text(code)
    _, loaded = heavy_of([sys.executable, str(tmp_path / "main.py")], tmp_path)
    assert loaded == ["keras", ""]
