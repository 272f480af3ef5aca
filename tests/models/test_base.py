from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from embedsvc import masks
from embedsvc.batching import OnLong
from embedsvc.errors import InputError, SettingsError, UnknownTapError
from embedsvc.head import Head
from embedsvc.models.base import check_taps, encoder_taps, forward, head_vectors
from embedsvc.models.fake import FakeEncoder
from embedsvc.types import Mode, Pass, Text, Tokens, Vectors

TEXTS = [Text("a", "good morning"), Text("b", "w " * 20), Text("c", "")]
KEYS = masks.row_keys("abc")


class Recorder(FakeEncoder):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(max_tokens=8)
        self.asked: list[tuple[Tokens, list[int], list[str], Pass]] = []

    def encode(self, tokens: Tokens, *, keys: np.ndarray, taps: Sequence[str], pass_: Pass) -> dict[str, Vectors]:
        self.asked.append((tokens, keys.tolist(), list(taps), pass_))
        return dict(super().encode(tokens, keys=keys, taps=taps, pass_=pass_))


@pytest.mark.parametrize(
    ("pass_", "reaches"),
    [
        (None, Pass()),
        (Pass(), Pass()),
        (Pass(Mode.HEAD, 3, 7), Pass()),
        (Pass(Mode.TRAINING, 3, 7), Pass(Mode.TRAINING, 3, 7)),
    ],
)
def test_a_head_pass_reaches_the_encoder_as_inference(pass_, reaches):
    encoder = Recorder()
    forward(encoder, TEXTS, taps=["post_dropout"], pass_=pass_)
    assert [pass_ for *_, pass_ in encoder.asked] == [reaches]


def test_the_encoder_gets_cut_texts_and_the_keys_of_their_ids():
    encoder = Recorder()
    result = forward(encoder, TEXTS, taps=["cls"])
    ((tokens, keys, *_),) = encoder.asked
    assert tokens.counts.tolist() == [2, 7, 0]
    assert keys == KEYS.tolist()
    assert result.n_tokens.tolist() == [3, 8, 1]
    assert result.truncated.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("taps", "asked"),
    [
        ([], []),
        (["cls", "mean"], ["cls", "mean"]),
        (["pre_dropout"], ["pre_dropout"]),
        (["post_dropout"], ["pre_dropout"]),
        (["logits", "post_dropout"], ["pre_dropout"]),
        (["post_dropout", "cls"], ["cls", "pre_dropout"]),
        (["post_dropout", "pre_dropout"], ["pre_dropout"]),
    ],
)
def test_the_encoder_is_asked_for_what_the_taps_need_and_once(taps, asked):
    assert list(encoder_taps(taps)) == asked
    encoder = Recorder()
    result = forward(encoder, TEXTS, taps=taps)
    assert [taps for _, _, taps, _ in encoder.asked] == [asked]
    assert list(result.vectors) == taps


def test_all_taps_of_a_pass_are_from_the_same_pass():
    encoder = Recorder()
    pass_ = Pass(Mode.TRAINING, 3, 7)
    pre, post, logits = forward(
        encoder, TEXTS, taps=["pre_dropout", "post_dropout", "logits"], pass_=pass_
    ).vectors.values()
    assert len(encoder.asked) == 1
    np.testing.assert_array_equal(post, encoder.head.post(pre, KEYS, pass_))
    np.testing.assert_array_equal(logits, encoder.head.logits(post))


def test_limits_and_long_texts_are_handed_on():
    encoder = Recorder()
    assert forward(encoder, TEXTS, taps=["cls"], max_tokens=3).n_tokens.tolist() == [3, 3, 1]
    whole = forward(encoder, TEXTS, taps=["cls"], on_long=OnLong.CHUNK_MEAN)
    assert whole.n_tokens.tolist() == [3, 21, 1]
    assert whole.vectors["cls"].shape == (3, 16)
    with pytest.raises(InputError, match="b: the text has 21 tokens"):
        forward(encoder, TEXTS, taps=["cls"], on_long=OnLong.FAIL)
    with pytest.raises(SettingsError, match="reads at most 8"):
        forward(encoder, TEXTS, taps=["cls"], max_tokens=9)


def test_an_unknown_tap_is_an_error_before_anything_runs():
    encoder = Recorder()
    with pytest.raises(UnknownTapError) as caught:
        forward(encoder, TEXTS, taps=["cls", "layer.9"])
    assert str(caught.value) == (
        "fake:16 has no tap 'layer.9'.\nIt has: pre_dropout, post_dropout, pooled_output, cls, mean, layer.0, logits"
    )
    assert not encoder.asked


def test_missing_logits_are_explained_by_the_notes_of_the_model():
    taps = {"pre_dropout": 8, "post_dropout": 8}
    spec = replace(FakeEncoder().spec, taps=taps, notes=("The head is untrained.",))
    with pytest.raises(UnknownTapError, match=r"fake:16 has no tap 'logits'\. The head is untrained\.\nIt has: pre_d"):
        check_taps(spec, ["pre_dropout", "logits"])
    check_taps(spec, ["pre_dropout"])


def test_the_head_makes_only_what_was_asked():
    head, pre = Head(0.5, np.ones((4, 2), dtype=np.float32)), np.ones((3, 4), dtype=np.float32)
    pass_ = Pass(Mode.HEAD, 0, 7)
    for taps in ([], ["cls"], ["post_dropout"], ["logits"], ["logits", "post_dropout"]):
        made = head_vectors(head, pre, KEYS, taps, pass_)
        assert made.keys() == set(taps) & {"post_dropout", "logits"}


def test_repeated_ids_share_their_masks():
    """Not an error here: sets refuse them, a single pass need not."""
    twice = [Text("a", "good"), Text("a", "good")]
    post = forward(FakeEncoder(), twice, taps=["post_dropout"], pass_=Pass(Mode.TRAINING, 0, 7)).vectors["post_dropout"]
    assert post[0].tobytes() == post[1].tobytes()
