import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.errors import ModelFormatError, SettingsError
from embedsvc.inspection import inspect
from embedsvc.models.base import Encoder, LoadOptions, forward
from embedsvc.models.huggingface import load
from embedsvc.models.load import load_model
from embedsvc.types import Mode, Pass, Text
from tests.models.tiny_bert import CONFIG, VOCABULARY, Draw, Tensors, make_tensors, reference, write_folder

pytestmark = pytest.mark.tensorflow

# Without any token, with one, at the limit of 8 beside [CLS] and [SEP], one over, far over, unknown words.
TEXTS = ["", "good", "the film was very very good ! !", "the film was very very good ! ! ?", "films " * 300, "日本 xyz"]
ROWS = [Text(f"id {at}", text) for at, text in enumerate(TEXTS)]
KEYS = masks.row_keys(row.id for row in ROWS)
TRAINING, HEAD = Pass(Mode.TRAINING, 3, 7), Pass(Mode.HEAD, 3, 7)
CLASSIFIER = CONFIG | {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "bad", "1": "good"}}


def ids_of(text: str) -> list[int]:
    """What WordPiece makes of the words above, cut to the limit."""
    number = {word: at for at, word in enumerate(VOCABULARY)}
    words = text.replace("films", "film ##s").replace("日本", "日 本").split()
    return [2, *(number.get(word, 1) for word in words)][:9] + [3]


IDS = [ids_of(text) for text in TEXTS]


def vectors(encoder: Encoder, *taps: str, pass_: Pass | None = None) -> dict[str, NDArray[np.float32]]:
    return dict(forward(encoder, ROWS, taps=taps, pass_=pass_).vectors)


def expected(
    tensors: Tensors, config: dict[str, Any], encoder: Encoder | None = None
) -> dict[str, NDArray[np.float64]]:
    """The reference in inference mode, or with an encoder's sites in TRAINING."""
    return reference(tensors, config, IDS, encoder and Draw(KEYS, TRAINING, encoder.spec.sites))


def write_bert(folder: Path, changes: dict[str, Any] | None = None, **options: Any) -> Path:
    """A tiny model; `changes` are made to its config.json only."""
    return write_folder(folder, make_tensors(**options), CONFIG | (changes or {}))


def write_classifier(folder: Path, changes: dict[str, Any] | None = None, n_classes: int = 2) -> Path:
    return write_folder(folder, make_tensors(n_classes=n_classes), CLASSIFIER | (changes or {}))


def rewrite(folder: Path, change: dict[str, NDArray[Any] | None], n_classes: int | None = None) -> Path:
    """A tiny model with tensors replaced, or taken out by None."""
    tensors = make_tensors(n_classes=n_classes) | change
    kept = {name: value for name, value in tensors.items() if value is not None}
    return write_folder(folder, kept, CONFIG if n_classes is None else CLASSIFIER)


# --- BertModel ---


def test_every_tap_of_a_bert_model_is_that_of_the_reference(tmp_path):
    encoder = load_model(f"hf:{write_bert(tmp_path)}")
    ours = vectors(encoder, "pre_dropout", "pooled_output", "cls", "mean", "layer.0", "layer.1")
    theirs = expected(make_tensors(), CONFIG)
    for tap, value in ours.items():
        np.testing.assert_allclose(
            value, theirs["pooled_output" if tap == "pre_dropout" else tap], atol=1e-5, err_msg=tap
        )


def test_texts_are_cut_at_the_limit_and_flagged(tmp_path):
    result = forward(load_model(str(write_bert(tmp_path))), ROWS, taps=["cls"])
    assert result.n_tokens.tolist() == [2, 3, 10, 10, 10, 5]
    assert result.truncated.tolist() == [False, False, False, True, True, False]


def test_a_training_pass_is_the_reference_under_the_keyed_masks(tmp_path):
    encoder = load_model(str(write_bert(tmp_path)))
    pre, post = vectors(encoder, "pre_dropout", "post_dropout", pass_=TRAINING).values()
    np.testing.assert_allclose(pre, expected(make_tensors(), CONFIG, encoder)["pooled_output"], atol=1e-5)
    kept = masks.keep(KEYS, seed=7, passes=[3], site=0, units=24, rate=0.2)[0]
    np.testing.assert_array_equal(post, pre * kept * np.float32(1 / 0.8))


