"""Cheap bootstraps against the plain ones they stand for."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import rankdata, spearmanr

from embedsvc import resampling
from embedsvc.metrics import linear_cka, procrustes
from embedsvc.moments import moments
from embedsvc.resampling import Range

RNG = np.random.default_rng(3)
M = 60
X = RNG.standard_normal((M, 8))
Y = X[:, :5] + 0.8 * RNG.standard_normal((M, 5))


def test_a_draw_of_every_text_once_is_the_estimate_itself():
    once = np.ones((1, M))
    k, l = resampling.u_centred(X), resampling.u_centred(Y)  # noqa: E741 - as in the paper
    assert resampling.bootstrap_cka([k, l], once)[0, 0, 1] == pytest.approx(linear_cka(X, Y), abs=1e-9)
    moved = resampling.bootstrap_spearman([rankdata(pdist(v)) for v in (X, Y)], M, once)[0, 0, 1]
    assert moved == pytest.approx(0, abs=1e-6)
    m = moments(lambda: [(X, Y)])
    whole = resampling.bootstrap_procrustes(X - m.means[0], Y - m.means[1], m.rotation(0, 1)[0], once)
    assert whole[0] == pytest.approx(procrustes(X, Y), abs=1e-9)
    assert resampling.bootstrap_mean(X[:, 0], once).mean == pytest.approx(X[:, 0].mean())


LONG_TAILS = np.random.default_rng(0).standard_normal((M, 2)) ** 3


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X, Y),
        (X[np.arange(M) // 2], Y[np.arange(M) // 2]),  # copies, at equal distances
        (LONG_TAILS, LONG_TAILS + 0.5 * RNG.standard_normal((M, 2))),  # ranks move as much as what has them
    ],
)
def test_resampled_spearman_moves_as_one_that_ranks_anew(x, y):
    """A text with itself, which only resampling makes, is left out."""
    weights = resampling.bootstrap_weights(M, 150, np.random.default_rng(2))
    drawn = resampling.bootstrap_spearman([rankdata(pdist(v).round(9)) for v in (x, y)], M, weights)[:, 0, 1]
    own = spearmanr(*(pdist(v).round(9) for v in (x, y))).statistic
    anew = []
    for weight in weights:
        rows = np.repeat(np.arange(M), weight.astype(int))
        first, second = np.triu_indices(len(rows), 1)
        apart = rows[first] != rows[second]
        pairs = [np.linalg.norm(v[rows[first]] - v[rows[second]], axis=1)[apart].round(9) for v in (x, y)]
        anew.append(spearmanr(*pairs).statistic - own)
    assert np.corrcoef(drawn, anew)[0, 1] > 0.9
    assert np.std(drawn) == pytest.approx(np.std(anew), rel=0.2)
    assert np.mean(drawn) == pytest.approx(np.mean(anew), abs=np.std(anew) / 3)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """CKA of a population that is known well, from 100 samples of 120 texts."""
    rng = np.random.default_rng(5)
    mixing = rng.standard_normal((8, 8))

    def draw(n):
        x = rng.standard_normal((n, 8))
        return x, x @ mixing + 2 * rng.standard_normal((n, 8))

    truth = linear_cka(*draw(60_000))
    inside = 0
    for _ in range(100):
        x, y = draw(120)
        k, l = resampling.u_centred(x), resampling.u_centred(y)  # noqa: E741 - as in the paper
        weights = resampling.bootstrap_weights(120, 100, rng)
        interval = Range.of(resampling.bootstrap_cka([k, l], weights)[:, 0, 1])
        inside += interval.low <= truth <= interval.high
    assert 80 <= inside <= 100


def test_the_mean_of_many_scores_has_the_interval_of_its_bootstrap():
    scores = np.random.default_rng(6).exponential(size=4000)
    drawn = resampling.bootstrap_mean(scores, resampling.bootstrap_weights(4000, 800, np.random.default_rng(7)))
    limit = resampling.bootstrap_mean(scores, None)
    assert limit.low == pytest.approx(drawn.low, abs=0.004)
    assert limit.high == pytest.approx(drawn.high, abs=0.004)
    assert limit.mean == scores.mean()


def test_a_range_moves_and_scales():
    assert Range(0.0, -1.0, 2.0).moved(5.0, 0.5) == Range(5.0, 4.5, 6.0)
    assert Range.of(np.arange(101.0)) == Range(50.0, 2.5, 97.5)


def test_equal_distances_have_no_order():
    weights = np.concatenate([np.ones((1, M)), M * np.eye(1, M)])
    ranked = [rankdata(values) for values in (pdist(X), pdist(Y), np.ones(M * (M - 1) // 2))]
    drawn = resampling.bootstrap_spearman(ranked, M, weights)
    assert np.isnan(drawn[0, :2, 1:]).tolist() == [[False, True], [True, True]]
    assert np.isnan(drawn[1]).all(), "copies of one text have no distances at all"


def test_a_draw_of_nothing_but_copies_of_one_text_has_no_value_and_is_left_out():
    rng = np.random.default_rng(0)
    k, l = (resampling.u_centred(rng.standard_normal((4, 3))) for _ in range(2))  # noqa: E741 - as in the module
    weights = np.array([[4.0, 0, 0, 0], [1, 1, 1, 1], [2, 1, 1, 0]])
    drawn = resampling.bootstrap_cka([k, l], weights)[:, 0, 1]
    assert np.isnan(drawn).tolist() == [True, False, False]
    assert resampling.Range.of(drawn).mean == pytest.approx(drawn[1:].mean())
