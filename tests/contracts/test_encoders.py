"""What every loader promises, proven on a tiny model of each (builders.py)."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from embedsvc import masks
from embedsvc.errors import UnknownTapError
from embedsvc.inspection import inspect
from embedsvc.models.base import HEAD_TAPS, Encoder, forward
from embedsvc.models.load import load_model
from embedsvc.types import Forward, Mode, ModelSpec, Pass, Text, Vectors
from tests.contracts.builders import WORDS, Built

RNG = np.random.default_rng(5)
TEXTS = [
    "?",
    "a",
    "the film was good",
    "The film was very , very bad !",
    "un café und 日本",
    "👩‍👩‍👧 שלום e\u0301",
    "unknownword",
    "good " * 400,
    *(" ".join(RNG.choice(WORDS, size)) for size in (3, 7, 9, 13, 20, 30)),
]
TRAINING = Pass(Mode.TRAINING, 0, 7)
HEAD = Pass(Mode.HEAD, 0, 7)


def rows(texts: Sequence[str] = TEXTS) -> list[Text]:
    """Texts with ids that do not depend on their order."""
    return [Text(f"id {text[:80]} {len(text)}", text) for text in texts]


def run(encoder: Encoder, *taps: str, pass_: Pass | None = None, texts: Sequence[str] = TEXTS) -> Forward:
    return forward(encoder, rows(texts), taps=taps or tuple(encoder.spec.taps), pass_=pass_)


def pre(encoder: Encoder, pass_: Pass | None = None, texts: Sequence[str] = TEXTS) -> Vectors:
    return run(encoder, "pre_dropout", pass_=pass_, texts=texts).vectors["pre_dropout"]


def encoder_is_live(spec: ModelSpec) -> bool:
    return any(site.rate > 0 and Mode.TRAINING in site.modes for site in spec.sites[1:])


def assert_fraction_fits(dropped: int, n: int, rate: float) -> None:
    """Chernoff's bound: a fair mask fails this once in a million runs at most."""
    assert n > 500
    q = dropped / n
    divergence = sum(a * math.log(a / b) for a, b in ((q, rate), (1 - q, 1 - rate)) if a > 0)
    assert n * divergence < math.log(2e6), f"dropped {q:.4f} of {n} units, expected {rate}"


def test_every_tap_has_its_declared_shape(encoder: Encoder) -> None:
    for pass_ in (Pass(), TRAINING, HEAD):
        vectors = run(encoder, pass_=pass_).vectors
        assert list(vectors) == list(encoder.spec.taps)
        for tap, width in encoder.spec.taps.items():
            assert vectors[tap].shape == (len(TEXTS), width), tap
            assert vectors[tap].dtype == np.float32, tap
            assert vectors[tap].flags.c_contiguous, tap
            assert np.isfinite(vectors[tap]).all(), tap


def test_every_tap_can_be_had_alone(encoder: Encoder, built: Built) -> None:
    together = run(encoder).vectors
    for tap in encoder.spec.taps:
        alone = run(encoder, tap).vectors
        assert list(alone) == [tap]
        np.testing.assert_allclose(alone[tap], together[tap], atol=built.tolerance)


def test_an_encoder_gives_what_was_asked_and_no_more(encoder: Encoder) -> None:
    tokens = encoder.tokenize(["the film", "a"])
    for tap in encoder.spec.taps:
        if tap not in HEAD_TAPS:
            assert list(encoder.encode(tokens, keys=masks.row_keys(["x", "y"]), taps=[tap], pass_=Pass())) == [tap]


def test_vectors_tell_texts_apart(encoder: Encoder) -> None:
    vectors = pre(encoder)
    assert not np.allclose(vectors[2], vectors[3], atol=1e-6)


def test_pre_and_post_are_the_same_bits_in_inference(encoder: Encoder) -> None:
    vectors = run(encoder, "pre_dropout", "post_dropout").vectors
    assert vectors["pre_dropout"].tobytes() == vectors["post_dropout"].tobytes()


@pytest.mark.parametrize("mode", [Mode.TRAINING, Mode.HEAD])
def test_post_is_pre_of_the_same_pass_under_a_mask(encoder: Encoder, mode: Mode) -> None:
    rate = encoder.head.rate
    dropped = n = 0
    for index in range(8):
        vectors = run(encoder, "pre_dropout", "post_dropout", pass_=Pass(mode, index, 7)).vectors
        before, after = vectors["pre_dropout"], vectors["post_dropout"]
        kept = after != 0
        np.testing.assert_array_equal(after[kept], (before * np.float32(1 / (1 - rate)))[kept])
        dropped += int((~kept & (before != 0)).sum())
        n += int((before != 0).sum())
    assert_fraction_fits(dropped, n, rate)


