"""Every closed form against simulation; the figures named in SCIENCE are to the digits it shows."""

import numpy as np
import pytest
from scipy.optimize import brentq

from embedsvc import masks, theory
from embedsvc.errors import DegenerateInputError, SettingsError
from embedsvc.metrics import linear_cka

P = 0.1
ONE_MASK, TWO_MASKS = 1, 2


def drop(x, rate, seed):
    rng = np.random.default_rng(seed)
    return x * (rng.random(x.shape) >= rate) / (1 - rate)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((40, 64)) * np.linspace(0.2, 3, 64) + 0.5


def simulated(function, draws=600):
    return np.mean([function(seed) for seed in range(draws)], axis=0)


def cosines(a, b):
    return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_cosine_to_the_masked_vector(x, rate):
    mean, sd = theory.cosine_under_dropout(x, rate)
    drawn = np.array([cosines(x, drop(x, rate, seed)) for seed in range(800)])
    assert (np.abs(drawn.mean(0) - mean) < 4 * sd / np.sqrt(800) + 0.001).all()
    assert drawn.mean() == pytest.approx(mean.mean(), abs=0.0006 + 0.002 * (rate > 0.3))
    assert np.allclose(drawn.std(0), sd, rtol=0.2)
    assert drawn.std(0).mean() == pytest.approx(sd.mean(), rel=0.02 + 0.2 * (rate > 0.3))


def test_cosine_at_the_rate_of_bert():
    """SCIENCE A: p = .1 gives .94869 in the limit of many units, .94868 simulated."""
    many = np.ones((1, 768))
    assert theory.cosine_under_dropout(many, P)[0][0] == pytest.approx(0.94868, abs=2e-5)
    drawn = np.mean([cosines(many, drop(many, P, seed)) for seed in range(4000)])
    assert drawn == pytest.approx(0.94868, abs=1e-4)


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_cosine_of_two_passes(x, rate):
    drawn = simulated(lambda seed: cosines(drop(x, rate, seed), drop(x, rate, seed + 10_000)))
    expected = theory.cosine_between_passes(x, rate)
    assert np.allclose(drawn, expected, atol=0.012 if rate < 0.3 else 0.025)
    # The second term is real: q alone is off by more than the simulation errs.
    assert abs(drawn.mean() - expected.mean()) < 0.0008 < abs(drawn.mean() - (1 - rate))


def test_cosine_of_two_texts(x):
    y = x[::-1] + 1.0
    drawn = simulated(lambda seed: cosines(drop(x, P, seed), drop(y, P, seed + 10_000)))
    assert np.allclose(drawn, theory.cosine_of_texts(cosines(x, y), P), atol=0.01)


@pytest.mark.parametrize(("passes", "tolerance"), [(1, 0.001), (4, 0.001), (16, 0.001)])
def test_the_mean_of_passes_nears_the_vector(x, passes, tolerance):
    drawn = simulated(lambda seed: cosines(x, np.mean([drop(x, P, [seed, i]) for i in range(passes)], axis=0)), 150)
    assert drawn.mean() == pytest.approx(theory.cosine_of_mean(P, passes), abs=tolerance)


def test_displacements(x):
    one = simulated(lambda seed: ((drop(x, P, seed) - x) ** 2).sum(1))
    two = simulated(lambda seed: ((drop(x, P, seed) - drop(x, P, seed + 10_000)) ** 2).sum(1))
    assert one.sum() == pytest.approx(theory.squared_displacement(x, P).sum(), rel=0.01)
    assert two.sum() == pytest.approx(theory.squared_displacement(x, P, masks=TWO_MASKS).sum(), rel=0.01)
    assert theory.squared_displacement(x, P, masks=0).tolist() == [0.0] * 40


def test_distances_between_texts(x):
    y = x[::-1]
    rng = np.random.default_rng(1)

    def shared(seed):
        kept = (rng.random(x.shape) >= P) / (1 - P)
        return ((x * kept - y * kept) ** 2).sum(1)

    apart = simulated(lambda seed: ((drop(x, P, seed) - drop(y, P, seed + 10_000)) ** 2).sum(1))
    assert apart.sum() == pytest.approx(theory.squared_distance(x, y, P).sum(), rel=0.01)
    assert simulated(shared).sum() == pytest.approx(theory.squared_distance(x, y, P, shared=True).sum(), rel=0.01)


