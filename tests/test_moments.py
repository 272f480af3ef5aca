"""Moments of streamed rows; what is made of them is in test_metrics.py."""

import numpy as np
import pytest

from embedsvc.errors import NoValueError
from embedsvc.metrics import linear_cka, procrustes
from embedsvc.moments import moments

RNG = np.random.default_rng(8)
X = RNG.standard_normal((120, 10)).astype(np.float32)
Y = (X @ RNG.standard_normal((10, 7)) + RNG.standard_normal((120, 7))).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 7, 120])
def test_cka_does_not_depend_on_the_blocks(rows):
    blocks = lambda: ((X[at : at + rows], Y[at : at + rows]) for at in range(0, 120, rows))  # noqa: E731
    streamed = moments(blocks)
    assert streamed.cka(0, 1) == pytest.approx(linear_cka(X, Y), rel=1e-12)
    assert streamed.cka(1, 0) == pytest.approx(streamed.cka(0, 1), rel=1e-14)
    assert streamed.cka(1, 1) == pytest.approx(1.0, rel=1e-14)
    assert np.allclose(streamed.cross[0, 1], (X - X.mean(0)).T.astype(float) @ (Y - Y.mean(0)), rtol=1e-3, atol=1e-4)


def test_moments_of_the_pairs_asked_for():
    some = moments(lambda: [(X, Y, X[:, :3])], pairs=[(2, 0), (0, 0), (2, 2)])
    assert set(some.cross) == {(0, 0), (2, 2), (0, 2)}
    assert some.cka(2, 0) == pytest.approx(linear_cka(X, X[:, :3]))
    assert some.procrustes(0, 2) == pytest.approx(procrustes(X, X[:, :3]), abs=1e-6)


def test_a_first_block_unlike_the_rest_costs_no_digits():
    x = np.random.default_rng(0).standard_normal((3000, 10)) + 0.3
    x[0] += 5000
    passes = []

    def blocks():
        passes.append(0)
        return iter([(x[:1],), (x[1:],)])

    exact, streamed = moments(lambda: [(x,)]), moments(blocks, single=True)
    assert len(passes) == 2, "the second is about the means"
    assert np.abs(streamed.cross[0, 0] / exact.cross[0, 0] - 1).max() < 1e-6
    assert streamed.products == pytest.approx(exact.products, rel=1e-6)


@pytest.mark.parametrize("size", [1.0, 1e-25, 1e25])
def test_products_in_float32_are_right_to_six_digits_and_more(size):
    x, y = (X * size).astype(np.float32), Y + 3
    blocks = lambda: [(x[:50], y[:50]), (x[50:50], y[50:50]), (x[50:], y[50:])]  # noqa: E731
    exact, single = moments(blocks), moments(blocks, single=True)
    assert single.cka(0, 1) == pytest.approx(exact.cka(0, 1), abs=3e-7)
    assert single.procrustes(0, 1) == pytest.approx(exact.procrustes(0, 1), abs=3e-7)
    assert single.means[1] == pytest.approx(exact.means[1], rel=1e-6)


def test_no_pass_but_the_first_is_needed():
    read = iter([[(X[:60], Y[:60]), (X[60:], Y[60:])]])
    assert moments(lambda: next(read)).cka(0, 1) == pytest.approx(linear_cka(X, Y), rel=1e-12)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("apart", [np.eye(1, 20) * 3, np.eye(20)])
def test_texts_that_share_no_variation_have_no_debiased_cka(apart, single):
    """One text apart from equal ones, or each along an axis of its own: debiased, 0/0, and rounding is no number."""
    alone = np.concatenate([apart, np.zeros((20 - len(apart), 20))]) + 0.1
    assert not moments(lambda: [(alone,)], single=single).shares_variation(0)
    with pytest.raises(NoValueError, match="no two of the 20 texts share any variation"):
        linear_cka(alone, X[:20])
    assert moments(lambda: [(X[:20],)], single=single).shares_variation(0)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_cka_of_tiny_and_of_huge_numbers_is_that_of_others(size):
    assert linear_cka((X * size).astype(np.float32), Y) == pytest.approx(linear_cka(X, Y), rel=1e-5)
