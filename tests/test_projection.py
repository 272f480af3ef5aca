"""`project` by PCA, on honest sets of the numpy encoder; tests/test_umaps.py has UMAP."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import chi2
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.manifold import trustworthiness

from embedsvc import EmbeddingSet, ReadOptions, Settings, extract_files, masks
from embedsvc.errors import DegenerateInputError, SettingsError, UnknownNameError, UnknownVariantError
from embedsvc.models.base import LoadOptions
from embedsvc.pca import ellipses, fit_axes, noise_covariance
from embedsvc.projection import _within_noise, project
from embedsvc.types import Mode
from tests import sets

N = 150
BASE = "pre_dropout.inference"


def make(folder, *, n=N, modes=tuple(Mode), rate=None, taps=()):
    rng = np.random.default_rng(2)
    texts = (" ".join(f"w{word}" for word in rng.integers(0, 60, 9)) for _ in range(n))
    # Ids of their own: those of a .txt hold its path, and masks follow ids.
    (folder / "t.csv").write_text("id,text\n" + "".join(f"{row},{text}\n" for row, text in enumerate(texts)))
    stochastic = any(mode.stochastic for mode in modes)
    settings = Settings(
        modes=modes, passes=2 if stochastic else 0, seed=5 if stochastic else None, rows_per_part=40, taps=taps
    )
    options = LoadOptions(rate=rate)
    extract_files(
        [str(folder / "t.csv")],
        folder / "set",
        model="fake:64",
        settings=settings,
        read_options=ReadOptions(id_column="id"),
        load_options=options,
    )
    return EmbeddingSet.read(folder / "set")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return make(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def found(full):
    return project(full, seed=3)


def test_the_axes_are_those_of_sklearn_fitted_on_the_reference(full, found):
    theirs = SklearnPCA(2, svd_solver="full").fit(full[BASE].astype(np.float64))
    axes = fit_axes(full, BASE)
    signs = np.sign((axes.components * theirs.components_.T).sum(axis=0))
    np.testing.assert_allclose(axes.components * signs, theirs.components_.T, atol=1e-8)
    np.testing.assert_allclose(axes.explained, theirs.explained_variance_ratio_)
    for name in found.variants:
        np.testing.assert_allclose(found.coordinates[name] * signs, theirs.transform(full[name]), atol=1e-5)
    largest = np.abs(axes.components).argmax(axis=0)
    assert (axes.components[largest, [0, 1]] > 0).all()


def test_by_default_there_is_one_pass_of_each_tap_and_mode_in_one_space(found):
    assert found.variants == (
        BASE,
        "post_dropout.inference",
        "pre_dropout.training.0",
        "post_dropout.training.0",
        "post_dropout.head.0",
    )
    for places in found.coordinates.values():
        assert places.shape == (N, 2)
        assert places.dtype == np.float32


def test_identical_variants_are_said_to_be_and_share_their_places(found):
    assert found.identical == ("post_dropout.inference",)
    assert found.coordinates["post_dropout.inference"] is found.coordinates[BASE]
    assert "post_dropout.inference" not in found.movements
    assert found.quality["post_dropout.inference"] == found.quality[BASE]


def test_variants_that_turn_out_equal_are_identical_too(tmp_path):
    nothing_dropped = project(make(tmp_path, rate=0.0))
    assert "post_dropout.head.0" in nothing_dropped.identical
    assert set(nothing_dropped.identical) == set(nothing_dropped.variants) - {BASE}
    assert not nothing_dropped.noise.any()


def test_the_noise_ellipse_is_the_scatter_of_passes(full, found):
    axes, head = fit_axes(full, BASE), full.manifest.head
    posts = head.posts(full[BASE][:5], masks.row_keys(full.ids[:5]), seed=5, passes=range(4000))
    for row in range(5):
        places = axes.place(posts[:, row])
        expected = found.noise[row]
        np.testing.assert_allclose(np.cov(places.T), expected, atol=0.08 * np.trace(expected))
        standard_error = np.sqrt(np.trace(expected) / 4000)
        np.testing.assert_allclose(places.mean(axis=0), found.coordinates[BASE][row], atol=4 * standard_error)


def test_the_noise_is_the_formula_written_out(full):
    axes = fit_axes(full, BASE)
    x, w = full[BASE][7].astype(np.float64), axes.components
    expected = 0.1 / 0.9 * w.T @ np.diag(x**2) @ w
    np.testing.assert_allclose(noise_covariance(axes, full[BASE][7:8], 0.1)[0], expected, rtol=1e-5)


def test_head_passes_move_beyond_their_noise_as_often_as_chance_says(full):
    names = [f"post_dropout.head.{index}" for index in range(20)]
    movements = project(full, variants=names).movements
    assert np.mean([movements[name].moved.mean() for name in names]) == pytest.approx(0.05, abs=0.02)
    percentiles = np.concatenate([movements[name].percentile for name in names])
    np.testing.assert_allclose(
        np.percentile(percentiles, [25, 50, 75]), [25, 50, 75], atol=7
    )  # 64 units are not Gaussian yet


def test_a_step_is_measured_along_the_axes_of_its_noise():
    noise = np.array([[2.0, 1.2], [1.2, 1.0]])
    steps = np.array([[1.0, 0.5], [1.0, -0.5], [0.0, 0.0]])
    squared = np.einsum("nc,cd,nd->n", steps, np.linalg.inv(noise), steps)
    expected = 100 * chi2(2).cdf(squared)
    np.testing.assert_allclose(_within_noise(steps, np.stack([noise] * 3)), expected)
    assert expected[0] < 50 < expected[1], "the same length, along the noise and across it"
    assert np.isnan(_within_noise(steps, np.zeros((3, 2, 2)))).all()


def test_training_passes_move_further_than_the_head_alone_explains(found):
    movements = found.movements
    assert movements["post_dropout.training.0"].moved.mean() > 0.2 > movements["post_dropout.head.0"].moved.mean()
    step = found.coordinates["post_dropout.head.0"] - found.coordinates[BASE]
    np.testing.assert_allclose(movements["post_dropout.head.0"].displacement, np.linalg.norm(step, axis=1), rtol=1e-6)


def test_ellipses_have_the_axes_and_angle_of_their_covariance():
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    covariances = np.stack([turn @ np.diag([9.0, 4.0]) @ turn.T, np.diag([1.0, 16.0]), np.zeros((2, 2))])
    axes, angles = ellipses(covariances, coverage=1 - np.exp(-0.5))  # the ellipse of one standard deviation
    np.testing.assert_allclose(axes, [[3, 2], [4, 1], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(angles[:2], [0.3, np.pi / 2])


def test_an_ellipse_holds_its_share_of_passes():
    covariance = np.array([[2.0, 0.7], [0.7, 0.5]])
    (axes,), (angle,) = ellipses(covariance[None], 0.95)
    points = np.random.default_rng(0).multivariate_normal([0, 0], covariance, 20_000)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    inside = (((points @ turn.T) / axes) ** 2).sum(axis=1) < 1
    assert inside.mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 95])
def test_a_coverage_out_of_range_is_refused(coverage):
    with pytest.raises(SettingsError, match="coverage"):
        ellipses(np.zeros((1, 2, 2)), coverage)


def test_quality_is_trustworthiness_both_ways(full, found):
    quality = found.quality["post_dropout.head.0"]
    vectors, places = full["post_dropout.head.0"], found.coordinates["post_dropout.head.0"]
    assert quality.trustworthiness == pytest.approx(trustworthiness(vectors, places, n_neighbors=15))
    assert quality.continuity == pytest.approx(trustworthiness(places, vectors, n_neighbors=15))


def test_quality_of_a_sample_is_named_so(full):
    some = project(full, quality_texts=60, seed=1)
    assert "of 60 sampled of 150 texts" in some.sampling
    assert some.quality[BASE] != project(full, quality_texts=60, seed=2).quality[BASE]
    assert some.quality[BASE] == project(full, quality_texts=60, seed=1).quality[BASE]


def test_variants_of_another_space_have_a_map_of_their_own(full):
    logits = project(full, variants=["logits.training.0", "logits.inference"])
    assert logits.reference == "logits.inference"
    assert logits.variants == ("logits.inference", "logits.training.0")
    assert logits.noise is None
    assert np.isnan(logits.movements["logits.training.0"].percentile).all()
    assert not logits.movements["logits.training.0"].moved.any()
    assert logits.to_json()["variants"][1]["moved"] is None


def test_variants_of_two_spaces_are_refused(full):
    with pytest.raises(SettingsError, match=r"different spaces: .*logits\.inference in that of logits"):
        project(full, variants=["post_dropout.head.0", "logits.inference"])


def test_a_set_without_inference_is_drawn_on_its_first_pass(tmp_path):
    trained = project(make(tmp_path, modes=(Mode.TRAINING,)))
    assert trained.reference == "pre_dropout.training.0"
    assert trained.noise is not None


def test_coordinates_are_written_as_parquet(found, tmp_path):
    found.write(tmp_path / "map.parquet")
    table = pq.read_table(tmp_path / "map.parquet")
    assert table["id"].to_pylist() == list(found.ids)
    places = found.coordinates["post_dropout.head.0"]
    for axis, column in enumerate("xy"):
        np.testing.assert_array_equal(table[f"post_dropout.head.0.{column}"].to_numpy(), places[:, axis])
        assert table[f"post_dropout.head.0.{column}"].type == "float"
    facts = json.loads(table.schema.metadata[b"embedsvc.scores"])
    assert facts["reference"] == BASE
    assert facts["seed"] == 3


def test_the_summary_is_json_without_nan(found):
    facts = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert facts["n"] == N
    assert facts["control_p95"] is None
    assert [each["variant"] for each in facts["variants"]] == list(found.variants)


def test_constant_vectors_have_no_axes(tmp_path):
    blocks = sets.blocks(10)
    for block in blocks:
        block.vectors[BASE][:] = np.float32(0.1)
    sets.write(tmp_path / "set", blocks)
    with pytest.raises(DegenerateInputError, match="all 10 vectors are equal"):
        project(EmbeddingSet.read(tmp_path / "set"))


def test_vectors_that_are_not_finite_are_named(tmp_path):
    blocks = sets.blocks(10)
    blocks[1].vectors["post_dropout.training.0"][2, 3] = np.inf
    sets.write(tmp_path / "set", blocks)
    with pytest.raises(DegenerateInputError, match=r"post_dropout\.training\.0: NaN or infinite numbers in 1 row: 6"):
        project(EmbeddingSet.read(tmp_path / "set"))


def test_two_texts_are_enough_and_one_is_not(tmp_path):
    two = project(make(tmp_path, n=2))
    assert np.isfinite(two.coordinates[BASE]).all()
    assert two.quality[BASE].trustworthiness is None
    (tmp_path / "one").mkdir()
    with pytest.raises(SettingsError, match="pca: the number of texts is 1, expected 2 or more"):
        project(make(tmp_path / "one", n=1))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "pac"}, UnknownNameError, "no projector named 'pac'"),
        ({"variants": []}, SettingsError, "variants is empty"),
        ({"variants": ["post_dropout.hed.0"]}, UnknownVariantError, "no variant"),
        ({"n_neighbors": 1}, SettingsError, "n_neighbors is 1"),
        ({"quality_texts": 20_000}, SettingsError, "expected 10,000 or less"),
        ({"quality_texts": 0}, SettingsError, "quality_texts is 0"),
        ({"parameters": {"whiten": True}}, SettingsError, "pca takes no parameters, got whiten"),
        ({"seed": -1}, SettingsError, "seed"),
    ],
)
def test_what_cannot_be_is_refused(full, options, error, words):
    with pytest.raises(error, match=words):
        project(full, **options)
