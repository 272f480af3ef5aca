"""Presets of keras-hub: other families than BERT, backbones alone, and what is refused."""

import json
import shutil

import numpy as np
import pytest

from embedsvc.errors import (
    FetchError,
    MissingExtraError,
    ModelError,
    ModelFormatError,
    UnknownTapError,
    UnsafeModelError,
)
from embedsvc.models.base import LoadOptions, forward
from embedsvc.types import Pass, Text

pytestmark = pytest.mark.tensorflow

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "was", "good", "bad", "a"]
TEXTS = ["the film", "good film was", "a", "film the the film was bad and good"]
SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "dropout": 0.1}


def load(location, **options):
    from embedsvc.models.kerashub import load

    return load(str(location), LoadOptions(**options))


def run(encoder, tap):
    return forward(encoder, [Text(text, text) for text in TEXTS], taps=[tap], pass_=Pass()).vectors[tap]


def word_piece(family):
    from keras_hub import models

    backbone = getattr(models, f"{family}Backbone")(vocabulary_size=len(WORDS), max_sequence_length=16, **SIZES)
    return backbone, getattr(models, f"{family}Tokenizer")(vocabulary=WORDS, lowercase=True)


def distil_bert():
    from keras_hub import models

    backbone, tokenizer = word_piece("DistilBert")
    preprocessor = models.DistilBertTextClassifierPreprocessor(tokenizer, sequence_length=16)
    return models.DistilBertTextClassifier(backbone, num_classes=2, preprocessor=preprocessor)


def roberta():
    from keras_hub import models

    letters = {letter: 5 + at for at, letter in enumerate([*"abdefghilmostwnĠ", "th"])}
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<mask>": 3, "<unk>": 4} | letters
    preprocessor = models.RobertaTextClassifierPreprocessor(
        models.RobertaTokenizer(vocabulary=vocabulary, merges=["t h"]), sequence_length=48
    )
    backbone = models.RobertaBackbone(vocabulary_size=len(vocabulary), max_sequence_length=48, **SIZES)
    return models.RobertaTextClassifier(backbone, num_classes=2, preprocessor=preprocessor, dropout=0.2)


def roformer():
    from keras_hub import models

    backbone = models.RoformerV2Backbone(vocabulary_size=len(WORDS), head_size=4, **SIZES)
    preprocessor = models.RoformerV2TextClassifierPreprocessor(
        models.RoformerV2Tokenizer(vocabulary=WORDS, lowercase=True), sequence_length=16
    )
    return models.RoformerV2TextClassifier(backbone, num_classes=2, preprocessor=preprocessor, dropout=0.2)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A DistilBERT classifier's preset."""
    folder = tmp_path_factory.mktemp("preset") / "distil"
    distil_bert().save_to_preset(str(folder))
    return folder


@pytest.fixture
def copy(preset, tmp_path):
    return shutil.copytree(preset, tmp_path / "copy")


@pytest.mark.parametrize("family", [distil_bert, roberta, roformer])
def test_other_families_come_along(family, tmp_path):
    classifier = family()
    classifier.save_to_preset(str(tmp_path / "preset"))
    encoder = load(tmp_path / "preset")
    assert encoder.spec.sites[0].path == "output_dropout"
    assert encoder.spec.masks == "keyed"
    assert {"cls", "mean", "layer.0", "layer.1", "logits"} <= set(encoder.spec.taps)
    plain = np.asarray(classifier(classifier.preprocessor(TEXTS), training=False))
    np.testing.assert_allclose(run(encoder, "logits"), plain, atol=1e-4)


def test_mean_is_that_of_the_last_layer_and_cls_its_first_token(preset):
    import keras_hub

    classifier = keras_hub.models.TextClassifier.from_preset(str(preset))
    inputs = classifier.preprocessor(TEXTS)
    hidden, mask = np.asarray(classifier.backbone(inputs)), np.asarray(inputs["padding_mask"])[..., None]
    encoder = load(preset)
    np.testing.assert_allclose(run(encoder, "mean"), (hidden * mask).sum(1) / mask.sum(1), atol=1e-5)
    np.testing.assert_allclose(run(encoder, "layer.1"), run(encoder, "mean"), atol=1e-6)
    np.testing.assert_allclose(run(encoder, "cls"), hidden[:, 0], atol=1e-5)
    # DistilBERT's classifier has a ReLU before its dropout: that is no BERT pooler.
    assert "pooled_output" not in encoder.spec.taps


def test_a_bert_backbone_alone_has_no_logits(tmp_path):
    for part in word_piece("Bert"):
        part.save_to_preset(str(tmp_path / "backbone"))
    encoder = load(tmp_path / "backbone")
    assert encoder.head.rate == 0.1
    with pytest.raises(UnknownTapError, match="no trained head"):
        run(encoder, "logits")
    assert encoder.spec == load(tmp_path / "backbone").spec
    np.testing.assert_array_equal(run(encoder, "pooled_output"), run(encoder, "pre_dropout"))


def test_a_backbone_alone_whose_classifier_adds_layers_is_an_error(tmp_path):
    for part in word_piece("DistilBert"):
        part.save_to_preset(str(tmp_path / "backbone"))
    with pytest.raises(ModelError, match="untrained layers before its dropout"):
        load(tmp_path / "backbone")


def test_the_vocabulary_has_a_digest_of_its_own(preset, copy):
    before = load(preset).spec
    vocabulary = copy / "assets" / "tokenizer" / "vocabulary.txt"
    vocabulary.write_text(vocabulary.read_text().replace("bad", "sad"))
    after = load(copy).spec
    assert len(before.vocab_digest) == 64
    assert before.vocab_digest != after.vocab_digest
    assert before.digest != after.digest


def test_a_folder_that_is_no_preset_says_what_was_found(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelFormatError, match=r"no config\.json, found notes\.txt"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "task.json", "model.weights.h5", "task.weights.h5"])
def test_a_torn_preset_is_an_error(copy, name):
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFormatError, match="preset|copy"):
        load(copy)


def test_a_missing_file_is_an_error(copy):
    (copy / "model.weights.h5").unlink()
    with pytest.raises(ModelFormatError, match="cannot be loaded"):
        load(copy)


def test_a_class_of_another_package_is_refused(copy):
    config = json.loads((copy / "task.json").read_text())
    config["config"]["activation"] = {"module": "os", "class_name": "function", "config": "system"}
    (copy / "task.json").write_text(json.dumps(config))
    with pytest.raises(UnsafeModelError, match="os"):
        load(copy)


def test_weights_that_lie_in_another_file_are_refused(copy):
    import h5py

    with h5py.File(copy / "task.weights.h5", "a") as file:
        file["stolen"] = h5py.ExternalLink("/etc/passwd", "x")
    with pytest.raises(UnsafeModelError, match="passwd"):
        load(copy)


def test_a_handle_that_nobody_knows_is_an_error():
    with pytest.raises(FetchError, match="bert_that_never_was"):
        load("bert_that_never_was")


def test_without_keras_hub_the_error_names_the_extra(monkeypatch, preset):
    import sys

    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(MissingExtraError, match=r"embedsvc\[kerashub\]"):
        load(preset)
