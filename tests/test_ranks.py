"""Ranks that are counted out, against scipy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata

from embedsvc.ranks import later_sums, ranks


@given(arrays(np.float64, st.integers(1, 40), elements=st.integers(0, 12).map(float)))
def test_ranks_of_few_values_are_those_of_scipy(values):
    assert ranks(values).tolist() == rankdata(values).tolist()


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1.0, 1e300])
def test_ranks_do_not_depend_on_how_large_values_are(size):
    values = size * np.array([3, 0, 1.5, 1e-7, 3, 0])
    assert ranks(values).tolist() == rankdata(values).tolist()


def test_correlations_of_many_ranks_are_right_to_a_millionth():
    rng = np.random.default_rng(0)
    narrow = 100 + rng.standard_normal(400_000)  # 95 % of them within 2 % of each other
    other = narrow + rng.standard_normal(len(narrow))
    narrow[:3], other[:3] = (0, 1e-9, 1e9), (1e9, 0, 1e-9)  # and a range that leaves few bins to them
    exact = np.corrcoef(rankdata(narrow), rankdata(other))[0, 1]
    assert np.corrcoef(ranks(narrow), ranks(other))[0, 1] == pytest.approx(exact, abs=2e-6)


def test_sums_of_later_groups_count_half_of_the_own():
    groups, values = np.array([0, 2, 1, 2], np.int32), np.array([1.0, 2, 4, 8])
    assert later_sums(groups, values).tolist() == [14.5, 5, 12, 5]