def test_under_a_shared_mask_two_texts_keep_their_cosine_but_for_the_subset(x):
    """SCIENCE A: a shared mask is unbiased up to the kept subset, where independent ones take q of the cosine."""
    y = x[::-1] + 1.0
    shared = simulated(lambda seed: cosines(drop(x, P, seed), drop(y, P, seed)))
    assert np.allclose(shared, cosines(x, y), atol=0.01)
    assert abs((shared - cosines(x, y)).mean()) < 0.002 < 0.1 * np.abs(cosines(x, y)).mean()


def test_the_cross_validated_distance_is_unbiased_where_the_naive_one_is_not():
    """SCIENCE A: 16.91 simulated against a true 16.86, where the naive one gives 126.6."""
    rng = np.random.default_rng(2)
    x, away = np.linalg.qr(rng.standard_normal((512, 2)))[0].T
    length, apart = np.sqrt((126.6 - 16.86) / (2 * P / (1 - P))), np.sqrt(16.86)
    # Two texts of that length, so far apart: turned by the angle whose chord it is.
    angle = 2 * np.arcsin(apart / 2 / length)
    x, y = (length * (np.cos(turn) * x + np.sin(turn) * away)[None] for turn in (0.0, angle))
    draws = [
        [drop(x, P, [seed, 0]), drop(y, P, [seed, 1]), drop(x, P, [seed, 2]), drop(y, P, [seed, 3])]
        for seed in range(3000)
    ]
    crossed = [theory.unbiased_squared_distance(*draw)[0] for draw in draws]
    naive = np.mean([((a - b) ** 2).sum() for a, b, _, _ in draws])
    assert ((x - y) ** 2).sum() == pytest.approx(16.86)
    assert np.mean(crossed) == pytest.approx(16.86, abs=4 * np.std(crossed) / np.sqrt(3000))
    assert np.std(crossed) / np.sqrt(3000) < 0.25
    assert naive == pytest.approx(126.6, rel=0.01)
    assert naive == pytest.approx(theory.squared_distance(x, y, P)[0], rel=0.01)


def test_logit_variance(x):
    kernel = np.random.default_rng(3).standard_normal((64, 3)).astype(np.float32)
    drawn = np.array([drop(x, P, seed) @ kernel for seed in range(2000)])
    expected = theory.logit_variance(x, kernel, P)
    assert expected.shape == (40, 3)
    assert np.allclose(drawn.var(0), expected, rtol=0.2)
    assert drawn.var(0).sum() == pytest.approx(expected.sum(), rel=0.01)


def test_total_variance_splits_into_encoder_and_head():
    rng = np.random.default_rng(4)
    mean = np.linspace(-2, 2, 30)
    pre = mean + 0.5 * rng.standard_normal((20_000, 30))
    encoder, head = theory.post_variance(pre.mean(0), pre.var(0), P)
    assert np.allclose(encoder, 0.25, rtol=0.05)
    assert (encoder + head).sum() == pytest.approx(drop(pre, P, 5).var(0).sum(), rel=0.01)


def population():
    """Gaussian texts with a mean, so that D is not the diagonal of the covariance."""
    rng = np.random.default_rng(6)
    mixing = rng.standard_normal((24, 24)) * np.linspace(0.1, 1, 24)
    return rng.standard_normal((60_000, 24)) @ mixing + rng.standard_normal(24) * 4


def test_cka_under_dropout_in_a_population():
    x = population()
    covariance, second = np.cov(x.T), (x**2).mean(0)
    for rate in (0.1, 0.3):
        one = theory.cka_under_dropout(covariance, second, rate, masks=ONE_MASK)
        two = theory.cka_under_dropout(covariance, second, rate, masks=TWO_MASKS)
        first, other = drop(x, rate, 7), drop(x, rate, 8)
        assert linear_cka(x, first) == pytest.approx(one, abs=0.003)
        assert linear_cka(first, other) == pytest.approx(two, abs=0.003)
        assert two == pytest.approx(one**2)
        assert one < 0.97
    assert theory.cka_under_dropout(covariance, second, P, masks=0) == 1.0
    assert theory.cka_under_dropout(covariance, second, 0.0, masks=2) == 1.0