def test_the_spec_says_what_the_model_is(tmp_path):
    spec = load_model(f"hf:{write_bert(tmp_path)}").spec
    assert spec.uri == f"hf:{tmp_path}"
    assert dict(spec.taps) == dict.fromkeys(
        ["pre_dropout", "post_dropout", "pooled_output", "cls", "mean", "layer.0", "layer.1"], 24
    )
    assert (spec.max_tokens, spec.special_tokens, spec.masks) == (10, 2, "keyed")
    assert [(site.rate, site.kind) for site in spec.sites] == [
        (0.2, "unit"),
        (0.2, "unit"),
        *[(0.3, "attention"), (0.2, "unit"), (0.2, "unit")] * 2,
    ]
    assert len(spec.digest) == len(spec.vocab_digest) == 64
    assert spec.notes == ("The model has no trained classifier behind its dropout, so there are no logits.",)


def test_an_untrained_pooler_is_said_to_be_one(tmp_path):
    folder = rewrite(tmp_path, {"pooler.dense.bias": np.zeros(24, dtype=np.float32)})
    (note,) = load_model(str(folder)).spec.notes
    assert "untrained" in note
    assert "'mean'" in note


def test_a_sentence_transformer_without_pooler_has_its_head_on_cls(tmp_path):
    encoder = load_model(str(write_bert(tmp_path, pooler=False)))
    assert "pooled_output" not in encoder.spec.taps
    assert "logits" not in encoder.spec.taps
    assert "no pooler" in encoder.spec.notes[0]
    pre, cls = vectors(encoder, "pre_dropout", "cls", pass_=TRAINING).values()
    np.testing.assert_array_equal(pre, cls)
    theirs = expected(make_tensors(pooler=False), CONFIG, encoder)
    np.testing.assert_allclose(pre, theirs["cls"], atol=1e-5)


# --- BertForSequenceClassification ---


@pytest.mark.parametrize("n_classes", [1, 2, 5])
def test_logits_of_a_classifier_are_those_of_the_reference(tmp_path, n_classes):
    tensors = make_tensors(n_classes=n_classes)
    encoder = load_model(str(write_classifier(tmp_path, n_classes=n_classes)))
    assert encoder.spec.taps["logits"] == n_classes
    assert encoder.spec.notes == ()
    for pass_ in (Pass(), TRAINING, HEAD):
        pre, post, logits = vectors(encoder, "pre_dropout", "post_dropout", "logits", pass_=pass_).values()
        theirs = expected(tensors, CONFIG, encoder if pass_ is TRAINING else None)["pooled_output"]
        np.testing.assert_allclose(pre, theirs, atol=1e-5)
        if pass_.mode is not Mode.INFERENCE:
            theirs = theirs * (masks.keep(KEYS, seed=7, passes=[3], site=0, units=24, rate=0.2)[0] / 0.8)
        np.testing.assert_allclose(post, theirs, atol=1e-5)
        theirs = theirs @ tensors["classifier.weight"].T + tensors["classifier.bias"]
        np.testing.assert_allclose(logits, theirs, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({"classifier_dropout": None}, 0.2),
        ({"classifier_dropout": 0.4}, 0.4),
        ({"classifier_dropout": 0}, 0.0),
        ({"classifier_dropout": None, "hidden_dropout_prob": 0.0}, 0.0),
    ],
)
def test_the_head_has_transformers_rate(tmp_path, changes, rate):
    """classifier_dropout, and where it is null the hidden rate."""
    folder = write_classifier(tmp_path, changes)
    encoder = load_model(str(folder))
    assert encoder.head.rate == encoder.spec.sites[0].rate == rate
    chosen = load_model(str(folder), rate=0.7)
    assert chosen.head.rate == chosen.spec.sites[0].rate == 0.7
    assert [site.rate for site in chosen.spec.sites[1:]] == [site.rate for site in encoder.spec.sites[1:]]