def test_head_mode_leaves_the_encoder_alone(encoder: Encoder) -> None:
    vectors = run(encoder, "pre_dropout", "post_dropout", pass_=HEAD).vectors
    assert vectors["pre_dropout"].tobytes() == pre(encoder).tobytes()
    assert not np.array_equal(vectors["post_dropout"], vectors["pre_dropout"])


def test_training_mode_switches_the_encoder_dropouts_on(encoder: Encoder) -> None:
    still = pre(encoder)
    if not encoder_is_live(encoder.spec):
        assert pre(encoder, TRAINING).tobytes() == still.tobytes()
        return
    passes = np.stack([pre(encoder, Pass(Mode.TRAINING, index, 7)) for index in range(24)])
    distance = np.linalg.norm(passes - still, axis=2)
    # A short text through ReLUs, or one token under a small rate, may lose nothing in some pass: never in all.
    assert (distance.max(axis=0) > 1e-4).all()
    # Dropout keeps expectations, up to what is not linear: the mean over passes is nearer than a pass.
    assert (np.linalg.norm(passes.mean(axis=0) - still, axis=1).mean()) < 0.6 * distance.mean()


def test_a_pass_repeats_under_its_seed(encoder: Encoder) -> None:
    first = run(encoder, pass_=TRAINING).vectors
    run(encoder, pass_=Pass(Mode.TRAINING, 3, 8))
    again = run(encoder, pass_=TRAINING).vectors
    for tap in encoder.spec.taps:
        assert first[tap].tobytes() == again[tap].tobytes(), tap


@pytest.mark.parametrize("other", [(0, 8), (1, 7)], ids=["another seed", "another pass"])
def test_a_pass_differs_under(encoder: Encoder, other: tuple[int, int]) -> None:
    for mode in (Mode.TRAINING, Mode.HEAD):
        one = run(encoder, "pre_dropout", "post_dropout", pass_=Pass(mode, 0, 7)).vectors
        two = run(encoder, "pre_dropout", "post_dropout", pass_=Pass(mode, *other)).vectors
        assert not np.array_equal(one["post_dropout"] == 0, two["post_dropout"] == 0)
        if mode is Mode.TRAINING and encoder_is_live(encoder.spec):
            assert not np.array_equal(one["pre_dropout"], two["pre_dropout"])


def in_batches(encoder: Encoder, pass_: Pass, batches: Sequence[Sequence[int]]) -> dict[str, Vectors]:
    """Every tap of all texts, run in the given batches, in the order of TEXTS."""
    parts = [run(encoder, pass_=pass_, texts=[TEXTS[row] for row in batch]).vectors for batch in batches]
    order = np.argsort(np.concatenate(batches))
    return {tap: np.concatenate([part[tap] for part in parts])[order] for tap in encoder.spec.taps}


ROWS = range(len(TEXTS))
SPLITS = {
    "alone": [[row] for row in ROWS],
    "reversed": [ROWS[::-1]],
    "in two halves": [ROWS[::2], ROWS[1::2]],
}


@pytest.mark.parametrize("split", SPLITS)
def test_a_vector_does_not_depend_on_the_batch(encoder: Encoder, built: Built, split: str) -> None:
    together = in_batches(encoder, Pass(), [ROWS])
    apart = in_batches(encoder, Pass(), SPLITS[split])
    for tap in encoder.spec.taps:
        np.testing.assert_allclose(apart[tap], together[tap], atol=built.tolerance, err_msg=tap)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("mode", [Mode.TRAINING, Mode.HEAD])
def test_a_mask_does_not_depend_on_the_batch(encoder: Encoder, built: Built, split: str, mode: Mode) -> None:
    together = in_batches(encoder, Pass(mode, 0, 7), [ROWS])
    apart = in_batches(encoder, Pass(mode, 0, 7), SPLITS[split])
    # The head's masks are keyed in every model.
    kept = (together["pre_dropout"] != 0) & (apart["pre_dropout"] != 0)
    np.testing.assert_array_equal((apart["post_dropout"] == 0)[kept], (together["post_dropout"] == 0)[kept])
    if mode is Mode.TRAINING and encoder.spec.masks == "positional":
        # Were it keyed after all, the spec would be wrong, and say less than it could.
        assert not np.allclose(apart["pre_dropout"], together["pre_dropout"], atol=1e-5)
        return
    for tap in encoder.spec.taps:
        np.testing.assert_allclose(apart[tap], together[tap], atol=built.tolerance, err_msg=tap)


