"""Engines and precisions: chosen as documented, and as near to the reference as stated."""

import resource
import subprocess
import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from embedsvc import masks
from embedsvc.errors import MissingExtraError, SettingsError
from embedsvc.models import engines
from embedsvc.models.bert import BertRunner
from embedsvc.models.engines import Precision
from embedsvc.models.families import FAMILIES
from embedsvc.models.huggingface import read_config, read_weights
from embedsvc.types import Mode, Pass
from tests.models.tiny_bert import CONFIG, Draw, make_tensors, reference

needs_openvino = pytest.mark.skipif(
    util.find_spec("openvino") is None, reason="openvino is not installed: pip install 'embedsvc[openvino]'"
)
RNG = np.random.default_rng(1)
ROWS = [[2, *RNG.integers(5, 22, n), 3] for n in (0, 1, 8, 3, 5, 8, 0)]  # empty, one token, at the limit of 10
IDS = [np.array(row, dtype=np.int32) for row in ROWS]
KEYS = masks.row_keys(f"row {row}" for row in range(len(ROWS)))
TENSORS = make_tensors(pooler=True)
TAPS = ("pooled_output", "cls", "mean", "layer.0", "layer.1")


def make(precision: Precision, engine: str = "openvino", config: dict = CONFIG, tensors: dict = TENSORS) -> BertRunner:
    family, folder = FAMILIES["bert"], Path("folder")
    read = read_config(config, family, folder)
    return BertRunner(read, read_weights(tensors, read, family, folder), engine=engine, precision=precision)


@needs_openvino
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.1), ("int8", 0.1)])
@pytest.mark.parametrize("pass_", [Pass(), Pass(Mode.TRAINING, 3, 7)], ids=["inference", "training"])
def test_openvino_is_as_near_to_the_reference_as_stated(precision, tolerance, pass_):
    try:
        runner = make(Precision(precision))
    except SettingsError as error:
        pytest.skip(error.problem)
    drawn = Draw(KEYS, pass_, runner.config.sites(0.5)) if pass_.mode is Mode.TRAINING else None
    expected = reference(TENSORS, CONFIG, ROWS, drawn) if drawn else reference(TENSORS, CONFIG, ROWS)
    ours = runner.run(IDS, keys=KEYS, taps=TAPS, pass_=pass_)
    for tap in TAPS:
        np.testing.assert_allclose(ours[tap], expected[tap], atol=tolerance, err_msg=tap)
    alone = [runner.run([IDS[row]], keys=KEYS[row : row + 1], taps=TAPS, pass_=pass_) for row in range(len(IDS))]
    for tap in TAPS:
        np.testing.assert_allclose(np.concatenate([one[tap] for one in alone]), ours[tap], atol=tolerance)


@pytest.mark.parametrize(
    "engine", [pytest.param("openvino", marks=needs_openvino), pytest.param("tensorflow", marks=pytest.mark.tensorflow)]
)
@pytest.mark.parametrize("pass_", [Pass(), Pass(Mode.TRAINING, 3, 7)], ids=["inference", "training"])
def test_the_last_layer_of_cls_alone_is_that_of_the_reference(engine, pass_):
    runner = make(Precision.FLOAT32, engine)
    drawn = Draw(KEYS, pass_, runner.config.sites(0.5)) if pass_.mode is Mode.TRAINING else None
    expected = reference(TENSORS, CONFIG, ROWS, drawn) if drawn else reference(TENSORS, CONFIG, ROWS)
    taps = ("cls", "pooled_output")
    for tap, vectors in runner.run(IDS, keys=KEYS, taps=taps, pass_=pass_).items():
        np.testing.assert_allclose(vectors, expected[tap], atol=1e-5, err_msg=tap)


@needs_openvino
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_shapes_that_never_come_again_are_not_kept_for_ever():
    """200 lengths more took 490 MB where every kernel was kept, and take 80."""

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    config = CONFIG | {"max_position_embeddings": 512}
    runner = make(Precision.FLOAT32, config=config, tensors=make_tensors(config))

    def run(lengths) -> None:
        for length in lengths:
            runner.run([np.full(length, 7, np.int32)], keys=KEYS[:1], taps=["pooled_output"], pass_=Pass())

    run([510, *range(100, 300)])
    before = resident()
    run(range(300, 500))
    assert resident() - before < 200


def test_a_reduced_precision_is_refused_by_tensorflow():
    with pytest.raises(SettingsError, match="computes in float32"):
        engines.choose("tensorflow", Precision.INT8)


def test_unknown_engines_and_precisions_are_errors_that_list_the_known():
    with pytest.raises(SettingsError, match="openvino, tensorflow"):
        engines.choose("opnvino")
    with pytest.raises(SettingsError, match="bfloat16"):
        Precision("half")


def test_openvino_is_taken_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(engines.util, "find_spec", lambda name: None)
    assert engines.choose() == "tensorflow"
    with pytest.raises(MissingExtraError):
        engines.choose("openvino")
    monkeypatch.setattr(engines.util, "find_spec", lambda name: name)
    assert engines.choose() == "openvino"


@needs_openvino
def test_openvino_is_imported_without_its_telemetry(tmp_path):
    code = (
        "import sys; from embedsvc.models.quiet import import_openvino; import_openvino(); "
        "print('openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}, capture_output=True
    )
    assert done.stdout.strip() == b"False", done.stderr
    assert not list(tmp_path.iterdir()), "its telemetry would have left an identifier in the home folder"
