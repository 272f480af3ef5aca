"""k-means begins as well as scikit-learn's own does, and the same way for the same seed."""

import numpy as np
import pytest
from sklearn.cluster import KMeans, kmeans_plusplus

from embedsvc.kmeans import SKETCH, kmeans, starts
from tests.analysis_sets import blobs

VECTORS, BLOBS = blobs(400)
WIDE = (VECTORS @ np.random.default_rng(1).standard_normal((VECTORS.shape[1], 300))).astype(np.float32)
WIDE += 0.2 * np.random.default_rng(2).standard_normal(WIDE.shape, dtype=np.float32)


@pytest.mark.parametrize("points", [VECTORS, WIDE], ids=["narrow", "wider than the sketch"])
def test_most_starts_have_a_text_of_every_blob(points):
    chosen = starts(points - points.mean(axis=0), 4, 100, np.random.default_rng(0))
    assert chosen.shape == (100, 4)
    assert np.mean([len(set(BLOBS[rows])) == 4 for rows in chosen]) >= 0.75, (
        "sklearn's have in five of six; by chance it would be one in ten"
    )


def test_starts_lie_as_near_to_the_texts_as_those_of_sklearn():
    points = np.random.default_rng(3).standard_normal((600, 2 * SKETCH)).astype(np.float32)

    def left(centres):
        return np.square(points[:, None] - centres).sum(axis=2).min(axis=1).sum()

    ours = np.mean([left(points[rows]) for rows in starts(points, 15, 10, np.random.default_rng(0))])
    theirs = np.mean([left(kmeans_plusplus(points, 15, random_state=seed)[0]) for seed in range(10)])
    assert ours < 1.03 * theirs  # of vectors that no directions tell from others


def test_a_point_is_never_chosen_twice_while_others_are_left():
    points = np.random.default_rng(4).standard_normal((12, 5)).astype(np.float32)
    for rows in starts(points, 12, 3, np.random.default_rng(0)):
        assert sorted(rows) == list(range(12))


def test_where_all_is_chosen_copies_do_no_harm():
    assert starts(np.zeros((5, 2), np.float32), 3, 2, np.random.default_rng(0)).shape == (2, 3)


def test_clusters_are_as_tight_as_those_of_sklearn():
    def inertia(labels):
        return sum(np.square(WIDE[labels == at] - WIDE[labels == at].mean(axis=0)).sum() for at in np.unique(labels))

    ours = np.mean([inertia(kmeans(WIDE, 10, seed)) for seed in range(5)])
    theirs = np.mean([KMeans(10, n_init=3, random_state=seed).fit(WIDE).inertia_ for seed in range(5)])
    assert ours < 1.01 * theirs


def test_the_same_seed_gives_the_same_clusters_and_another_others():
    first = kmeans(WIDE, 10, 1)
    np.testing.assert_array_equal(kmeans(WIDE, 10, 1), first)
    assert (kmeans(WIDE, 10, 2) != first).any()
