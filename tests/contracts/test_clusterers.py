"""What every clusterer declares, held to it; registering one adds it here."""

import numpy as np
import pytest

from embedsvc.agreement import NOISE, adjusted_rand
from embedsvc.clusterers import CLUSTERERS, Clusterer, label
from tests.analysis_sets import blobs

VECTORS, BLOBS = blobs(160, width=8, centers=4, apart=9.0)


@pytest.fixture(params=sorted(CLUSTERERS))
def clusterer(request: pytest.FixtureRequest) -> Clusterer:
    return CLUSTERERS[request.param]


def fit(clusterer: Clusterer, vectors=VECTORS, k=4, seed=3):
    return label(clusterer, vectors, k if clusterer.needs_k else None, seed=seed).labels


def test_well_separated_blobs_are_found(clusterer):
    found = fit(clusterer)
    assert found.dtype == np.int32
    assert found.shape == (160,)
    clustered = found != NOISE
    assert clustered.mean() > 0.8
    assert adjusted_rand(found[clustered], BLOBS[clustered].astype(np.int32)) > 0.95


def test_the_number_of_clusters_is_that_asked_for_where_one_is_needed(clusterer):
    structureless = np.random.default_rng(1).standard_normal((120, 8), dtype=np.float32)
    if clusterer.needs_k:
        for k in (2, 3, 7):
            assert np.unique(fit(clusterer, structureless, k)).tolist() == list(range(k))


def test_noise_is_given_only_where_declared(clusterer):
    scattered = np.concatenate([VECTORS, 60 * np.random.default_rng(2).standard_normal((40, 8), dtype=np.float32)])
    assert (fit(clusterer, scattered) == NOISE).any() == clusterer.gives_noise


def test_the_same_seed_gives_the_same_clusters(clusterer):
    structureless = np.random.default_rng(1).standard_normal((300, 8), dtype=np.float32)
    np.testing.assert_array_equal(fit(clusterer, structureless, 9), fit(clusterer, structureless, 9))


def test_another_seed_matters_only_where_declared(clusterer):
    structureless = np.random.default_rng(1).standard_normal((300, 8), dtype=np.float32)
    fits = [fit(clusterer, structureless, 9, seed) for seed in range(4)]
    assert any(not np.array_equal(fits[0], other) for other in fits[1:]) == clusterer.seeded


def test_the_vectors_are_not_changed(clusterer):
    vectors = VECTORS.copy()
    vectors.flags.writeable = False
    fit(clusterer, vectors)
    np.testing.assert_array_equal(vectors, VECTORS)


def test_scale_and_order_of_the_texts_do_not_matter(clusterer):
    order = np.random.default_rng(4).permutation(len(VECTORS))
    whole = fit(clusterer)
    assert adjusted_rand(whole[order], fit(clusterer, VECTORS[order])) > 0.95
    for scale in (1e-4, 1e4):
        assert adjusted_rand(whole, fit(clusterer, VECTORS * np.float32(scale))) > 0.99


def test_clusters_are_numbered_by_size(clusterer):
    found = fit(clusterer, VECTORS[np.r_[0:160:4, 1:120:4, 2:80:4, 3:40:4]])
    sizes = np.bincount(found[found != NOISE])
    assert sizes.tolist() == sorted(sizes, reverse=True)


def test_fewer_texts_than_clusters_are_a_cluster_each(clusterer):
    if clusterer.needs_k:
        assert sorted(fit(clusterer, VECTORS[:3], 5)) == [0, 1, 2]


def test_it_says_what_it_does(clusterer):
    assert len(clusterer.sentence) > 10
    assert clusterer.fewest_texts >= 2
