"""CKA, Procrustes, RSA and the rest, against independent formulas and the figures of SCIENCE B, C and E."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group, spearmanr

from embedsvc import metrics
from embedsvc.errors import DegenerateInputError, SettingsError
from embedsvc.knn import neighbor_graph
from embedsvc.metrics import METRICS, distances, linear_cka, procrustes, rsa, uniformity
from embedsvc.moments import moments
from embedsvc.vectors import unit_rows

RNG = np.random.default_rng(8)
X = RNG.standard_normal((120, 10)).astype(np.float32)
Y = (X @ RNG.standard_normal((10, 7)) + RNG.standard_normal((120, 7))).astype(np.float32)


def u_centred(x):
    """Song et al. 2012, by the letter: the U-centred Gram matrix."""
    gram = x.astype(float) @ x.astype(float).T
    np.fill_diagonal(gram, 0)
    n = len(gram)
    rows = gram.sum(1)
    centred = gram - rows[:, None] / (n - 2) - rows[None] / (n - 2) + gram.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0)
    return centred


def test_cka_is_that_of_u_centred_gram_matrices():
    k, l = u_centred(X), u_centred(Y)  # noqa: E741 - as in the paper
    expected = (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())
    assert linear_cka(X, Y) == pytest.approx(expected, rel=1e-9)
    assert 0.1 < expected < 0.9


def test_independent_gaussians():
    """SCIENCE B: n = 50, d = 768: biased about d/(n+d) = .936, debiased -.027 in one draw and 0 on average."""
    rng = np.random.default_rng(0)
    debiased, biased = [], []
    for _ in range(12):
        a, b = rng.standard_normal((2, 50, 768))
        debiased.append(linear_cka(a, b))
        a, b = a - a.mean(0), b - b.mean(0)
        biased.append(((a.T @ b) ** 2).sum() / np.sqrt(((a.T @ a) ** 2).sum() * ((b.T @ b) ** 2).sum()))
    assert np.mean(biased) == pytest.approx(768 / 818, abs=0.005)
    assert abs(np.mean(debiased)) < 0.02
    assert min(debiased) < 0, "slightly negative is right"


def test_a_large_mean_does_not_eat_the_digits():
    assert linear_cka(X.astype(float) + 1e6, Y) == pytest.approx(linear_cka(X, Y), rel=1e-6)


def test_procrustes_of_a_rotation_is_zero_and_of_the_unrelated_is_not():
    turned = (X @ ortho_group.rvs(10, random_state=1) * 3 + 5).astype(np.float32)
    assert procrustes(X, turned) == pytest.approx(0, abs=1e-3)
    assert procrustes(X.astype(float), X.astype(float) @ ortho_group.rvs(10, random_state=1)) == pytest.approx(
        0, abs=1e-6
    )
    far = RNG.standard_normal((20_000, 4))
    assert procrustes(far, RNG.standard_normal((20_000, 4))) == pytest.approx(np.pi / 2, abs=0.05)


def test_procrustes_is_the_best_any_rotation_does():
    a, b = (v.astype(float) - v.mean(0) for v in (X, X + 0.5 * RNG.standard_normal(X.shape)))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    best = np.arccos(np.sum(a * b))
    expected = procrustes(a, b)
    assert expected <= best + 1e-9
    m = moments(lambda: [(a, b)])
    rotation, angle = m.rotation(0, 1)
    assert np.arccos(np.sum((a @ rotation) * b)) == pytest.approx(expected, abs=1e-9)
    assert angle == pytest.approx(expected, abs=1e-12)
    for seed in range(20):
        turned = a @ ortho_group.rvs(10, random_state=seed)
        assert np.arccos(np.sum(turned * b)) >= expected


def test_procrustes_fills_the_narrower_side_with_zeros():
    padded = np.concatenate([Y, np.zeros((120, 3), np.float32)], axis=1)
    assert procrustes(X, Y) == pytest.approx(procrustes(X, padded), abs=1e-6)
    assert procrustes(Y, X) == pytest.approx(procrustes(X, Y), abs=1e-6)


def test_rsa_is_the_rank_correlation_of_distances():
    upper = np.triu_indices(120, 1)
    distances = [np.linalg.norm(v[:, None].astype(float) - v[None], axis=2)[upper] for v in (X, Y)]
    assert rsa(X, Y) == pytest.approx(spearmanr(*distances).statistic, abs=1e-6)


def test_distances_are_those_of_scipy_and_copies_have_none():
    x = (1000 + np.random.default_rng(0).standard_normal((80, 5))).astype(np.float32)
    x[3] = x[40]
    found = distances(x)
    assert found == pytest.approx(pdist(x.astype(float)), rel=1e-7)
    assert np.count_nonzero(found == 0) == 1


def test_rsa_samples_many_texts(monkeypatch):
    monkeypatch.setattr(metrics, "RSA_TEXTS", 60)
    rows = metrics.sample_rows(120, 60, 3)
    assert len(set(rows.tolist())) == 60
    assert rsa(X, Y, seed=3) == pytest.approx(rsa(X[rows], Y[rows]))
    assert rsa(X, Y, seed=3) != rsa(X, Y, seed=4)


def test_uniformity_of_the_sphere():
    """SCIENCE E: evenly spread in 768 dimensions, -3.9896."""
    assert uniformity(np.random.default_rng(1).standard_normal((1500, 768))) == pytest.approx(-3.9896, abs=5e-4)
    assert uniformity(np.ones((5, 3), np.float32)) == pytest.approx(0, abs=1e-6)


def test_alignment_of_two_head_masks_is_about_twice_the_rate():
    """SCIENCE E: alignment ≈ 2p."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((300, 768))
    a, b = (x * (rng.random(x.shape) >= 0.1) for _ in range(2))
    assert metrics.alignment(a, b) == pytest.approx(0.2, abs=0.005)