def test_a_config_without_the_newer_keys_has_their_defaults(tmp_path):
    old = ("classifier_dropout", "layer_norm_eps", "hidden_act", "type_vocab_size")
    config = {key: value for key, value in CLASSIFIER.items() if key not in old}
    encoder = load_model(str(write_folder(tmp_path, make_tensors(n_classes=2), config)))
    assert encoder.head.rate == 0.2
    theirs = expected(make_tensors(n_classes=2), CONFIG)["mean"]
    np.testing.assert_allclose(vectors(encoder, "mean")["mean"], theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ({"0": "bad", "1": "good"}, ("bad", "good")),
        ({"1": "good", "0": "bad"}, ("bad", "good")),
        ({str(n): f"c{n}" for n in reversed(range(11))}, tuple(f"c{n}" for n in range(11))),
        # What transformers writes if nobody named them for a head of another width, or what nobody can read.
        ({"0": "a", "1": "b", "2": "c"}, ()),
        ({"x": "a", "y": "b"}, ()),
        (["bad", "good"], ()),
        (None, ()),
    ],
)
def test_classes_have_the_names_of_the_config(tmp_path, names, classes):
    folder = write_classifier(tmp_path, {"id2label": names}, n_classes=len(classes) or 2)
    assert load_model(str(folder)).head.classes == classes


def test_a_classifier_without_bias_is_one(tmp_path):
    encoder = load_model(str(rewrite(tmp_path, {"classifier.bias": None}, n_classes=2)))
    post, logits = vectors(encoder, "post_dropout", "logits").values()
    np.testing.assert_allclose(logits, post @ make_tensors(n_classes=2)["classifier.weight"].T, atol=1e-5)


def test_a_classifier_of_tokens_offers_no_logits(tmp_path):
    """BertForTokenClassification: a classifier, but no pooler."""
    no_pooler = {f"bert.pooler.dense.{part}": None for part in ("weight", "bias")}
    encoder = load_model(str(rewrite(tmp_path, no_pooler, n_classes=2)))
    assert encoder.head.kernel is None
    assert "logits" not in encoder.spec.taps
    assert "labels tokens" in encoder.spec.notes[0]


def test_a_model_that_reads_fewer_tokens_than_it_is_watched_with_is_inspected(tmp_path):
    found = inspect(load_model(str(write_classifier(tmp_path))))
    assert found.spec.max_tokens == 10
    assert found.family == "BERT"
    assert all(site.seen for site in found.sites)


# --- files in other clothes ---


def test_a_named_model_keeps_its_name(tmp_path):
    assert load(str(write_bert(tmp_path)), LoadOptions(name="minilm-l6")).spec.uri == "minilm-l6"


def test_the_digest_is_of_the_content_and_not_of_the_place(tmp_path):
    one, two, other, half = (
        load_model(str(folder)).spec.digest
        for folder in (
            write_bert(tmp_path / "a"),
            write_bert(tmp_path / "b"),
            write_bert(tmp_path / "c", seed=1),
            write_bert(tmp_path / "d", {"classifier_dropout": 0.5}),
        )
    )
    assert one == two
    assert len({one, other, half}) == 3


def test_float16_is_widened_exactly(tmp_path):
    tensors = {name: value.astype(np.float16) for name, value in make_tensors().items()}
    encoder = load_model(str(write_folder(tmp_path, tensors)))
    theirs = expected(tensors, CONFIG)["mean"]
    np.testing.assert_allclose(vectors(encoder, "mean")["mean"], theirs, atol=1e-5)


def test_bfloat16_is_widened_exactly(tmp_path):
    # The upper half of a float32, written without a library that would have to know the type.
    upper = {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in make_tensors().items()}
    path = write_folder(tmp_path, upper) / "model.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end].replace(b'"U16"', b'"BF16"')
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    cut = {name: (value.astype(np.uint32) << 16).view(np.float32) for name, value in upper.items()}
    np.testing.assert_allclose(
        vectors(load_model(str(tmp_path)), "mean")["mean"], expected(cut, CONFIG)["mean"], atol=1e-5
    )


def test_norms_under_their_tensorflow_names_are_found(tmp_path):
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in make_tensors().items()
    }
    encoder = load_model(str(write_folder(tmp_path, renamed)))
    assert encoder.spec.digest == load_model(str(write_bert(tmp_path / "b"))).spec.digest


def test_tensors_that_are_not_ours_are_ignored(tmp_path):
    more = {
        "embeddings.position_ids": np.arange(10)[None],
        "cls.predictions.bias": np.ones(3, dtype=np.float32),
        "cls.seq_relationship.weight": np.ones((2, 24), dtype=np.float32),
    }
    encoder = load_model(str(rewrite(tmp_path, more)))
    assert encoder.spec.digest == load_model(str(write_bert(tmp_path / "b"))).spec.digest


