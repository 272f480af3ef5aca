"""`stability` on honest sets of the numpy encoder."""

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedsvc import EmbeddingSet, Head, ReadOptions, Settings, cluster, extract_files, knn
from embedsvc.agreement import match
from embedsvc.errors import DegenerateInputError, SettingsError, UnknownVariantError
from embedsvc.graphs import Graphs
from embedsvc.models.base import LoadOptions
from embedsvc.tallies import cosines
from embedsvc.types import Mode
from embedsvc.uncertainty import stability
from tests import sets
from tests.analysis_sets import blobs, make_set

N = 120
READING = ReadOptions(id_column="id")


def write_texts(path, n=N):
    rng = np.random.default_rng(2)
    texts = (" ".join(f"w{word}" for word in rng.integers(0, 60, 9)) for _ in range(n))
    # Ids of their own: those of a .txt hold its path, and masks follow ids.
    path.write_text("id,text\n" + "".join(f"{row},{text}\n" for row, text in enumerate(texts)))
    return str(path)


def make(folder, modes, *, passes=0, seed=None, taps=()):
    settings = Settings(modes=modes, passes=passes, seed=seed, taps=taps, rows_per_part=50)
    extract_files(
        [write_texts(folder / "t.csv")], folder / "set", model="fake:64", settings=settings, read_options=READING
    )
    return EmbeddingSet.read(folder / "set")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return make(tmp_path_factory.mktemp("full"), tuple(Mode), passes=8, seed=5)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make(tmp_path_factory.mktemp("plain"), (Mode.INFERENCE,), taps=("pre_dropout",))


@pytest.fixture(scope="module")
def found(full):
    return stability(full, passes=64, k=5, neighbor_passes=3)


def test_head_passes_are_the_virtual_variants_of_the_set(full, found):
    every = np.stack([full[f"post_dropout.head.{index}"] for index in range(64)]).astype(np.float64)
    np.testing.assert_allclose(found.head.vectors.variance, every.var(axis=0, ddof=1).sum(axis=1), rtol=1e-5)
    logits = np.stack([full[f"logits.head.{index}"] for index in range(64)]).argmax(axis=2)
    flips = (logits != full["logits.inference"].argmax(axis=1)).mean(axis=0)
    np.testing.assert_allclose(found.head.classes.class_flip, flips, atol=1e-12)
    assert found.seed == 5
    assert found.n == N


def test_the_curve_follows_its_closed_form(found):
    assert found.curve.passes == (1, 2, 4, 8, 16, 32, 64)
    np.testing.assert_allclose(found.curve.expected, [1 / math.sqrt(1 + 1 / 9 / t) for t in found.curve.passes])
    np.testing.assert_allclose(found.curve.observed, found.curve.expected, atol=0.005)
    assert (found.curve.low <= found.curve.observed).all()
    assert (found.curve.observed <= found.curve.high).all()
    assert (np.diff(found.curve.observed) > 0).all()


def test_the_mask_predicts_the_scatter_of_head_passes(found):
    for name in ("variance", "cosine_to_pre", "cosine_between"):
        observed, expected = (getattr(each, name).mean() for each in (found.head.vectors, found.head.expected))
        assert observed == pytest.approx(expected, rel=0.02), name


def test_training_passes_are_those_of_the_set(full, found):
    post = np.stack([full[f"post_dropout.training.{index}"] for index in range(8)]).astype(np.float64)
    pre = np.stack([full[f"pre_dropout.training.{index}"] for index in range(8)]).astype(np.float64)
    assert found.training.passes == 8
    np.testing.assert_allclose(found.training.vectors.variance, post.var(axis=0, ddof=1).sum(axis=1))
    to_pre = np.mean([cosines(a, b) for a, b in zip(pre, post, strict=True)], axis=0)
    np.testing.assert_allclose(found.training.vectors.cosine_to_pre, to_pre)
    logits = np.stack([full[f"logits.training.{index}"] for index in range(8)]).argmax(axis=2)
    majority = np.array([np.bincount(votes).max() for votes in logits.T])
    np.testing.assert_allclose(found.training.classes.variation_ratio, 1 - majority / 8)


