"""Every family gives what transformers gives (tests/golden/make_families.py), on every engine."""

import json
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedsvc.errors import ModelFormatError
from embedsvc.models.base import Encoder, forward
from embedsvc.models.families import FAMILIES
from embedsvc.models.load import load_model
from embedsvc.types import Mode, Pass, Text
from tests.models.tiny_families import TINY

pytestmark = pytest.mark.tensorflow

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/families.json").read_text(encoding="utf-8"))
ENGINES = ["tensorflow", *(["openvino"] if util.find_spec("openvino") else [])]


@pytest.fixture(scope="module", params=TINY)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY[family].write(tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module", params=ENGINES)
def encoder(request: pytest.FixtureRequest, folder: Path) -> Encoder:
    return load_model(str(folder), engine=request.param)


def run(encoder: Encoder, rows: list[dict[str, Any]], pass_: Pass) -> Any:
    texts = [Text(f"row {at}", row["text"]) for at, row in enumerate(rows)]
    return forward(encoder, texts, taps=tuple(rows[0]["inference"]), pass_=pass_)


def test_every_family_but_bert_has_its_golden_vectors():
    assert {*TINY, "bert"} == set(FAMILIES)
    assert set(TINY) <= set(GOLDEN)


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_every_tap_is_that_of_transformers(family, encoder, mode):
    """In training under the same masks: so each dropout is where transformers has it, and has its rate."""
    golden = GOLDEN[family]
    result = run(encoder, golden["rows"], Pass() if mode == "inference" else Pass(mode, golden["pass"], golden["seed"]))
    assert set(encoder.spec.taps) == set(golden["rows"][0][mode])
    for at, row in enumerate(golden["rows"]):
        for tap, vector in row[mode].items():
            # The head's post_dropout and logits are larger by its 1 / (1 - rate).
            np.testing.assert_allclose(result.vectors[tap][at], vector, atol=2e-5, err_msg=f"{tap} of {row['text']!r}")


def test_tokens_are_those_of_transformers(family, encoder):
    rows = GOLDEN[family]["rows"]
    ids = encoder.tokenize([row["text"] for row in rows]).ids
    room = encoder.spec.max_tokens - 2
    for row, found in zip(rows, ids, strict=True):
        assert found[:room].tolist() == row["ids"][1:-1], row["text"]
    result = run(encoder, rows, Pass())
    assert result.n_tokens.tolist() == [len(row["ids"]) for row in rows]
    assert result.truncated.tolist() == [len(row["ids"]) == encoder.spec.max_tokens for row in rows]


def test_the_spec_lists_the_dropouts_of_transformers(family, encoder):
    head, *sites = encoder.spec.sites
    assert [*(site.rate for site in sites), head.rate] == GOLDEN[family]["rates"]
    assert {site.kind for site in sites} == {"unit", "attention"}
    assert head.modes == (Mode.TRAINING, Mode.HEAD)


def test_a_classifier_has_its_classes_and_the_loss_of_transformers(family, encoder):
    assert encoder.family == FAMILIES[family].name
    assert encoder.head.classes == ("bad", "fair", "good")
    assert (encoder.ending.activation, encoder.ending.loss) == ("linear", "CrossEntropy")
    assert encoder.spec.notes == ()


def test_the_digests_of_families_differ(tmp_path):
    digests = {load_model(str(tiny.write(tmp_path / name))).spec.digest for name, tiny in TINY.items()}
    assert len(digests) == len(TINY)


# --- DistilBERT ---


def write_without(folder: Path, *pieces: str, prefix: str = "distilbert.") -> Path:
    """A DistilBERT whose tensors with these pieces in their names are gone, and the prefix with them."""
    from tests.models.tiny_bert import write_folder

    tiny = TINY["distilbert"]
    kept = {name: value for name, value in tiny.tensors().items() if not any(piece in name for piece in pieces)}
    return write_folder(folder, {name.removeprefix(prefix): kept[name] for name in kept}, dict(tiny.config))


def test_a_bare_distilbert_has_its_head_on_cls(tmp_path):
    encoder = load_model(str(write_without(tmp_path, "classifier")))
    assert not {"pooled_output", "logits"} & set(encoder.spec.taps)
    assert "no pooler" in encoder.spec.notes[0]
    assert encoder.head.rate == 0.4
    rows = GOLDEN["distilbert"]["rows"]
    texts = [Text(f"row {at}", row["text"]) for at, row in enumerate(rows)]
    ours = forward(encoder, texts, taps=["pre_dropout"]).vectors["pre_dropout"]
    np.testing.assert_allclose(ours, [row["inference"]["cls"] for row in rows], atol=2e-5)


def test_a_distilbert_that_labels_tokens_offers_no_logits(tmp_path):
    encoder = load_model(str(write_without(tmp_path, "pre_classifier", prefix="")))
    assert "logits" not in encoder.spec.taps
    assert "labels tokens" in encoder.spec.notes[0]


def test_a_distilbert_without_a_rate_has_that_of_transformers(tmp_path):
    assert load_model(str(TINY["distilbert"].write(tmp_path, {"seq_classif_dropout": None}))).head.rate == 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "swish"}, "unknown activation 'swish'\nKnown: gelu"),
        ({"dim": 25}, "width 25 cannot be split into 3 heads"),
        ({"n_layers": 0}, "n_layers 0, expected at least 1"),
        ({"n_layers": 3}, "no tensor 'distilbert.transformer.layer.2.attention.q_lin.weight'"),
        ({"hidden_dim": None}, "config.json lacks or garbles"),
        ({"attention_dropout": 1.5}, "attention_dropout 1.5, expected a rate"),
        ({"seq_classif_dropout": -1}, "seq_classif_dropout -1, expected a rate"),
    ],
)
def test_what_a_config_garbles_is_named_as_the_family_names_it(tmp_path, changes, message):
    with pytest.raises(ModelFormatError, match=message):
        load_model(str(TINY["distilbert"].write(tmp_path, changes)))


def test_a_missing_tensor_is_named_as_the_family_names_it(tmp_path):
    with pytest.raises(ModelFormatError, match="no tensor 'distilbert.transformer.layer.1.ffn.lin2.bias'"):
        load_model(str(write_without(tmp_path, "layer.1.ffn.lin2.bias", prefix="")))
