import hashlib
import subprocess
import sys

import numpy as np
import pytest

from embedsvc import masks
from embedsvc.errors import ModelFormatError, SettingsError
from embedsvc.models.base import forward
from embedsvc.models.fake import FakeEncoder
from embedsvc.models.load import load_model
from embedsvc.types import Mode, Pass, Text

TEXTS = [Text("a", "good morning"), Text("b", ""), Text("c", "a b c d"), Text("\ud800", "lone \ud800 surrogate")]
TRAINING = Pass(Mode.TRAINING, 0, 7)


def test_pre_dropout_is_stochastic_in_training_and_only_there():
    """The fake is honest: it has an inner dropout, as BERT has."""
    encoder = FakeEncoder()
    still, again, head, training, other = (
        forward(encoder, TEXTS, taps=["pre_dropout"], pass_=pass_).vectors["pre_dropout"]
        for pass_ in (Pass(), Pass(), Pass(Mode.HEAD, 0, 7), TRAINING, Pass(Mode.TRAINING, 1, 7))
    )
    assert still.tobytes() == again.tobytes() == head.tobytes()
    for one, two in ((still, training), (still, other), (training, other)):
        assert (np.abs(one - two).max(axis=1) > 1e-4).all()


def test_a_vector_has_the_same_bits_in_any_batch():
    encoder = FakeEncoder(width=64)
    texts = [Text(f"row {row}", "word " * (row % 7)) for row in range(40)]
    taps = ["pre_dropout", "mean", "cls"]
    together = forward(encoder, texts, taps=taps, pass_=TRAINING).vectors
    for row, text in enumerate(texts):
        alone = forward(encoder, [text], taps=taps, pass_=TRAINING).vectors
        for tap in taps:
            assert alone[tap][0].tobytes() == together[tap][row].tobytes()


def test_the_inner_masks_are_keyed_by_row_at_site_1():
    encoder = FakeEncoder(width=8, rate=0.5)
    tokens = encoder.tokenize(["a b"])
    keys = masks.row_keys(["a"])
    table = encoder._table[[0, *tokens.ids[0]]]
    kept = masks.keep(keys, seed=7, passes=[0], site=1, units=24, rate=0.5).reshape(3, 8)
    mean = encoder.encode(tokens, keys=keys, taps=["mean"], pass_=TRAINING)["mean"]
    np.testing.assert_allclose(mean[0], (table * kept * 2).mean(0), atol=1e-6)


def test_words_have_the_same_vectors_in_every_process():
    code = (
        "import hashlib; from embedsvc import Text, forward, load_model; "
        "f = forward(load_model('fake:8'), [Text('a', 'good morning')], taps=['logits', 'mean']); "
        "print(hashlib.sha256(b''.join(v.tobytes() for v in f.vectors.values())).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    here = forward(load_model("fake:8"), [Text("a", "good morning")], taps=["logits", "mean"]).vectors.values()
    assert there == hashlib.sha256(b"".join(v.tobytes() for v in here)).hexdigest()


def test_no_texts_are_no_rows():
    vectors = forward(FakeEncoder(), [], taps=["pre_dropout", "post_dropout", "logits"], pass_=TRAINING).vectors
    assert [value.shape for value in vectors.values()] == [(0, 16), (0, 16), (0, 3)]


def test_the_width_is_in_the_uri():
    assert load_model("fake:").spec.uri == "fake:16"
    assert load_model("fake:64").spec.taps["pre_dropout"] == 64
    assert load_model("fake:8", rate=0.5).head.rate == 0.5
    assert load_model("fake:8", rate=0.0).head.rate == 0.0


def test_it_says_so_if_the_width_is_none():
    with pytest.raises(ModelFormatError, match="fake:wide is no model\nThe form is fake: or fake:WIDTH"):
        load_model("fake:wide")
    with pytest.raises(ModelFormatError, match="fake:0 is no model"):
        load_model("fake:0")
    with pytest.raises(SettingsError, match="rate is 2"):
        load_model("fake:8", rate=2)


def test_the_digest_tells_widths_rates_and_classes_apart():
    encoders = [FakeEncoder(), FakeEncoder(8), FakeEncoder(rate=0.2), FakeEncoder(n_classes=4)]
    assert len({encoder.spec.digest for encoder in encoders}) == 4
    assert FakeEncoder().spec == FakeEncoder().spec
