"""Graphs against brute force and duplicates; overlap against its definition and chance."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from embedsvc import knn
from embedsvc.errors import DegenerateInputError, MissingExtraError, SettingsError
from embedsvc.graphs import Graphs
from embedsvc.knn import chance, neighbor_graph, overlap
from embedsvc.vectors import check_vectors, unit_rows

RNG = np.random.default_rng(3)
X = RNG.standard_normal((300, 12)).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_an_exact_graph_is_what_all_distances_say(metric):
    graph = neighbor_graph(X, 7, metric=metric)
    distances = cdist(X.astype(float), X.astype(float), metric)
    np.fill_diagonal(distances, np.inf)
    assert np.array_equal(graph.indices, np.argsort(distances, axis=1)[:, :7])
    assert np.allclose(graph.distances, np.sort(distances, axis=1)[:, :7], atol=1e-6)
    assert graph.exact
    assert graph.recall is None
    assert (graph.indices.dtype, graph.distances.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("exact", [True, False])
def test_no_text_is_its_own_neighbour_among_duplicates(exact):
    """Ten copies of each text: itself is rarely the first that is found, and often not found at all."""
    if not exact:
        pytest.importorskip("pynndescent")
    copies = np.repeat(X[:40], 10, axis=0)
    graph = neighbor_graph(copies, 5, exact=exact)
    assert not (graph.indices == np.arange(len(copies))[:, None]).any()
    assert (graph.indices >= 0).all()
    assert all(len(set(row)) == 5 for row in graph.indices.tolist())
    if exact:
        assert (graph.indices // 10 == np.arange(len(copies))[:, None] // 10).all()
        assert np.allclose(graph.distances, 0, atol=1e-6)


def test_neighbours_of_some_rows_are_those_of_the_whole_graph():
    rows = np.array([250, 3, 4])
    some, whole = neighbor_graph(X, 6, rows=rows), neighbor_graph(X, 6)
    assert some.queries.tolist() == [3, 4, 250]
    assert np.array_equal(some.indices, whole.indices[[3, 4, 250]])
    assert np.array_equal(whole.at(some.queries).indices, some.indices)
    assert np.array_equal(whole.first(2).indices, whole.indices[:, :2])
    with pytest.raises(SettingsError, match="does not hold"):
        some.at(np.array([5]))
    with pytest.raises(SettingsError, match="expected 1 to 6"):
        some.first(7)
    assert some.method == "exact cosine neighbours of 3 sampled texts among 300 texts"


def test_an_approximate_graph_states_its_recall_and_repeats_itself():
    pytest.importorskip("pynndescent")
    many = np.random.default_rng(0).standard_normal((1200, 8)).astype(np.float32)
    graph, again, true = (neighbor_graph(many, 10, exact=exact, seed=2**40) for exact in (False, False, True))
    assert np.array_equal(graph.indices, again.indices)
    assert not graph.exact
    assert graph.recall > 0.9
    assert overlap(graph, true, 10).mean() == pytest.approx(graph.recall, abs=0.01)
    assert f"recall {graph.recall:.3f}" in graph.method
    assert (np.diff(graph.distances, axis=1) >= 0).all()


def test_large_sets_are_searched_approximately(monkeypatch):
    monkeypatch.setattr(knn, "EXACT_ROWS", 200)
    monkeypatch.setitem(sys.modules, "pynndescent", None)
    with pytest.raises(MissingExtraError, match=r"embedsvc\[report\]"):
        neighbor_graph(X, 5)
    assert neighbor_graph(X, 5, exact=True).exact
    assert neighbor_graph(X, 5, rows=np.arange(3)).exact


def test_overlap_is_the_shared_share():
    a = neighbor_graph(X, 8)
    b = neighbor_graph(X + 0.3 * RNG.standard_normal(X.shape).astype(np.float32), 8)
    expected = [len(set(p) & set(q)) / 8 for p, q in zip(a.indices.tolist(), b.indices.tolist(), strict=True)]
    assert overlap(a, b, 8).tolist() == expected
    assert overlap(a, a, 3).tolist() == [1.0] * 300
    assert 0.1 < np.mean(expected) < 0.9


def test_unrelated_representations_overlap_by_chance():
    """SCIENCE C: k / (n - 1), .0030 at n = 3,334 and k = 10; here over many pairs at n = 300."""
    graphs = [
        neighbor_graph(np.random.default_rng(i).standard_normal((300, 5)).astype(np.float32), 10) for i in range(8)
    ]
    means = [overlap(a, b, 10).mean() for a, b in pairwise(graphs)]
    assert np.mean(means) == pytest.approx(chance(10, 300), abs=0.004)


def test_overlap_refuses_graphs_of_different_texts():
    a = neighbor_graph(X, 3)
    with pytest.raises(SettingsError, match="different texts: 300 of 300, and 200 of 200"):
        overlap(a, neighbor_graph(X[:200], 3), 3)
    with pytest.raises(SettingsError, match="different texts"):
        overlap(a, neighbor_graph(X, 3, rows=np.arange(5)), 3)
    with pytest.raises(SettingsError, match="expected 1 to 3"):
        overlap(a, a, 4)


def test_too_few_texts_are_named():
    with pytest.raises(SettingsError, match="k is 5, expected 1 to 4: pre hold 5 texts"):
        neighbor_graph(X[:5], 5, name="pre")
    with pytest.raises(SettingsError, match="expected 1 to 2"):
        chance(3, 3)
    assert chance(10, 3334) == pytest.approx(0.0030, abs=1e-5)
    assert chance(1, 2) == 1.0, "there is but one other text"


def test_bad_rows_are_named():
    bad = X.copy()
    bad[4, 2], bad[17, 0], bad[20] = np.nan, np.inf, -np.inf
    with pytest.raises(DegenerateInputError, match=r"post: NaN or infinite numbers in 3 rows: 4, 17, 20 \(counted"):
        neighbor_graph(bad, 3, name="post")
    bad = X.copy()
    bad[9] = 0
    with pytest.raises(DegenerateInputError, match="only zeros in 1 row: 9 "):
        neighbor_graph(bad, 3)
    assert neighbor_graph(bad, 3, metric="euclidean").exact
    with pytest.raises(DegenerateInputError, match="300 rows: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 …"):
        check_vectors(np.full_like(X, np.nan))


def test_huge_numbers_are_no_infinity():
    huge = np.full((3, 4), 3e38, np.float32)
    assert check_vectors(huge) is huge
    assert np.allclose(unit_rows(huge), 0.5)


def test_what_is_no_matrix_is_refused():
    with pytest.raises(SettingsError, match=r"the shape is \(3,\)"):
        check_vectors(np.zeros(3, np.float32))
    with pytest.raises(SettingsError, match="the metric is 'manhattan'"):
        neighbor_graph(X, 3, metric="manhattan")


class Counted(dict):
    asked = 0

    def __getitem__(self, name):
        self.asked += 1
        return super().__getitem__(name)


def test_graphs_are_computed_once_and_shared_by_identical_variants():
    vectors = Counted(pre=X, post=X[::-1].copy())
    graphs = Graphs(vectors, 4, identical={"same": "pre"})
    assert graphs["pre"] is graphs["pre"]
    assert graphs["same"] is graphs["pre"]
    assert graphs["post"] is not graphs["pre"]
    assert vectors.asked == 2
    assert graphs["pre"].k == 4


def test_a_graph_does_not_change_what_it_is_given():
    before = X.copy()
    neighbor_graph(X, 3)
    assert np.array_equal(X, before)


def test_a_graph_of_all_texts_serves_the_sampled_ones_exactly(monkeypatch):
    vectors = np.random.default_rng(4).standard_normal((400, 12)).astype(np.float32)
    rows = np.array([3, 77, 390])
    graphs = Graphs({"a": vectors, "b": vectors[::-1].copy()}, 9, rows=rows, whole=["a"])
    monkeypatch.setattr(knn, "EXACT_ROWS", 100)
    every, some = graphs.all("a"), graphs["a"]
    assert not every.exact
    assert len(every.indices) == 400
    assert some.exact
    assert np.array_equal(some.indices, neighbor_graph(vectors, 9, rows=rows).indices)
    assert np.array_equal(every.indices[rows], some.indices)
    assert graphs.all("b") is None
