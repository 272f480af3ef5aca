"""Trustworthiness and continuity are those of scikit-learn, also across the seams of its blocks."""

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from embedsvc.map_quality import Quality, quality

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((600, 16)).astype(np.float32)
PLACES = (VECTORS[:, :2] + 5).astype(np.float32)


@pytest.mark.parametrize("k", [1, 14, 200])
def test_it_is_what_scikit_learn_gives(k):
    found = quality(VECTORS, PLACES, k)
    assert found.trustworthiness == pytest.approx(trustworthiness(VECTORS, PLACES, n_neighbors=k), abs=1e-6)
    assert found.continuity == pytest.approx(trustworthiness(PLACES, VECTORS, n_neighbors=k), abs=1e-6)


def test_a_map_that_is_the_vectors_keeps_everything():
    assert quality(VECTORS[:, :2], VECTORS[:, :2] * 3 + 100, 10) == Quality(1.0, 1.0)


def test_without_neighbours_there_is_no_answer():
    assert quality(VECTORS[:2], PLACES[:2], 0) == Quality(None, None)