def test_pickles_beside_safetensors_are_left_alone(tmp_path):
    folder = write_bert(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"would run code")
    assert load_model(str(folder)).spec.uri == f"hf:{folder}"


def test_code_of_the_model_is_mentioned_and_not_run(tmp_path):
    folder = write_bert(tmp_path, {"auto_map": {"AutoModel": "modeling.Evil"}})
    (folder / "modeling.py").write_text("raise SystemExit('was run')")
    assert any("never run" in note for note in load_model(str(folder)).spec.notes)


# --- what is refused, and how it is said ---


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.position_embeddings.weight",
        "embeddings.LayerNorm.bias",
        "encoder.layer.1.attention.self.key.bias",
        "encoder.layer.0.attention.output.LayerNorm.weight",
        "encoder.layer.1.output.dense.weight",
        "pooler.dense.bias",
    ],
)
def test_a_missing_tensor_is_named(tmp_path, name):
    with pytest.raises(ModelFormatError, match=f"model.safetensors has no tensor '{name}'\nIs the download whole"):
        load_model(str(rewrite(tmp_path, {name: None})))


def test_a_missing_tensor_of_a_classifier_is_named_with_its_prefix(tmp_path):
    with pytest.raises(ModelFormatError, match="no tensor 'bert.encoder.layer.1.output.dense.bias'"):
        load_model(str(rewrite(tmp_path, {"bert.encoder.layer.1.output.dense.bias": None}, n_classes=2)))


@pytest.mark.parametrize(
    ("name", "shape", "implied"),
    [
        ("embeddings.word_embeddings.weight", (22, 25), "(None, 24)"),
        ("embeddings.position_embeddings.weight", (11, 24), "(10, 24)"),
        ("encoder.layer.0.intermediate.dense.weight", (24, 40), "(40, 24)"),
        ("encoder.layer.1.output.LayerNorm.weight", (24, 1), "(24,)"),
        ("encoder.layer.1.attention.self.query.bias", (), "(24,)"),
        ("pooler.dense.weight", (24, 12), "(24, 24)"),
    ],
)
def test_a_tensor_of_another_shape_is_named_with_both(tmp_path, name, shape, implied):
    with pytest.raises(ModelFormatError) as caught:
        load_model(str(rewrite(tmp_path, {name: np.ones(shape, dtype=np.float32)})))
    assert f"{name} has shape {shape}, config.json implies {implied}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("classifier.weight", (2, 12), r"classifier.weight has shape \(2, 12\), config.json implies \(classes, 24\)"),
        ("classifier.weight", (24,), r"classifier.weight has shape \(24,\), config.json implies \(classes, 24\)"),
        ("classifier.bias", (3,), r"classifier.bias has shape \(3,\), expected \(2,\)"),
    ],
)
def test_a_classifier_of_another_shape_is_refused(tmp_path, name, shape, message):
    with pytest.raises(ModelFormatError, match=message):
        load_model(str(rewrite(tmp_path, {name: np.ones(shape, dtype=np.float32)}, n_classes=2)))


def test_a_torn_file_is_noticed(tmp_path):
    path = write_bert(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ModelFormatError, match=r"model\.safetensors is torn"):
        load_model(str(tmp_path))


def test_pickled_weights_alone_are_refused(tmp_path):
    folder = write_bert(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFormatError, match=r"only as pickles.*pytorch_model\.bin\nConvert them"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "model_type 'roberta', expected 'bert' or 'distilbert'"),
        ({"model_type": None}, "model_type None, expected 'bert' or 'distilbert'"),
        ({"hidden_act": "swish"}, "unknown hidden_act 'swish'\nKnown: gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key', only 'absolute'"),
        ({"is_decoder": True}, "is_decoder True, only False is supported"),
        ({"add_cross_attention": True}, "add_cross_attention True"),
        ({"hidden_size": "wide"}, "config.json lacks or garbles"),
        ({"num_attention_heads": 5}, "width 24 cannot be split into 5 heads"),
        ({"num_attention_heads": 0}, "width 24 cannot be split into 0 heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0, expected at least 1"),
        ({"num_hidden_layers": 3}, "no tensor 'encoder.layer.2.attention.self.query.weight'"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob 1.5, expected a rate from 0 to below 1"),
        ({"attention_probs_dropout_prob": -0.1}, "attention_probs_dropout_prob -0.1, expected a rate"),
        ({"classifier_dropout": 1.0}, "classifier_dropout 1.0, expected a rate"),
        ({"classifier_dropout": "much"}, "classifier_dropout 'much', expected a rate"),
    ],
)
def test_a_config_of_another_model_is_refused(tmp_path, changes, message):
    with pytest.raises(ModelFormatError, match=message):
        load_model(str(write_bert(tmp_path, changes)))


