"""Cheap permutations against the plain ones they stand for."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import rankdata, spearmanr

from embedsvc import permutations, resampling
from embedsvc.knn import neighbor_graph
from embedsvc.metrics import linear_cka, procrustes
from embedsvc.moments import moments

RNG = np.random.default_rng(3)
M = 60
X = RNG.standard_normal((M, 8))
Y = X[:, :5] + 0.8 * RNG.standard_normal((M, 5))


def orders(draws, seed):
    rng = np.random.default_rng(seed)
    return [rng.permutation(M) for _ in range(draws)]


def matched(draws, seed, m=M):
    """For each match of `permutations.circles` the text that each text is given."""
    found = []
    for circle, shifts in permutations.circles(m, draws, np.random.default_rng(seed)):
        for shift in shifts:
            order = np.empty(m, dtype=int)
            order[circle] = np.roll(circle, -shift)
            found.append(order)
    return found


def test_matches_are_all_different_and_leave_no_text_its_own():
    for m in (4, 5, M):
        drawn = permutations.circles(m, 2 * m, np.random.default_rng(0))
        assert sum(len(shifts) for _, shifts in drawn) == 2 * m
        for circle, shifts in drawn:
            assert sorted(circle) == list(range(m))
            assert len(set(shifts)) == len(shifts)
            assert 1 <= min(shifts) <= max(shifts) < m
    assert len({tuple(order) for order in matched(100, 3)}) == 100


def test_permuted_cka_is_that_of_permuted_texts():
    z = Y[:, :3] ** 2
    squares = [resampling.u_centred(x) for x in (X, Y, z)]
    drawn = permutations.permute_squares(squares, 70, np.random.default_rng(1))
    assert drawn[:, 0, 1] == pytest.approx([linear_cka(X, Y[order]) for order in matched(70, 1)], abs=1e-6)
    assert drawn[:, 1, 2] == pytest.approx([linear_cka(Y, z[order]) for order in matched(70, 1)], abs=1e-6)
    assert np.isnan(drawn[:, 1, 0]).all()


def test_matches_of_a_circle_spread_as_any_permutations_do():
    squares = [resampling.u_centred(x) for x in (X, Y)]
    drawn = [permutations.permute_squares(squares, M - 1, np.random.default_rng(seed))[:, 0, 1] for seed in range(6)]
    real = [linear_cka(X, Y[order]) for order in orders(400, 2)]
    assert np.mean(drawn) == pytest.approx(np.mean(real), abs=3 * np.std(real) / np.sqrt(300))
    assert np.mean([values.std() for values in drawn]) == pytest.approx(np.std(real), rel=0.15)


@pytest.mark.parametrize("m", [M, M - 1])  # of an even number half a circle meets opposite texts twice
def test_permuted_spearman_is_that_of_permuted_texts(m):
    x, y = X[:m], Y[:m]
    squares = [resampling.rank_square(rankdata(pdist(v)), m) for v in (x, y)]
    drawn = permutations.permute_squares(squares, 5, np.random.default_rng(1))
    expected = [spearmanr(pdist(x), pdist(y[order])).statistic for order in matched(5, 1, m)]
    assert drawn[:, 0, 1] == pytest.approx(expected, abs=1e-6)


def test_permuted_cosine_is_that_of_permuted_texts():
    x, y, z = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (X, X**3, Y))
    drawn = permutations.permute_cosines([v.astype(np.float32) for v in (x, y, z)], 5, np.random.default_rng(1))
    assert drawn[:, 0, 1] == pytest.approx([(x * y[order]).sum(1).mean() for order in matched(5, 1)], abs=1e-6)
    assert np.isnan(drawn[:, :, 2]).all(), "there is no cosine of unequal widths"


@pytest.mark.parametrize("room", [200, 10**8])
def test_permuted_overlap_is_that_of_permuted_texts(room, monkeypatch):
    monkeypatch.setattr(permutations, "_TABLE", room)  # bytes: a few rows at a time, or all
    rows = np.sort(np.random.default_rng(4).choice(M, 40, replace=False))
    near = [neighbor_graph(v.astype(np.float32), 6, rows=rows).indices for v in (X, Y, X**2)]
    seeds = range(3)
    found = permutations.permute_overlaps(near, rows, M, (2, 6), [np.random.default_rng(seed) for seed in seeds])
    assert set(found) == {(i, j, k) for i, j in ((0, 1), (0, 2), (1, 2)) for k in (2, 6)}
    rest = np.setdiff1d(np.arange(M), rows)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        shuffled, others, given = rng.permutation(40), rng.permutation(rest), np.empty(M, dtype=int)
        given[rows[shuffled]], given[others] = rows, rest  # the text whose place each text takes
        for (i, j, k), values in found.items():
            shared = [len(set(near[i][at, :k]) & set(given[near[j][other, :k]])) for at, other in enumerate(shuffled)]
            assert values[seed] == pytest.approx(np.mean(shared) / k)


def test_many_graphs_have_their_overlaps_by_chance_as_two_do():
    rng = np.random.default_rng(5)
    near = [neighbor_graph(rng.standard_normal((M, 4)).astype(np.float32), 5).indices for _ in range(24)]
    made = [
        permutations.permute_overlaps(some, np.arange(M), M, (1, 3, 5), [np.random.default_rng(0)])
        for some in (near, near[22:])
    ]
    for k in (1, 3, 5):
        assert made[0][22, 23, k] == made[1][0, 1, k]


def test_permuted_procrustes_of_few_texts_is_that_of_permuted_texts():
    m = moments(lambda: [(X, Y)])
    spectra = tuple(np.linalg.eigvalsh(m.cross[i, i]) for i in (0, 1))
    drawn = permutations.permute_procrustes(lambda: (X, Y), spectra, M, 5, np.random.default_rng(1))
    assert drawn == pytest.approx([procrustes(X, Y[order]) for order in orders(5, 1)], abs=1e-9)


def test_permuted_procrustes_of_many_texts_follows_the_normal_law():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((600, 8)) * np.arange(1, 9), rng.standard_normal((600, 6)) + 3
    m = moments(lambda: [(x, y)])
    spectra = tuple(np.linalg.eigvalsh(m.cross[i, i]) for i in (0, 1))
    drawn = permutations.permute_procrustes(None, spectra, 600, 200, np.random.default_rng(1))
    real = [procrustes(x, y[np.random.default_rng(seed).permutation(600)]) for seed in range(200)]
    assert np.mean(drawn) == pytest.approx(np.mean(real), abs=0.002)
    assert np.std(drawn) == pytest.approx(np.std(real), rel=0.25)
