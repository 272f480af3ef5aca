import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from embedsvc.agreement import (
    NOISE,
    Noise,
    Spread,
    adjusted_mutual_information,
    adjusted_rand,
    agreement,
    by_chance,
    clusterwise_jaccard,
    match,
    verdict,
)
from embedsvc.errors import SettingsError


def labels(*values):
    return np.array(values, dtype=np.int32)


def noisy_pair(n=20_000):
    """One partition into ten clusters, twice, each time with noise of its own in 40 % of the texts."""
    rng = np.random.default_rng(3)
    a = rng.integers(0, 10, n).astype(np.int32)
    b = a.copy()
    a[rng.random(n) < 0.4] = NOISE
    b[rng.random(n) < 0.4] = NOISE
    return a, b


# --- noise ---


@pytest.mark.parametrize(("noise", "expected"), [("cluster", 0.07), ("singletons", 0.33), ("dropped", 1.00)])
def test_what_noise_counts_as_decides_the_score(noise, expected):
    assert adjusted_rand(*noisy_pair(), noise=noise) == pytest.approx(expected, abs=0.01)


def test_an_agreement_carries_two_conventions_and_the_coverage():
    found = agreement(*noisy_pair())
    assert found.ari == pytest.approx(0.33, abs=0.01)
    assert found.ari_clustered == 1.0
    assert found.ami_clustered == pytest.approx(1.0)
    assert found.coverage == pytest.approx(0.36, abs=0.01)
    assert found.n == 20_000
    assert list(found.to_json()) == ["ari", "ami", "ari_clustered", "ami_clustered", "coverage", "n"]


def test_without_a_text_in_both_the_clustered_scores_have_no_value():
    found = agreement(labels(0, 0, -1, -1), labels(-1, -1, 0, 0))
    assert (found.coverage, found.ari_clustered, found.ami_clustered) == (0.0, None, None)
    assert math.isnan(adjusted_rand(labels(0, -1), labels(-1, 0), noise=Noise.DROPPED))
    assert math.isnan(adjusted_mutual_information(labels(0, -1), labels(-1, 0), noise=Noise.DROPPED))


partitions = st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 4)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(partitions)
def test_adjusted_mutual_information_is_that_of_sklearn(pairs):
    a, b = (np.array(side, dtype=np.int32) for side in zip(*pairs, strict=True))
    assert adjusted_mutual_information(a, b, noise=Noise.CLUSTER) == pytest.approx(
        adjusted_mutual_info_score(a, b), abs=1e-6
    )
    alone = [np.where(side == NOISE, 100 + np.arange(len(side)), side) for side in (a, b)]
    assert adjusted_mutual_information(a, b) == pytest.approx(adjusted_mutual_info_score(*alone), abs=1e-6)
    assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(*alone))


@settings(max_examples=40, deadline=None)
@given(partitions, st.permutations(range(5)))
def test_agreement_is_symmetric_and_blind_to_numbering(pairs, order):
    a, b = (np.array(side, dtype=np.int32) for side in zip(*pairs, strict=True))
    found, back = agreement(a, b), agreement(b, a)
    assert found.ari == pytest.approx(back.ari)
    assert found.ami == pytest.approx(back.ami, abs=1e-6)
    renamed = np.array([*order, NOISE], dtype=np.int32)[b]
    assert agreement(a, renamed).ari == pytest.approx(found.ari)


def test_labels_of_different_texts_are_refused():
    for a, b in ((labels(0, 1), labels(0, 1, 1)), (labels(), labels())):
        with pytest.raises(SettingsError, match="same texts"):
            agreement(a, b)


def test_chance_is_zero():
    found = by_chance(noisy_pair(2_000)[0], seed=1)
    assert isinstance(found, Spread)
    assert found.mean == pytest.approx(0, abs=0.002)
    assert found.low < 0 < found.high < 0.02
    assert found == by_chance(noisy_pair(2_000)[0], seed=1)
    assert Spread.of([]) is None


@pytest.mark.parametrize(
    "clusters", [noisy_pair(500)[0], noisy_pair(500)[0] * 7, labels(0, 0, 1, 1, 2), labels(1, 1, 1), labels(-1, -1, 0)]
)
def test_chance_is_that_of_scikit_learn_for_the_same_shuffles(clusters):
    found = by_chance(clusters, seed=3, n_permutations=20)
    shuffle = np.random.default_rng(3).permutation
    by_hand = [adjusted_rand(clusters, shuffle(clusters)) for _ in range(20)]
    assert (found.mean, found.low, found.high, found.n) == pytest.approx(
        (np.mean(by_hand), min(by_hand), max(by_hand), 20), abs=1e-12
    )


# --- cluster by cluster ---


def test_jaccard_of_each_cluster_with_its_most_similar_one():
    base = labels(0, 0, 0, 0, 1, 1, 2, 2, -1)
    other = labels(5, 5, 5, 7, 7, 7, -1, -1, 5)
    # 0: {0..3} with {0,1,2,8}: 3/5; 1: {4,5} with {3,4,5}: 2/3; 2: all noise; 3: not there.
    np.testing.assert_allclose(clusterwise_jaccard(base, other, [0, 1, 2, 3]), [3 / 5, 2 / 3, 0, np.nan])


def test_jaccard_with_nothing_but_noise_is_zero():
    np.testing.assert_array_equal(clusterwise_jaccard(labels(0, 0, 1), labels(-1, -1, -1), [0, 1]), [0, 0])


def test_jaccard_of_a_clustering_with_itself_is_one():
    a, _ = noisy_pair(500)
    np.testing.assert_array_equal(clusterwise_jaccard(a, match(a, a), range(10)), np.ones(10))


def test_clusters_are_numbered_like_those_they_share_most_texts_with():
    base = labels(0, 0, 0, 1, 1, 1, 2, 2, -1)
    other = labels(9, 9, 3, 3, 3, 3, 4, 4, -1)
    assert match(base, other).tolist() == [0, 0, 1, 1, 1, 1, 2, 2, -1]


def test_matching_is_one_to_one_and_weighs_all_clusters_together():
    # Greedily, 8 would take 0 (6 texts), and 9 would be left with none of its 5 in 0.
    base = labels(*[0] * 11, *[1] * 5)
    other = labels(*[8] * 6, *[9] * 5, *[8] * 5)
    assert match(base, other).tolist() == [1] * 6 + [0] * 5 + [1] * 5


def test_clusters_without_a_partner_get_the_next_free_numbers_larger_first():
    base = labels(0, 0, 0, 0, 1, 1, 1, 1, -1)
    other = labels(4, 4, 4, 4, 4, 4, 6, 7, 7)
    assert match(base, other).tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 2]
    one = labels(0, 0, 0, 0, 0, 0)
    assert match(one, labels(5, 7, 7, 9, 9, 9)).tolist() == [2, 1, 1, 0, 0, 0]
    nothing_shared = match(labels(0, 0, -1, -1), labels(-1, -1, 0, 0))
    assert nothing_shared.tolist() == [-1, -1, 1, 1]


@pytest.mark.parametrize(
    ("jaccard", "words"),
    [
        (1.0, "highly stable"),
        (0.85, "highly stable"),
        (0.849, "stable"),
        (0.75, "stable"),
        (0.749, "a pattern"),
        (0.6, "a pattern"),
        (0.599, "distrust"),
        (0.501, "distrust"),
        (0.5, "dissolved"),
        (0.0, "dissolved"),
        (math.nan, "unknown"),
    ],
)
def test_verdicts_change_at_hennigs_thresholds(jaccard, words):
    assert verdict(jaccard) == words
