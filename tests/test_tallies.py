"""Running sums against the same numbers computed from all passes at once, and against what is known of them."""

import math

import numpy as np
import pytest

from embedsvc import masks
from embedsvc.head import Head
from embedsvc.tallies import ClassTally, HeadTally, VectorTally, cosines, draw_until

RNG = np.random.default_rng(11)
WIDTH, N = 96, 12
PRE = RNG.standard_normal((N, WIDTH)).astype(np.float32)
KEYS = masks.row_keys(f"text {row}" for row in range(N))
HEAD = Head(0.1, RNG.standard_normal((WIDTH, 4)).astype(np.float32), RNG.standard_normal(4).astype(np.float32))


def entropies(logits, reference=None):
    """Of logits of shape (passes, classes): one text."""
    logits = np.asarray(logits, dtype=np.float64)[:, None]
    tally = ClassTally(1, logits.shape[-1])
    tally.add(logits)
    return tally.scores(np.zeros((1, logits.shape[-1])) if reference is None else np.asarray([reference]))


def drawn(passes, *, head=HEAD, pre=PRE, seed=7):
    tally = HeadTally(pre, KEYS[: len(pre)], head, seed)
    tally.draw(passes)
    return tally


def posts(passes, *, head=HEAD, seed=7):
    return head.posts(PRE, KEYS, seed=seed, passes=range(passes)).astype(np.float64)


# --- classes ---


@pytest.mark.parametrize("logits", [[0.0, 0.0], [3.0, -1.0, 0.5], [1e4, -1e4, 0.0], [2.5]])
def test_equal_passes_have_no_bald(logits):
    scores = entropies([logits] * 7)
    assert scores.bald[0] == pytest.approx(0.0, abs=1e-12)
    assert scores.predictive_entropy[0] == pytest.approx(scores.expected_entropy[0], abs=1e-12)
    assert scores.variation_ratio[0] == 0.0


def test_half_and_half_certain_passes_have_a_bald_of_ln_2():
    scores = entropies([[1e4, 0.0], [0.0, 1e4]] * 5)
    assert scores.bald[0] == pytest.approx(math.log(2), abs=1e-12)
    assert scores.expected_entropy[0] == 0.0
    assert scores.variation_ratio[0] == 0.5


def test_unsure_passes_that_agree_are_entropy_and_not_bald():
    scores = entropies([[0.0, 0.0, 0.0]] * 4)
    assert scores.predictive_entropy[0] == pytest.approx(math.log(3))
    assert scores.bald[0] == 0.0


def test_entropies_are_those_of_the_definition():
    logits = RNG.standard_normal((50, 6)) * 3
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    mean = p.mean(axis=0)
    scores = entropies(logits)
    assert scores.predictive_entropy[0] == pytest.approx(-(mean * np.log(mean)).sum())
    assert scores.expected_entropy[0] == pytest.approx(-(p * np.log(p)).sum(axis=1).mean())
    assert scores.bald[0] == pytest.approx(scores.predictive_entropy[0] - scores.expected_entropy[0])
    assert scores.bald[0] > 0.1


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4, 1e30])
def test_large_logits_neither_overflow_nor_lose_the_entropy(shift):
    with np.errstate(all="raise", under="ignore"):
        scores = entropies(np.array([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]]) + shift)
    expected = [1.0, 2.0, -1.0] if shift < 1e20 else [0.0] * 3  # at 1e30 a float64 holds no unit
    assert np.isfinite([scores.predictive_entropy[0], scores.bald[0]]).all()
    if shift >= 1e20:
        assert scores.predictive_entropy[0] == pytest.approx(math.log(len(expected)))
    else:
        assert scores.predictive_entropy[0] == pytest.approx(entropies([[1, 2, -1], [0, 0.5, 3]]).predictive_entropy[0])


def test_one_logit_is_that_of_a_sigmoid():
    one = entropies([[2.0], [-1.0], [0.3]], [1.0])
    two = entropies([[0.0, 2.0], [0.0, -1.0], [0.0, 0.3]], [0.0, 1.0])
    assert one == two
    assert one.class_flip[0] == pytest.approx(1 / 3)


def test_votes_are_counted_against_their_majority_and_against_inference():
    scores = entropies([[1, 0, 0]] * 6 + [[0, 1, 0]] * 3 + [[0, 0, 1]], [0, 0, 1])
    assert scores.variation_ratio[0] == 0.4
    assert scores.class_flip[0] == 0.9


def test_passes_may_come_in_pieces():
    logits = RNG.standard_normal((20, 3, 4))
    whole, pieces = ClassTally(3, 4), ClassTally(3, 4)
    whole.add(logits)
    for start, stop in ((0, 1), (1, 9), (9, 20)):
        pieces.add(logits[start:stop])
    for name in ("predictive_entropy", "expected_entropy", "bald", "variation_ratio", "class_flip"):
        np.testing.assert_allclose(
            getattr(whole.scores(logits[0]), name), getattr(pieces.scores(logits[0]), name), atol=1e-14
        )


# --- vectors of passes that come one by one ---


