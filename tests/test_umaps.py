"""UMAP: what is fitted is fitted once, what is placed lies where UMAP's own weights say, TensorFlow stays out."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from embedsvc import EmbeddingSet, ReadOptions, Settings, extract_files
from embedsvc.errors import DegenerateInputError, MissingExtraError, SettingsError
from embedsvc.graphs import Graphs
from embedsvc.projection import project
from embedsvc.types import Mode
from embedsvc.umaps import import_umap
from embedsvc.variants import derive
from embedsvc.vectors import unit_rows
from tests import sets

N, GROUPS = 240, 4
BASE = "pre_dropout.inference"
VARIANTS = ["post_dropout.training.0", "post_dropout.head.0", "post_dropout.inference"]


def make(folder, n):
    """Texts of four vocabularies."""
    rng = np.random.default_rng(4)
    words = (rng.integers(0, 25, 10) + 100 * (row % GROUPS) for row in range(n))
    texts = (" ".join(f"w{word}" for word in row) for row in words)
    # Ids of their own: those of a .txt hold its path, and masks follow ids.
    (folder / "t.csv").write_text("id,text\n" + "".join(f"{row},{text}\n" for row, text in enumerate(texts)))
    settings = Settings(modes=tuple(Mode), passes=1, seed=5)
    reading = ReadOptions(id_column="id")
    extract_files([str(folder / "t.csv")], folder / "set", model="fake:64", settings=settings, read_options=reading)
    return EmbeddingSet.read(folder / "set")


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    return make(tmp_path_factory.mktemp("umaps"), N)


@pytest.fixture(scope="module")
def found(grouped):
    return project(grouped, method="umap", variants=VARIANTS, seed=3)


def test_the_map_keeps_neighbourhoods(found):
    assert found.quality[BASE].trustworthiness > 0.85
    assert found.quality[BASE].continuity > 0.85
    groups = np.arange(N) % GROUPS
    centers = np.stack([found.coordinates[BASE][groups == group].mean(axis=0) for group in range(GROUPS)])
    distances = np.linalg.norm(found.coordinates[BASE][:, None] - centers, axis=2)
    assert (distances.argmin(axis=1) == groups).mean() > 0.95


@pytest.mark.slow
def test_other_variants_lie_where_the_weights_of_umap_say(grouped, found):
    points, others = unit_rows(grouped[BASE]), unit_rows(grouped["post_dropout.training.0"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = import_umap().UMAP(n_neighbors=15, metric="cosine", transform_mode="graph", random_state=1, n_jobs=1)
        weights = model.fit(points).transform(others).tocsr()
    weights = weights.multiply(1 / weights.sum(axis=1)).tocsr()
    expected = weights @ found.coordinates[BASE].astype(np.float64)
    away = np.linalg.norm(found.coordinates["post_dropout.training.0"] - expected, axis=1)
    assert np.percentile(away, 99) < 1e-3 * found.extent


def test_the_same_seed_draws_the_same_map_and_a_graph_is_not_computed_twice(grouped, found, monkeypatch):
    graphs = Graphs(grouped, 20)
    assert graphs[BASE].k == 20
    monkeypatch.setattr("embedsvc.umaps.neighbor_graph", None)
    again = project(grouped, method="umap", variants=VARIANTS, seed=3, graphs=graphs)
    for name in found.variants:
        np.testing.assert_array_equal(again.coordinates[name], found.coordinates[name])
    np.testing.assert_array_equal(again.control, found.control)


def test_identical_variants_share_their_places_and_are_not_placed(found):
    assert found.identical == ("post_dropout.inference",)
    assert found.coordinates["post_dropout.inference"] is found.coordinates[BASE]


def test_displacement_is_measured_against_a_control_that_has_not_changed(found):
    assert found.control is not None
    assert found.noise is None
    assert 0 < np.median(found.control) < 0.2 * found.extent
    threshold = found.to_json()["control_p95"]
    movement = found.movements["post_dropout.training.0"]
    np.testing.assert_array_equal(movement.displacement > threshold, movement.moved)
    assert 0 < movement.moved.mean() < 1
    smaller = (found.control < movement.displacement[0]).mean() * 100
    assert movement.percentile[0] == pytest.approx(smaller)


def test_the_jitter_is_below_any_dropout(grouped):
    from embedsvc.umaps import _jittered

    points = unit_rows(grouped[BASE])
    jittered = _jittered(points, 3)
    away = np.linalg.norm(jittered - points, axis=1)
    assert (away > 2e-7).all()
    assert (away < 3e-6).all()
    np.testing.assert_array_equal(jittered, _jittered(points, 3))
    assert not np.array_equal(jittered, _jittered(points, 4))


def test_where_a_text_is_placed_does_not_depend_on_the_others(grouped, found):
    from embedsvc.umaps import _barycentres, _search

    points, others = unit_rows(grouped[BASE]), unit_rows(grouped["post_dropout.head.0"])
    search = _search(points, None, 15)
    some = np.array([5, 17, 200])
    alone = _barycentres(search(others[some]), found.coordinates[BASE])
    np.testing.assert_allclose(alone, found.coordinates["post_dropout.head.0"][some], atol=1e-4)


@pytest.mark.slow
def test_many_texts_are_searched_from_the_graph_that_is_there(grouped, monkeypatch):
    from embedsvc import umaps

    points, others = unit_rows(grouped[BASE]), unit_rows(grouped["post_dropout.head.0"])
    graph = Graphs(grouped, 45)[BASE]
    exact = umaps._search(points, None, 15)(others)[0]
    monkeypatch.setattr(umaps, "_SEARCHED", 100)
    indices, distances = umaps._search(points, graph, 15)(others)
    shared = [len(set(a) & set(b)) / 15 for a, b in zip(exact, indices, strict=True)]
    assert np.mean(shared) > 0.95
    more = np.concatenate([others] * 5)
    told = umaps._recall(points, more, np.concatenate([indices] * 5), 3)
    assert told == pytest.approx(np.mean(shared), abs=0.01)
    monkeypatch.undo()
    assert umaps._recall(points, others, indices, 3) is None
    assert (np.diff(distances, axis=1) >= 0).all()


@pytest.mark.parametrize("n", [4, 7])
def test_few_texts_are_drawn(tmp_path, n):
    few = project(make(tmp_path, n), method="umap")
    for places in few.coordinates.values():
        assert np.isfinite(places).all()
    assert few.parameters["n_neighbors"] == n - 1


def test_a_map_begins_at_the_principal_axes_and_says_so(found, grouped):
    assert found.parameters["init"] == "pca"
    assert "fitted once on pre_dropout.inference from its principal axes (" in found.method
    few = project(grouped, method="umap", variants=VARIANTS[:1], parameters={"init": "random", "n_epochs": 20})
    assert "fitted once on pre_dropout.inference in 20 epochs (" in few.method


def test_equal_vectors_have_no_axes_to_begin_at_but_a_map(tmp_path):
    blocks = sets.blocks(12)
    for block in blocks:
        block.vectors[BASE][:] = 1.0
    sets.write(tmp_path / "set", blocks)
    drawn = project(EmbeddingSet.read(tmp_path / "set"), method="umap", variants=[BASE])
    assert drawn.parameters["init"] == "random"
    assert np.isfinite(drawn.coordinates[BASE]).all()


def test_three_texts_are_too_few(tmp_path):
    with pytest.raises(SettingsError, match="umap: the number of texts is 3, expected 4 or more"):
        project(make(tmp_path, 3), method="umap")


def test_zero_vectors_have_no_place(tmp_path):
    blocks = sets.blocks(12)
    blocks[1].vectors[BASE][2] = 0
    sets.write(tmp_path / "set", blocks)
    with pytest.raises(DegenerateInputError, match=r"pre_dropout\.inference: only zeros in 1 row: 6"):
        project(EmbeddingSet.read(tmp_path / "set"), method="umap")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [({"min_distance": 0.1}, "min_distance"), ({"metric": "euclidean"}, "metric cannot be among the parameters")],
)
def test_parameters_are_those_of_umap_but_for_what_is_set(grouped, parameters, words):
    with pytest.raises(SettingsError, match=words):
        project(grouped, method="umap", parameters=parameters)


@pytest.mark.slow
def test_aligned_maps_name_what_they_depend_on(grouped):
    aligned = project(grouped, method="aligned-umap", variants=VARIANTS[:1], seed=3, parameters={"n_epochs": 50})
    assert "depends on its alignment strength" in aligned.method
    assert aligned.parameters["alignment_regularisation"] == 1e-2
    assert aligned.parameters["n_epochs"] == 50
    assert aligned.quality["post_dropout.training.0"].trustworthiness > 0.8


def test_a_missing_umap_is_named_with_what_to_install():
    code = (
        "import sys; sys.modules['umap'] = None\n"
        "from embedsvc.errors import MissingExtraError\n"
        "from embedsvc.umaps import import_umap\n"
        "try: import_umap()\n"
        "except MissingExtraError as error: print(error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == 'Run: pip install "embedsvc[report]"\n'
    assert MissingExtraError.__name__ == "MissingExtraError"


def test_umap_is_imported_without_tensorflow():
    code = (
        "import sys, warnings\n"
        "warnings.simplefilter('error', ImportWarning)\n"
        "from embedsvc.umaps import import_umap\n"
        "umap = import_umap()\n"
        "print(umap.UMAP.__name__, sorted({'tensorflow', 'keras', 'umap.parametric_umap'} & sys.modules.keys()))"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}  # what is compiled on import takes eight seconds
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "UMAP []\n"
    assert not done.stderr


def test_a_seed_of_63_bits_is_cut_to_what_umap_takes():
    assert 0 <= derive(2**63 - 1, "umap") < 2**32