def test_encoder_and_head_add_up_to_the_variance_of_training_passes(full, found):
    pre = np.stack([full[f"pre_dropout.training.{index}"] for index in range(8)]).astype(np.float64)
    np.testing.assert_allclose(found.split.encoder, pre.var(axis=0, ddof=1).sum(axis=1))
    np.testing.assert_allclose(found.split.head, (pre**2).sum(axis=2).mean(axis=0) / 9)
    assert found.split.observed.sum() == pytest.approx((found.split.encoder + found.split.head).sum(), rel=0.03)
    assert 0.2 < found.split.encoder_share < 0.8
    # Without the encoder's share, the head alone would be far off.
    assert found.split.observed.sum() > 1.3 * found.split.head.sum()


def test_neighbours_flip_more_when_the_encoder_drops_too(found):
    head, training = found.head.neighbors, found.training.neighbors
    assert head.k == 5
    assert len(head.passes) == 3
    assert set(head.passes) <= set(range(64))
    assert set(training.passes) <= set(range(8))
    assert 0 < head.flip.mean() < training.flip.mean() < 1


def test_neighbour_flips_are_counted_by_hand(full, found):
    lost = np.zeros(N)
    for index in found.head.neighbors.passes:
        sets_ = []
        for name in ("pre_dropout.inference", f"post_dropout.head.{index}"):
            x = full[name].astype(np.float64)
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            similar = x @ x.T
            np.fill_diagonal(similar, -np.inf)
            sets_.append([set(row[:5]) for row in np.argsort(-similar, axis=1)])
        lost += [1 - len(a & b) / 5 for a, b in zip(*sets_, strict=True)]
    np.testing.assert_allclose(found.head.neighbors.flip, lost / 3, atol=1e-12)


def test_neighbours_of_sampled_texts_only_are_named_so(full, found):
    some = stability(full, passes=64, k=5, neighbor_passes=3, max_neighbor_texts=40)
    known = ~np.isnan(some.head.neighbors.flip)
    assert known.sum() == 40
    assert "40 sampled texts among 120" in some.sampling
    assert some.head.columns()["bald"].shape == (N,)
    assert stability(full, passes=4, neighbor_passes=0).head.neighbors is None


def test_which_texts_are_sampled_follows_the_seed(full):
    def sampled(seed):
        found = stability(full, passes=2, k=5, neighbor_passes=1, cluster_passes=0, max_neighbor_texts=40, seed=seed)
        return np.flatnonzero(~np.isnan(found.head.neighbors.flip)).tolist()

    assert sampled(3) == sampled(3)
    assert sampled(3) != sampled(4)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Two groups far apart, and ten texts in the middle between them, whose cluster is the mask's to decide."""
    pre, which = blobs(80, centers=2, apart=40.0)
    middle = np.mean([pre[which == group].mean(axis=0) for group in (0, 1)], axis=0)
    pre[:10] = middle + 0.01 * np.random.default_rng(3).standard_normal((10, pre.shape[1]))
    training = [pre + np.float32(1e-3 * index) for index in range(3)]
    return make_set(tmp_path_factory.mktemp("crowded") / "set", pre, training=training)


def test_only_the_texts_between_two_clusters_flip(crowded):
    found = stability(crowded, passes=8, cluster_passes=6, clusters=2, neighbor_passes=0)
    flip = found.head.clusters.flip
    assert flip[:10].mean() > 0.1
    assert not flip[10:].any()
    assert {id_ for id_, value in found.most("head.cluster_flip") if value} <= set(crowded.ids[:10])
    assert found.head.clusters.passes == tuple(range(6))
    assert "k = 2" in found.head.clusters.method
    assert not found.restarts[10:].any()
    assert "Clusters in head passes 0, 1, 2, 3, 4, 5 and training passes 0, 1, 2" in found.sampling


def test_cluster_flips_are_counted_by_hand(full):
    from embedsvc.clusterers import CLUSTERERS, label

    found = stability(full, passes=4, cluster_passes=3, clusters=4, neighbor_passes=0)
    fits = {
        name: label(CLUSTERERS["kmeans"], full[name], 4, seed=found.seed).labels
        for name in (
            "pre_dropout.inference",
            *(f"post_dropout.{m}.{i}" for m in ("head", "training") for i in range(3)),
        )
    }
    base = fits["pre_dropout.inference"]
    for made in (found.head, found.training):
        moved = [match(base, fits[f"post_dropout.{made.mode}.{index}"]) != base for index in range(3)]
        np.testing.assert_array_equal(made.clusters.flip, np.mean(moved, axis=0))
        assert 0 < made.clusters.flip.mean() < 1
    assert found.to_json()["most"]["training.cluster_flip"]


