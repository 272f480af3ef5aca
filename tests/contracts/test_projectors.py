"""What every projector declares and promises, proven on a small honest set."""

import json

import numpy as np
import pytest

from embedsvc import EmbeddingSet, ReadOptions, Settings, extract_files
from embedsvc.errors import SettingsError
from embedsvc.projection import PROJECTORS, project
from embedsvc.types import Mode

N = 60
BASE = "pre_dropout.inference"
FIRST, SECOND, SAME = "post_dropout.head.0", "post_dropout.training.0", "post_dropout.inference"

# Numba compiles each of UMAP's loops anew in every process.
_FAST = {"pca"}


def make(folder, n=N):
    rng = np.random.default_rng(8)
    texts = (" ".join(f"w{word}" for word in rng.integers(0, 40, 8)) for _ in range(n))
    # Ids of their own: those of a .txt hold its path, and masks follow ids.
    (folder / "t.csv").write_text("id,text\n" + "".join(f"{row},{text}\n" for row, text in enumerate(texts)))
    settings = Settings(modes=tuple(Mode), passes=1, seed=5, rows_per_part=25)
    reading = ReadOptions(id_column="id")
    extract_files([str(folder / "t.csv")], folder / "set", model="fake:32", settings=settings, read_options=reading)
    return EmbeddingSet.read(folder / "set")


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    return make(tmp_path_factory.mktemp("projectors"))


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[] if name in _FAST else pytest.mark.slow) for name in PROJECTORS]
)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def found(embeddings, name):
    return project(embeddings, method=name, variants=[FIRST, SAME, SECOND], seed=7)


def test_every_variant_has_a_place_for_every_text(found):
    assert found.variants == (BASE, FIRST, SAME, SECOND)
    for places in found.coordinates.values():
        assert places.shape == (N, 2)
        assert places.dtype == np.float32
        assert places.flags.c_contiguous
        assert np.isfinite(places).all()


def test_what_is_equal_lies_in_one_place_and_what_differs_moves(found):
    assert found.identical == (SAME,)
    np.testing.assert_array_equal(found.coordinates[SAME], found.coordinates[BASE])
    for name in (FIRST, SECOND):
        assert found.movements[name].displacement.min() >= 0
        assert found.movements[name].displacement.max() > 0


def test_a_displacement_comes_with_what_happens_by_itself(found):
    assert (found.control is None) != (found.noise is None)
    for movement in found.movements.values():
        assert ((movement.percentile >= 0) & (movement.percentile <= 100)).all()
        assert movement.moved.any() <= (movement.percentile.max() >= 94)


def test_neighbourhoods_are_kept_better_than_by_chance(found):
    for quality in found.quality.values():
        assert quality.trustworthiness > 0.55
        assert quality.continuity > 0.55


def test_the_same_seed_gives_the_same_places(embeddings, name, found):
    again = project(embeddings, method=name, variants=[FIRST, SAME, SECOND], seed=7)
    for variant in found.variants:
        np.testing.assert_array_equal(again.coordinates[variant], found.coordinates[variant])


def test_variants_stand_for_themselves_where_it_is_declared(embeddings, name, found):
    alone = project(embeddings, method=name, variants=[SECOND], seed=7)
    equal = np.array_equal(alone.coordinates[SECOND], found.coordinates[SECOND])
    assert equal == PROJECTORS[name].independent
    if equal:
        np.testing.assert_array_equal(alone.coordinates[BASE], found.coordinates[BASE])


def test_its_fewest_texts_are_enough_and_one_less_is_refused(name, tmp_path):
    fewest = PROJECTORS[name].fewest_texts
    (tmp_path / "less").mkdir()
    few = project(make(tmp_path, fewest), method=name)
    assert all(np.isfinite(places).all() for places in few.coordinates.values())
    with pytest.raises(SettingsError, match=f"{name}: the number of texts is {fewest - 1}, expected {fewest} or more"):
        project(make(tmp_path / "less", fewest - 1), method=name)


def test_unknown_parameters_are_refused(embeddings, name):
    with pytest.raises(SettingsError, match="no_such_parameter"):
        project(embeddings, method=name, parameters={"no_such_parameter": 1})


def test_it_says_in_json_and_words_what_it_did(found, name):
    facts = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert facts["name"] == name
    assert facts["seed"] == 7
    assert BASE in facts["method"]
    assert f"all {N} texts" in facts["sampling"]
