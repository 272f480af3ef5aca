"""Every declaration of every metric: what is declared holds, and what is not declared does not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ortho_group

from embedsvc.metrics import METRICS

WIDTH = 6
RNG = np.random.default_rng(4)
X = RNG.standard_normal((60, WIDTH)) + np.linspace(0, 1, WIDTH)
Y = X + 0.6 * RNG.standard_normal((60, WIDTH))

CHANGES = {
    "rotation": lambda x: x @ ortho_group.rvs(WIDTH, random_state=11),
    "scale": lambda x: 3.7 * x,
    "shift": lambda x: x + np.array([3, -2, 1, 4, 0, 2]),
}


@pytest.fixture(params=sorted(METRICS))
def measure(request):
    return METRICS[request.param]


def test_it_is_registered_under_its_name_with_a_reference(measure):
    assert METRICS[measure.name] is measure
    assert measure.reference


def test_its_value_on_identical_input(measure):
    assert measure(X, X) == pytest.approx(measure.on_identical, abs=1e-5)
    assert measure(X, Y) != pytest.approx(measure.on_identical, abs=1e-2)


def test_its_symmetry(measure):
    assert measure.symmetric == (measure(X, Y) == pytest.approx(measure(Y, X), abs=1e-9))


@pytest.mark.parametrize("change", CHANGES)
def test_its_invariances_on_either_side(measure, change):
    changed, value = CHANGES[change], measure(X, Y)
    stays = [measure(*pair) == pytest.approx(value, abs=1e-5) for pair in ((changed(X), Y), (X, changed(Y)))]
    assert stays == [change in measure.invariances] * 2


def test_closer_is_closer(measure):
    near, far = (X + noise * np.random.default_rng(5).standard_normal(X.shape) for noise in (0.2, 2.0))
    sign = 1 if measure.closer == "higher" else -1
    assert sign * measure(X, near) > sign * measure(X, far)


def test_texts_may_come_in_any_order(measure):
    order = np.random.default_rng(6).permutation(60)
    assert measure(X[order], Y[order]) == pytest.approx(measure(X, Y), abs=1e-6)


def test_it_does_not_change_its_input(measure):
    x, y = X.astype(np.float32), Y.astype(np.float32)
    before = x.copy(), y.copy()
    measure(x, y)
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 12), n=st.integers(12, 40))
def test_values_stay_in_range(seed, width, n):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, n, width)).astype(np.float32)
    for name, low, high in [
        ("cka", -np.inf, 1),
        ("procrustes", 0, np.pi / 2),
        ("rsa", -1, 1),
        ("cosine", -1, 1),
        ("knn_overlap", 0, 1),
        ("second_order_cosine", -1, 1),
        ("alignment", 0, 4),
    ]:
        assert low - 1e-9 <= METRICS[name](x, y) <= high + 1e-9, name