def test_clusters_that_are_there_are_not_made_again(full, monkeypatch):
    made = cluster(full, k=4, n_resamples=0, n_passes=2, seed=1)
    monkeypatch.setattr("embedsvc.uncertainty.cluster", None)
    found = stability(full, passes=4, neighbor_passes=0, clustering=made)
    np.testing.assert_array_equal(found.head.clusters.flip, made.passes[0].flip)
    np.testing.assert_array_equal(found.restarts, made.restart_flip)


def test_masks_of_another_seed_are_those_the_clusters_see(full):
    options = {"passes": 4, "neighbor_passes": 0, "cluster_passes": 3, "clusters": 4}
    made, other = stability(full, **options), stability(full, seed=6, **options)
    assert not np.array_equal(made.head.clusters.flip, other.head.clusters.flip)
    assert other.seed == 6


def test_texts_that_cannot_be_clustered_are_told_of_unless_a_number_was_asked_for(tmp_path):
    same = make_set(tmp_path / "set", np.ones((6, 4), np.float32))
    found = stability(same, passes=4, neighbor_passes=0)
    assert found.head.clusters is None
    assert found.restarts is None
    assert "Clusters were not compared: pre_dropout.inference: all 6 texts have the same vector" in found.sampling
    with pytest.raises(DegenerateInputError, match="all 6 texts have the same vector"):
        stability(same, passes=4, neighbor_passes=0, clusters=2)
    assert (
        "Clusters were not compared: they were not asked for."
        in stability(same, passes=4, cluster_passes=0, neighbor_passes=0).sampling
    )


def test_graphs_at_hand_are_used(full, found, monkeypatch):
    graphs = Graphs(full, 7)
    searched = stability(full, passes=64, k=5, neighbor_passes=3, graphs=graphs)
    np.testing.assert_array_equal(searched.head.neighbors.flip, found.head.neighbors.flip)
    monkeypatch.setattr(knn, "neighbor_graph", None)
    again = stability(full, passes=64, k=5, neighbor_passes=3, graphs=graphs)
    np.testing.assert_array_equal(again.training.neighbors.flip, searched.training.neighbors.flip)


def test_the_same_seed_gives_the_same_numbers(full, found):
    again = stability(full, passes=64, k=5, neighbor_passes=3)
    assert json.dumps(again.to_json()) == json.dumps(found.to_json())
    other = stability(full, passes=64, k=5, neighbor_passes=3, seed=6)
    assert other.seed == 6
    assert not np.array_equal(other.head.vectors.variance, found.head.vectors.variance)


def test_how_rows_are_cut_into_blocks_does_not_matter(full, found, monkeypatch):
    monkeypatch.setattr("embedsvc.uncertainty._ROWS_CELLS", 64 * 64 * 7)
    again = stability(full, passes=64, k=5, neighbor_passes=3)
    for name, values in again.columns().items():
        np.testing.assert_allclose(values, found.columns()[name], atol=1e-6, err_msg=name)


def test_a_set_without_training_passes_or_seed_needs_neither(plain):
    found = stability(plain, passes=8, k=5)
    assert found.seed == 0
    assert found.training is None
    assert found.split is None
    assert found.to_json()["split"] is None


def test_training_passes_without_their_pre_are_not_split(tmp_path):
    found = stability(make(tmp_path, tuple(Mode), passes=2, seed=1, taps=("post_dropout",)), passes=4, k=3)
    assert found.training is not None
    assert np.isnan(found.training.vectors.cosine_to_pre).all()
    assert found.split is None
    assert found.to_json()["scores"]["training.cosine_to_pre"] == {
        "n": 0,
        "mean": None,
        "p5": None,
        "median": None,
        "p95": None,
    }


def test_without_a_trained_head_there_are_only_vectors(plain):
    untrained = EmbeddingSet(plain.path, replace(plain.manifest, head=Head(0.1)), plain._source)
    found = stability(untrained, passes=8, k=5)
    assert found.head.classes is None
    assert not any("entropy" in name or "class" in name for name in found.columns())