def test_logits_are_the_dense_layer_of_post(encoder: Encoder) -> None:
    if "logits" not in encoder.spec.taps:
        assert encoder.head.n_classes is None
        assert any("logits" in note for note in encoder.spec.notes)
        return
    assert encoder.head.kernel is not None
    for pass_ in (Pass(), TRAINING, HEAD):
        vectors = run(encoder, "post_dropout", "logits", pass_=pass_).vectors
        expected = vectors["post_dropout"].astype(np.float64) @ encoder.head.kernel
        if encoder.head.bias is not None:
            expected += encoder.head.bias
        np.testing.assert_allclose(vectors["logits"], expected, atol=1e-5)


def test_inference_is_the_model_called_plainly(encoder: Encoder, built: Built) -> None:
    if built.plain is None:
        return
    short = [text for text in TEXTS if len(text) < 60]
    ours = run(encoder, built.plain_tap, texts=short).vectors[built.plain_tap]
    np.testing.assert_allclose(ours, built.plain(short), atol=built.tolerance)


def test_tokens_are_counted_and_cuts_flagged(encoder: Encoder) -> None:
    spec = encoder.spec
    result = run(encoder, "pre_dropout")
    counts = encoder.tokenize(TEXTS).counts
    assert result.n_tokens.shape == result.truncated.shape == (len(TEXTS),)
    for count, n, cut in zip(counts, result.n_tokens, result.truncated, strict=True):
        if count < 0:
            assert n == -1
            continue
        whole = count + spec.special_tokens
        assert n == (whole if spec.max_tokens is None else min(whole, spec.max_tokens))
        assert cut == (n < whole)
    if spec.max_tokens is not None and counts[7] >= 0:
        assert result.truncated[7], "the long text is longer than any tiny model reads"
    assert not result.truncated[2]


def test_a_cut_text_is_its_beginning(encoder: Encoder, built: Built) -> None:
    if encoder.tokenize(["a"]).ids is None:
        return
    limit = encoder.spec.special_tokens + 3
    cut = forward(encoder, rows(["the film was good"]), taps=["pre_dropout"], max_tokens=limit)
    assert cut.truncated.all()
    np.testing.assert_allclose(cut.vectors["pre_dropout"], pre(encoder, texts=["the film was"]), atol=built.tolerance)


def test_an_unknown_tap_is_an_error_that_lists_the_taps(encoder: Encoder) -> None:
    with pytest.raises(UnknownTapError) as caught:
        run(encoder, "pre_dropuot")
    assert all(tap in str(caught.value) for tap in encoder.spec.taps)


def test_the_spec_describes_the_model(encoder: Encoder) -> None:
    spec = encoder.spec
    assert spec.taps["pre_dropout"] == spec.taps["post_dropout"]
    assert spec.taps.get("logits") == encoder.head.n_classes
    head, *others = spec.sites
    assert head.rate == encoder.head.rate > 0
    assert set(head.modes) == {Mode.TRAINING, Mode.HEAD}
    assert all(Mode.HEAD not in site.modes and Mode.INFERENCE not in site.modes for site in others)
    assert all(site.modes == () for site in spec.sites if site.rate == 0)
    assert len({site.path for site in spec.sites}) == len(spec.sites)
    assert len(spec.digest) == 64
    assert int(spec.digest, 16)
    assert all(tap in spec.taps for tap in ("pre_dropout", *HEAD_TAPS[:1]))


def test_what_is_seen_is_what_the_spec_declares(encoder: Encoder) -> None:
    found = inspect(encoder)
    assert [(site.path, site.kind, site.rate) for site in found.sites] == [
        (site.path, site.kind, site.rate) for site in encoder.spec.sites
    ]
    for site, declared in zip(found.sites, encoder.spec.sites, strict=True):
        assert site.seen, "every loader of ours can be watched"
        assert site.modes == declared.modes
        if site.dropped is not None:
            assert 0 < site.dropped < min(1.0, 3 * site.rate)
    assert found.sites[0].masks == "keyed"
    assert all(site.masks == "keyed" for site in found.sites) == (encoder.spec.masks == "keyed")


def test_the_digest_names_the_weights(encoder: Encoder, built: Built, build: Callable[[int], Built]) -> None:
    again = load_model(built.uri, **built.options)
    assert again.spec == encoder.spec
    assert (
        run(again, "pre_dropout", pass_=TRAINING).vectors["pre_dropout"].tobytes() == pre(encoder, TRAINING).tobytes()
    )
    other = build(1)
    assert load_model(other.uri, **other.options).spec.digest != encoder.spec.digest


def test_the_rate_can_be_chosen(encoder: Encoder, built: Built) -> None:
    half = load_model(built.uri, **(built.options | {"rate": 0.5}))
    assert half.head.rate == half.spec.sites[0].rate == 0.5
    assert half.spec.digest != encoder.spec.digest
    before, after = run(half, "pre_dropout", "post_dropout", pass_=HEAD).vectors.values()
    np.testing.assert_array_equal(after[after != 0], 2 * before[after != 0])