def test_cka_under_dropout_meets_the_figures_that_are_known():
    """SCIENCE B: .4374 for pre against post and .1913 for two passes, where simulations gave .4376 and .1911."""
    x = population()
    centred, mean, covariance = x - x.mean(0), x.mean(0), np.cov(x.T)

    def predicted(size, masks):
        second = np.diagonal(covariance) + (size * mean) ** 2
        return theory.cka_under_dropout(covariance, second, P, masks=masks)

    # As large a mean, beside this covariance, as gives the first of the two.
    size = brentq(lambda size: predicted(size, ONE_MASK) - 0.4374, 0.0, 100.0)
    assert predicted(size, TWO_MASKS) == pytest.approx(0.1913, abs=1e-4)
    x = centred + size * mean
    first, other = drop(x, P, 7), drop(x, P, 8)
    assert linear_cka(x, first) == pytest.approx(0.4374, abs=0.006)
    assert linear_cka(first, other) == pytest.approx(0.1913, abs=0.006)


def test_cka_under_dropout_at_few_texts_needs_the_debiased_norm():
    """A signal that dropout more than halves, of fewer texts than twice the width."""
    rng = np.random.default_rng(9)
    n, d, rate = 400, 256, 0.1
    x = rng.standard_normal((n, 6)) @ rng.standard_normal((6, d)) * 0.25 + 4.0 * rng.standard_normal(d)
    from embedsvc.moments import moments

    m = moments(lambda: [(x,)])
    covariance, second = m.cross[0, 0] / (n - 1), (x**2).mean(0)
    debiased = m.hsic(0, 0) / (n * (n - 3))
    one, two = (theory.cka_under_dropout(covariance, second, rate, masks=k, squared_norm=debiased) for k in (1, 2))
    drawn = [
        (linear_cka(x, drop(x, rate, [s, 0])), linear_cka(drop(x, rate, [s, 0]), drop(x, rate, [s, 1])))
        for s in range(12)
    ]
    assert np.mean(drawn, axis=0) == pytest.approx([one, two], abs=0.012)
    assert 0.2 < one < 0.9


def test_keyed_masks_follow_the_same_laws(x):
    """The masks of the store, and not only those of a textbook."""
    pre = x.astype(np.float32)
    kept = masks.keep(masks.row_keys(map(str, range(40))), seed=5, passes=range(500), site=0, units=64, rate=P)
    post = masks.dropout(pre, kept, P)
    assert np.allclose(((post - pre) ** 2).sum(2).mean(0), theory.squared_displacement(pre, P), rtol=0.12)
    drawn = np.mean([cosines(pre, one) for one in post])
    assert drawn == pytest.approx(theory.cosine_under_dropout(pre, P)[0].mean(), abs=0.0006)


def test_no_dropout_changes_nothing(x):
    mean, sd = theory.cosine_under_dropout(x, 0.0)
    assert (mean.tolist(), sd.tolist()) == ([1.0] * 40, [0.0] * 40)
    assert theory.cosine_between_passes(x, 0.0).tolist() == [1.0] * 40
    assert theory.cosine_of_mean(0.0, 3) == 1.0


def test_degenerate_numbers_are_refused(x):
    with pytest.raises(DegenerateInputError, match="1 rows hold only zeros"):
        theory.participation_ratio(np.array([[1.0, 2.0], [0.0, 0.0]]))
    with pytest.raises(DegenerateInputError, match="do not vary"):
        theory.cka_under_dropout(np.zeros((2, 2)), np.ones(2), P, masks=1)
    with pytest.raises(SettingsError, match="passes is 0"):
        theory.cosine_of_mean(P, 0)
    for rate in (1.0, -0.1):
        with pytest.raises(SettingsError, match="dropout rate"):
            theory.cosine_between_passes(x, rate)
    with pytest.raises(SettingsError, match="masks is 3"):
        theory.squared_displacement(x, P, masks=3)
    with pytest.raises(SettingsError, match="masks is 3"):
        theory.cka_under_dropout(np.eye(2), np.ones(2), P, masks=3)


def test_a_tiny_vector_has_a_participation_ratio():
    assert theory.participation_ratio(np.full((1, 8), 1e-30, np.float32)).tolist() == pytest.approx([8.0])