def test_json_holds_no_nan(full):
    some = stability(full, passes=4, k=5, max_neighbor_texts=30)
    text = json.dumps(some.to_json(), allow_nan=False)
    assert json.loads(text)["scores"]["head.neighbor_flip"]["n"] == 30


def test_the_texts_that_change_most_come_first(found):
    most = found.most("head.bald", 4)
    values = found.head.classes.bald
    assert [value for _, value in most] == sorted(values, reverse=True)[:4]
    assert most[0][0] == found.ids[int(values.argmax())]
    assert found.to_json()["most"]["head.bald"][0] == {"id": most[0][0], "value": most[0][1]}


def test_scores_are_written_as_parquet(found, tmp_path):
    found.write(tmp_path / "scores.parquet")
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table["id"].to_pylist() == list(found.ids)
    assert table.column_names == ["id", *found.columns()]
    np.testing.assert_array_equal(table["training.head_variance"].to_numpy(), found.split.head)
    facts = json.loads(table.schema.metadata[b"embedsvc.scores"])
    assert facts["seed"] == 5
    assert "not calibrated" in facts["method"]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"passes": 1}, "passes is 1, expected 2 or more"),
        ({"passes": 4, "k": 0}, "k is 0"),
        ({"passes": 4, "neighbor_passes": -1}, "neighbor_passes is -1"),
        ({"passes": 4, "max_neighbor_texts": 0}, "max_neighbor_texts is 0"),
        ({"passes": 4, "cluster_passes": -1}, "cluster_passes is -1"),
        ({"passes": 4, "seed": -1}, "seed"),
    ],
)
def test_numbers_out_of_range_are_refused(plain, options, words):
    with pytest.raises(SettingsError, match=words):
        stability(plain, **options)


def test_a_set_without_inference_is_refused(tmp_path):
    with pytest.raises(UnknownVariantError, match=r"pre_dropout\.inference"):
        stability(make(tmp_path, (Mode.TRAINING,), passes=2, seed=1), passes=4)


@pytest.mark.parametrize("variant", ["pre_dropout.inference", "post_dropout.training.1"])
def test_vectors_that_are_not_finite_are_named(tmp_path, variant):
    blocks = sets.blocks(10)
    blocks[1].vectors[variant][2, 3] = np.nan
    sets.write(tmp_path / "set", blocks)
    with pytest.raises(DegenerateInputError, match=f"{variant}: NaN or infinite numbers in 1 row: 6"):
        stability(EmbeddingSet.read(tmp_path / "set"), passes=4, neighbor_passes=0)


def test_a_vector_of_length_0_has_no_neighbours_but_the_rest_can_be_asked(tmp_path):
    blocks = sets.blocks(10)
    blocks[1].vectors["pre_dropout.inference"][2] = 0
    sets.write(tmp_path / "set", blocks)
    embeddings = EmbeddingSet.read(tmp_path / "set")
    with pytest.raises(DegenerateInputError, match="only zeros in 1 row: 6"):
        stability(embeddings, passes=4)
    found = stability(embeddings, passes=4, neighbor_passes=0)
    for name in ("cosine_to_pre", "cosine_between", "expected_cosine_to_pre", "expected_cosine_between"):
        assert np.flatnonzero(np.isnan(found.head.columns()[name])).tolist() == [6], name
    assert np.isfinite(found.curve.observed).all()


def test_a_head_that_drops_nothing_is_steady(tmp_path):
    rate = LoadOptions(rate=0.0)
    settings = Settings(modes=tuple(Mode), passes=2, seed=1)
    source = write_texts(tmp_path / "t.csv", 20)
    extract_files(
        [source], tmp_path / "set", model="fake:16", settings=settings, read_options=READING, load_options=rate
    )
    found = stability(EmbeddingSet.read(tmp_path / "set"), passes=4)
    assert not found.head.vectors.variance.any()
    assert not found.head.classes.class_flip.any()
    assert not found.head.neighbors.flip.any()
    assert found.curve.expected.tolist() == [1.0] * 3
    facts = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert facts["split"]["encoder_share"] is None, "nothing varies, so nothing can be shared out"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_texts_are_enough(tmp_path, n):
    extract_files([write_texts(tmp_path / "t.csv", n)], tmp_path / "set", model="fake:16", read_options=READING)
    found = stability(EmbeddingSet.read(tmp_path / "set"), passes=4)
    assert found.n == n
    assert (found.head.neighbors is None) == (n == 1)