def test_second_order_cosine_is_its_definition():
    x, y = unit_rows(X), unit_rows(Y)
    a, b = neighbor_graph(X, 4), neighbor_graph(Y, 4)
    got = metrics.row_second_order(x, y, a, b)
    for row in (0, 50, 119):
        union = sorted(set(a.indices[row]) | set(b.indices[row]))
        u, v = x[union] @ x[row], y[union] @ y[row]
        assert got[row] == pytest.approx(u @ v / np.linalg.norm(u) / np.linalg.norm(v), abs=1e-6)
    assert metrics.second_order_cosine(X, Y, k=4) == pytest.approx(got.mean())


def test_a_metric_is_found_by_name():
    assert METRICS["cka"](X, Y) == linear_cka(X, Y)
    with pytest.raises(KeyError, match="Did you mean 'procrustes'"):
        METRICS["procustes"]


def test_what_has_no_value_is_an_error():
    constant = np.ones((120, 10), np.float32) * np.float32(0.1)
    for function in (linear_cka, procrustes):
        with pytest.raises(DegenerateInputError, match="x: all 120 texts have the same vector"):
            function(constant, X)
        with pytest.raises(DegenerateInputError, match="y: all 120 texts"):
            function(X, constant)
    with pytest.raises(DegenerateInputError, match="all distances between texts are equal"):
        rsa(X, constant)
    with pytest.raises(DegenerateInputError, match="2 texts have a zero vector on one side.*the first is row 3"):
        metrics.cosine(X, np.where(np.isin(np.arange(120), [3, 9])[:, None], np.float32(0), X))


def test_a_constant_column_counts_for_nothing():
    wider = np.concatenate([X, np.full((120, 2), 7, np.float32)], axis=1)
    assert linear_cka(wider, Y) == pytest.approx(linear_cka(X, Y), rel=1e-9)
    assert procrustes(wider, Y) == pytest.approx(procrustes(X, Y), rel=1e-6)


def test_bad_input_says_what_is_wrong():
    bad = X.copy()
    bad[5, 1] = np.nan
    for name, measure in METRICS.items():
        with pytest.raises(DegenerateInputError, match="y.*1 row: 5 "):
            measure(X, bad)
        with pytest.raises(SettingsError, match="x has 120 rows and y 119"):
            measure(X, X[1:])
        assert measure.name == name
    with pytest.raises(DegenerateInputError, match="representation 1: .* 1 row: 125 "):
        moments(lambda: [(X, X), (X, bad)])
    with pytest.raises(SettingsError, match="x is 10 wide and y 7.*\nTake cka"):
        metrics.cosine(X, Y)
    with pytest.raises(SettingsError, match="debiasing needs 4 or more"):
        linear_cka(X[:3], Y[:3])
    with pytest.raises(SettingsError, match="expected 3 or more"):
        rsa(X[:2], Y[:2])
    with pytest.raises(SettingsError, match="expected 2 or more"):
        uniformity(X[:1])
    with pytest.raises(SettingsError, match="k is 10, expected 1 to 7"):
        metrics.knn_overlap(X[:8], Y[:8])