def test_a_config_that_lacks_a_size_names_it(tmp_path):
    config = {key: value for key, value in CONFIG.items() if key != "intermediate_size"}
    with pytest.raises(ModelFormatError, match="config.json lacks or garbles 'intermediate_size'"):
        load_model(str(write_folder(tmp_path, make_tensors(), config)))


def test_a_rate_out_of_range_is_the_callers_mistake(tmp_path):
    with pytest.raises(SettingsError, match="the dropout rate is 1.5"):
        load_model(str(write_bert(tmp_path)), rate=1.5)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_torn_config_is_noticed(tmp_path, content):
    folder = write_bert(tmp_path)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"config\.json"):
        load_model(str(folder))


def test_a_vocabulary_of_another_model_is_refused(tmp_path):
    folder = write_folder(tmp_path, make_tensors(), CONFIG, [*VOCABULARY, "more"])
    with pytest.raises(
        ModelFormatError, match="ids up to 22, but there are 22 word embeddings\nThe vocabulary belongs"
    ):
        load_model(str(folder))


def test_a_vocabulary_smaller_than_the_embeddings_is_theirs(tmp_path):
    """Embeddings are often padded to a round number."""
    folder = write_folder(tmp_path, make_tensors(), CONFIG, VOCABULARY[:-1])
    assert vectors(load_model(str(folder)), "cls")["cls"].shape == (len(TEXTS), 24)


@pytest.mark.parametrize("missing", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_missing_file_is_an_error_that_names_it(tmp_path, missing):
    folder = write_bert(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(ModelFormatError, match=missing.replace(".", r"\.")):
        load_model(f"hf:{folder}")


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ModelFormatError, match="is no folder"):
        load_model(f"hf:{tmp_path / 'nowhere'}")


# --- the real model, against transformers ---


@pytest.mark.real
def test_the_real_model_gives_the_vectors_of_transformers(minilm):
    golden = json.loads((Path(__file__).parents[1] / "golden/minilm.json").read_text(encoding="utf-8"))["rows"]
    texts = [Text(f"row {at}", row["text"]) for at, row in enumerate(golden)]
    taps = list(golden[0]["vectors"])
    assert set(taps) == {"pooled_output", "cls", "mean", *(f"layer.{k}" for k in range(6))}
    result = forward(minilm, texts, taps=taps)
    for at, row in enumerate(golden):
        assert result.n_tokens[at] == len(row["ids"])
        for tap in taps:
            np.testing.assert_allclose(
                result.vectors[tap][at, :24], row["vectors"][tap], atol=1e-5, err_msg=f"{tap} of {row['text'][:60]!r}"
            )
    assert result.truncated.tolist() == [len(row["ids"]) == 512 for row in golden]


@pytest.mark.real
def test_the_real_model_says_that_its_head_is_untrained(minilm):
    assert minilm.spec.uri == "minilm-l6"
    assert minilm.spec.max_tokens == 512
    assert minilm.head.rate == 0.1
    assert "logits" not in minilm.spec.taps
    assert "untrained" in minilm.spec.notes[0]


def test_weights_in_shards_give_the_vectors_of_one_file(tmp_path):
    from safetensors.numpy import load_file, save_file

    tensors = make_tensors(CONFIG, seed=1)
    write_folder(tmp_path / "whole", tensors, CONFIG)
    write_folder(tmp_path / "sharded", tensors, CONFIG)
    whole = tmp_path / "sharded" / "model.safetensors"
    stored = load_file(whole)
    whole.unlink()
    shards = {name: f"model-0000{1 + at % 2}-of-00002.safetensors" for at, name in enumerate(stored)}
    for shard in set(shards.values()):
        part = {name: value for name, value in stored.items() if shards[name] == shard}
        save_file(part, tmp_path / "sharded" / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": shards}
    (tmp_path / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))
    one, many = (load_model(f"hf:{tmp_path / name}") for name in ("whole", "sharded"))
    np.testing.assert_array_equal(vectors(one, "mean")["mean"], vectors(many, "mean")["mean"])