def test_merged_moments_are_those_of_all_passes_at_once():
    every = RNG.standard_normal((30, 5, 8)) + 1e4  # far from 0: sums of squares would lose the digits
    tally = VectorTally(5, 8)
    for each in every:
        tally.add(each)
    np.testing.assert_allclose(tally.mean, every.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(tally.variance, every.var(axis=0, ddof=1).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(tally.energy, (every**2).sum(axis=2).mean(axis=0), rtol=1e-12)


def test_the_mean_cosine_is_over_all_pairs():
    every = RNG.standard_normal((6, 3, 5))
    tally = VectorTally(3, 5)
    for each in every:
        tally.add(each)
    pairs = [cosines(every[a], every[b]) for a in range(6) for b in range(a)]
    np.testing.assert_allclose(tally.cosine_between, np.mean(pairs, axis=0))


def test_one_pass_has_no_variance_and_no_pairs():
    tally = VectorTally(2, 4)
    tally.add(np.ones((2, 4)))
    assert np.isnan(tally.variance).all()
    assert np.isnan(tally.cosine_between).all()


# --- passes of the head ---


def test_counted_passes_are_the_passes_a_reader_draws():
    scores, every = drawn(40).scores(), posts(40)
    np.testing.assert_allclose(scores.variance, every.var(axis=0, ddof=1).sum(axis=1), rtol=1e-5)
    to_pre = np.mean([cosines(PRE, each) for each in every], axis=0)
    np.testing.assert_allclose(scores.cosine_to_pre, to_pre, atol=1e-6)
    between = [cosines(every[a], every[b]) for a in range(40) for b in range(a)]
    np.testing.assert_allclose(scores.cosine_between, np.mean(between, axis=0), atol=1e-6)


def test_counted_classes_are_those_of_the_logits_a_reader_draws():
    tally = drawn(40)
    assert tally.classes is not None
    plain = ClassTally(N, 4)
    plain.add(HEAD.logits(posts(40).astype(np.float32)))
    for name in ("predictive_entropy", "bald", "variation_ratio", "class_flip"):
        ours, theirs = (getattr(each.scores(HEAD.logits(PRE)), name) for each in (tally.classes, plain))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert plain.scores(HEAD.logits(PRE)).bald.max() > 0.01


def test_the_curve_is_the_cosine_of_the_mean_of_the_first_passes():
    grid = [1, 2, 5, 40]
    curve = draw_until(HeadTally(PRE, KEYS, HEAD, 7), grid)
    every = posts(40)
    for at, passes in enumerate(grid):
        np.testing.assert_allclose(curve[at], cosines(PRE, every[:passes].mean(axis=0)), atol=1e-6)


def test_how_passes_are_cut_does_not_matter():
    whole, pieces = drawn(33), HeadTally(PRE, KEYS, HEAD, 7)
    for count in (1, 2, 30):
        pieces.draw(count)
    assert whole.passes == pieces.passes == 33
    np.testing.assert_array_equal(whole.scores().variance, pieces.scores().variance)
    np.testing.assert_allclose(whole.scores().cosine_between, pieces.scores().cosine_between, atol=1e-7)


def test_more_passes_than_fit_at_once_are_the_same(monkeypatch):
    whole = drawn(50)
    monkeypatch.setattr("embedsvc.tallies._CELLS", N * WIDTH * 7)
    assert drawn(50).scores().variance == pytest.approx(whole.scores().variance, abs=0)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_many_passes_meet_their_closed_forms(rate):
    head = Head(rate)
    tally = drawn(1500, head=head)
    scores, keep = tally.scores(), 1 - rate
    squares = PRE.astype(np.float64) ** 2
    np.testing.assert_allclose(scores.variance.mean(), (rate / keep * squares.sum(axis=1)).mean(), rtol=0.01)
    ratio = squares.sum(axis=1) ** 2 / (squares**2).sum(axis=1)
    expected = math.sqrt(keep) - rate / (8 * ratio * math.sqrt(keep))
    np.testing.assert_allclose(scores.cosine_to_pre.mean(), expected.mean(), atol=2e-3 if rate < 0.2 else 6e-3)
    # Wang & Isola's alignment of unit rows, the mean squared distance of two passes: 2 - 2 cos.
    np.testing.assert_allclose((2 - 2 * scores.cosine_between).mean(), 2 * rate, rtol=0.02)
    assert tally.classes is None


def test_a_head_that_drops_nothing_changes_nothing():
    scores = drawn(10, head=Head(0.0, HEAD.kernel)).scores()
    assert scores.variance.tolist() == [0.0] * N
    np.testing.assert_allclose(scores.cosine_to_pre, 1.0, atol=1e-6)
    np.testing.assert_allclose(scores.cosine_between, 1.0, atol=1e-6)


def test_vectors_of_length_0_have_no_cosine():
    pre = PRE[:3].copy()
    pre[1] = 0
    tally = drawn(20, pre=pre)
    scores = tally.scores()
    assert np.isnan(scores.cosine_to_pre).tolist() == [False, True, False]
    assert np.isnan(scores.cosine_between).tolist() == [False, True, False]
    assert np.isnan(tally.cosine_of_mean()).tolist() == [False, True, False]
    assert scores.variance[1] == 0.0


def test_a_pass_that_drops_everything_counts_as_cosine_0():
    tally = HeadTally(np.ones((200, 1), np.float32), masks.row_keys(map(str, range(200))), Head(0.5), 3)
    tally.draw(1)
    np.testing.assert_array_equal(np.unique(tally.scores().cosine_to_pre), [0.0, 1.0])
    assert np.isnan(tally.scores().cosine_between).all(), "there is no pair"
