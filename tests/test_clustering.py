import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score

from embedsvc import clusterers, clustering
from embedsvc.agreement import NOISE, match
from embedsvc.clusterers import CLUSTERERS, Reduction, label, n_distinct
from embedsvc.clustering import cluster
from embedsvc.errors import DegenerateInputError, SettingsError, UnknownNameError, UnknownVariantError
from tests.analysis_sets import blobs, make_set

PRE, POST, HEAD = "pre_dropout.inference", "post_dropout.inference", "post_dropout.head.0"
VECTORS, BLOBS = blobs(200)
QUICK = {"n_resamples": 4, "n_passes": 3, "seed": 5}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    rng = np.random.default_rng(8)
    training = [VECTORS + 0.3 * rng.standard_normal(VECTORS.shape, dtype=np.float32) for _ in range(3)]
    folder = tmp_path_factory.mktemp("clustering") / "set"
    return make_set(folder, VECTORS, labels=[f"blob {number}" for number in BLOBS], training=training)


@pytest.fixture(scope="module")
def found(labelled):
    return cluster(labelled, k=4, **QUICK)


# --- what comes out ---


def test_every_variant_is_clustered_once_and_of_stochastic_ones_the_first_pass(found):
    assert [each.variant for each in found.variants] == [
        PRE,
        POST,
        "pre_dropout.training.0",
        "post_dropout.training.0",
        HEAD,
    ]
    assert found.reference is found[PRE]
    assert found[POST].same_as == PRE
    assert found[POST].labels is found[PRE].labels
    assert found["post_dropout.training.0"].same_as == "pre_dropout.training.0", "the test made them equal"
    assert found[HEAD].same_as is None


def test_blobs_are_found_with_full_marks_for_stability_and_labels(found):
    reference = found.reference
    assert [each.size for each in reference.clusters] == [50, 50, 50, 50]
    assert reference.against_labels.ari == 1.0
    assert reference.against_labels.n == 200
    for each in reference.clusters:
        assert each.stability > 0.95
        assert each.verdict == "highly stable"
    assert reference.silhouette == pytest.approx(silhouette_score(VECTORS, BLOBS), abs=1e-6)


def test_representatives_are_the_texts_nearest_to_the_centre(found):
    for each in found.reference.clusters:
        inside = np.flatnonzero(found.reference.labels == each.number)
        distances = np.linalg.norm(VECTORS[inside] - VECTORS[inside].mean(axis=0), axis=1)
        assert each.representatives == tuple(f"t{row}" for row in inside[np.argsort(distances)[:3]])


def test_every_two_variants_are_compared(found):
    assert len(found.agreements) == 10
    assert found.agreements[PRE, POST].ari == 1.0
    ari = adjusted_rand_score(found[PRE].labels, found[HEAD].labels)
    assert found.agreements[PRE, HEAD].ari == pytest.approx(ari)
    assert found.agreements[POST, HEAD] == found.agreements[PRE, HEAD]


def test_numbers_of_clusters_agree_between_variants(found):
    assert (found[PRE].labels == found[HEAD].labels).mean() > 0.95


def test_passes_are_the_null_of_the_mask(found):
    head, pre, post = found.passes
    assert (head.stem, head.passes, head.mask_seed) == ("post_dropout.head", (0, 1, 2), 7)
    assert (post.stem, post.passes) == ("post_dropout.training", (0, 1, 2))
    assert pre.stem == "pre_dropout.training"
    assert (head.between.n, head.to_reference.n) == (3, 3)
    assert set(head.stability) == {0, 1, 2, 3}
    assert min(head.stability.values()) > 0.9
    # Pass 0 is the virtual variant, so its agreement with the reference is one of the three.
    assert head.to_reference.low <= found.agreements[PRE, HEAD].ari <= head.to_reference.high
    assert found.expected(PRE, HEAD) == head.to_reference
    assert found.expected(PRE, POST) is None, "equal bit for bit"
    assert found.expected(PRE, "pre_dropout.training.0") is None, "no mask of the head between them"
    assert found.expected(POST, HEAD) == found.expected("pre_dropout.training.0", HEAD) == head.to_reference
    assert found.chance.mean == pytest.approx(0, abs=0.01)
    assert found.restarts.n == 10


def test_a_large_dropout_moves_clusters_and_the_null_says_so(tmp_path):
    vectors, _ = blobs(200, apart=3.0)
    found = cluster(make_set(tmp_path / "set", vectors, rate=0.5), k=4, **QUICK)
    assert found[HEAD].labels.tolist() == match(found[PRE].labels, found[HEAD].labels).tolist()
    head = found.passes[0]
    assert head.between.mean < 0.6
    assert head.between.mean < head.to_reference.mean
    assert found.agreements[PRE, HEAD].ari == pytest.approx(head.to_reference.mean, abs=0.15)


def test_clusters_of_nothing_are_not_called_stable(tmp_path):
    noise = np.random.default_rng(0).standard_normal((200, 16), dtype=np.float32)
    found = cluster(make_set(tmp_path / "set", noise), k=6, variants=[PRE], seed=5, n_passes=2)
    assert {each.verdict for each in found.reference.clusters} <= {"distrust", "dissolved", "a pattern"}
    assert found.restarts.mean < 0.6
    assert found.agreements == {}


def test_the_same_seed_gives_the_same_result(labelled, found):
    again = cluster(labelled, k=4, **QUICK)
    assert again.to_json() == found.to_json()
    assert cluster(labelled, k=4, **QUICK | {"seed": 6}).to_json() != found.to_json()


def test_a_result_is_json_and_a_parquet_file(found, tmp_path):
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["seed"] == 5
    assert told["variants"][0]["clusters"][0]["verdict"] == "highly stable"
    found.write(tmp_path / "clusters.parquet")
    table = pq.read_table(tmp_path / "clusters.parquet")
    assert table.column_names == ["id", *(each.variant for each in found.variants)]
    assert table["id"].to_pylist()[:2] == ["t0", "t1"]
    np.testing.assert_array_equal(table[HEAD].to_numpy(), found[HEAD].labels)


def test_a_variant_that_was_not_clustered_is_named(found):
    with pytest.raises(SettingsError, match=r"'logits\.inference' was not clustered\nThere are: pre_dropout"):
        found["logits.inference"]


def test_resamples_are_bootstraps_of_distinct_texts_the_same_for_every_variant(labelled, monkeypatch):
    drawn = []

    real = clusterers.label_each

    def spy(clusterer, task, items):
        drawn.extend(task(item)[0] for item in items)
        return real(clusterer, task, items)

    monkeypatch.setattr(clustering, "label_each", spy)
    cluster(labelled, k=4, variants=[HEAD], n_resamples=2, n_passes=0, seed=5)
    rows = {name: {row.tobytes(): at for at, row in enumerate(labelled[name])} for name in (PRE, HEAD)}
    pre, post = drawn[:2], drawn[2:4]
    taken = [[rows[PRE][row.tobytes()] for row in resample] for resample in pre]
    assert taken == [[rows[HEAD][row.tobytes()] for row in resample] for resample in post]
    assert taken[0] != taken[1]
    for resample in taken:
        assert len(set(resample)) == len(resample)
        # 1 - 1/e of the texts are in a bootstrap of their number.
        assert len(resample) == pytest.approx(0.632 * 200, abs=20)


def test_between_two_masked_variants_lie_two_masks(tmp_path):
    other = "post_dropout.head.1"
    found = cluster(make_set(tmp_path / "set", VECTORS, rate=0.5), k=4, variants=[HEAD, other], **QUICK)
    assert found.expected(HEAD, other) == found.passes[0].between
    assert found.expected(PRE, other) == found.passes[0].to_reference
    assert found.passes[0].between.mean < found.passes[0].to_reference.mean


def test_passes_without_a_cluster_are_counted(tmp_path):
    noise = np.random.default_rng(0).standard_normal((60, 16), dtype=np.float32)
    found = cluster(make_set(tmp_path / "set", noise), method="hdbscan", variants=[PRE], **QUICK)
    assert found.reference.clusters == ()
    assert found.reference.silhouette is None
    assert found.notes[0].startswith("3 of 3 passes of post_dropout.head have no cluster at all")
    json.dumps(found.to_json(), allow_nan=False)


# --- the number of clusters ---


def test_auto_finds_the_number_of_blobs_and_says_how(labelled):
    found = cluster(labelled, variants=[PRE], n_resamples=0, n_passes=0, seed=1)
    assert found.k == 4
    assert max(found.k_scores, key=found.k_scores.get) == 4
    assert 20 in found.k_scores
    assert f"k = 4 by the best silhouette on {PRE} among 2, 3, 4" in found.sentence
    assert found.passes == ()
    assert found.reference.clusters[0].stability is None
    assert found.reference.clusters[0].verdict == "unknown"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 1}, "k is 1, expected from 2 to the number of texts, which is 200"),
        ({"k": 201}, "k is 201, expected from 2"),
        ({"k": "many"}, "k is 'many', expected a whole number or 'auto'"),
        ({"k": 3, "method": "hdbscan"}, "hdbscan finds the number of clusters itself"),
        ({"n_resamples": -1}, "n_resamples is -1"),
        ({"n_passes": -1}, "n_passes is -1"),
        ({"seed": -1}, "the seed is -1"),
        ({"variants": []}, None),
    ],
)
def test_settings_out_of_range_are_refused(labelled, options, words):
    if words is None:
        assert [each.variant for each in cluster(labelled, k=4, **QUICK | options).variants] == [PRE]
        return
    with pytest.raises(SettingsError, match=words):
        cluster(labelled, **QUICK | options)


def test_unknown_names_are_named(labelled):
    with pytest.raises(UnknownNameError, match="Did you mean 'kmeans'"):
        cluster(labelled, method="k-means", seed=0)
    with pytest.raises(UnknownVariantError, match=r"post_dropout\.hed\.0"):
        cluster(labelled, variants=["post_dropout.hed.0"], seed=0)


# --- noise, and wide vectors ---


def test_hdbscan_leaves_noise_out_of_the_silhouette(tmp_path):
    far = 40 * np.random.default_rng(1).standard_normal((20, 16), dtype=np.float32)
    embeddings = make_set(tmp_path / "set", np.concatenate([blobs(180, apart=9.0)[0], far]))
    found = cluster(embeddings, method="hdbscan", variants=[HEAD], **QUICK)
    reference = found.reference
    assert found.k is None
    assert found.restarts.n == 0, "it draws nothing"
    assert len(reference.clusters) == 4
    assert reference.n_noise >= 20
    assert reference.silhouette > 0.5
    agreement = found.agreements[PRE, HEAD]
    assert agreement.coverage < 0.95
    assert agreement.ari < agreement.ari_clustered
    assert found.to_json()["variants"][0]["n_noise"] == reference.n_noise


@pytest.mark.parametrize("method", ["hdbscan", "gmm"])
def test_wide_vectors_are_reduced_once_on_the_reference(tmp_path, monkeypatch, method):
    narrow = replace(CLUSTERERS[method], widest=5)
    monkeypatch.setitem(clustering.CLUSTERERS._entries, method, narrow)
    embeddings = make_set(tmp_path / "set", VECTORS)
    fitted = []
    fit = Reduction.fit
    monkeypatch.setattr(Reduction, "fit", lambda *a, **b: fitted.append(b["fitted_on"]) or fit(*a, **b))
    found = cluster(embeddings, method=method, k=4 if method == "gmm" else "auto", variants=[HEAD], **QUICK)
    assert fitted == [PRE]
    (reduction,) = found.reductions
    assert reduction.axes.shape == (16, 5)
    assert f"5 principal components fitted on {PRE}" in found.sentence
    assert found.reference.silhouette == pytest.approx(
        silhouette_score(VECTORS[c], found.reference.labels[c])
        if not (c := found.reference.labels != NOISE).all()
        else silhouette_score(VECTORS, found.reference.labels),
        abs=1e-6,
    ), "in the original space"


def test_the_reduction_is_sklearns_pca():
    reduction = Reduction.fit(VECTORS, 3, fitted_on=PRE)
    pca = PCA(3).fit(VECTORS)
    np.testing.assert_allclose(np.abs(reduction.apply(VECTORS)), np.abs(pca.transform(VECTORS)), atol=1e-3)
    assert reduction.explained == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-5)
    assert Reduction.fit(VECTORS[:3], 50, fitted_on=PRE).axes.shape == (16, 2), "three texts span two dimensions"
    assert Reduction.fit(VECTORS, 50, fitted_on=PRE).axes.shape == (16, 16)


# --- large sets ---


@pytest.mark.parametrize("method", ["kmeans", "hdbscan"])
def test_above_its_limit_a_method_is_fitted_on_a_sample_that_the_rest_joins(method):
    vectors, which = blobs(300, width=8, apart=9.0)
    sampled = replace(CLUSTERERS[method], most_texts=120)
    labels = label(sampled, vectors, 4 if sampled.needs_k else None, seed=2).labels
    clustered = labels != NOISE
    assert clustered.mean() > 0.8
    assert adjusted_rand_score(labels[clustered], which[clustered]) > 0.95


def test_what_was_sampled_is_said(labelled, monkeypatch):
    for name in ("_CHOICE_TEXTS", "_SILHOUETTE_TEXTS", "_STABILITY_TEXTS"):
        monkeypatch.setattr(clustering, name, 100)
    monkeypatch.setitem(clustering.CLUSTERERS._entries, "kmeans", replace(CLUSTERERS["kmeans"], most_texts=150))
    found = cluster(labelled, variants=[PRE], **QUICK)
    assert found.sampling == (
        "clusters were fitted on 150 of 200 texts, the others joined the nearest centre; the silhouette is over 100 "
        "clustered texts; resamples drew 100 texts; passes and restarts were clustered on 100 texts"
    )
    assert found.k == 4
    assert found.reference.against_labels.ari > 0.95
    assert found.reference.silhouette == pytest.approx(silhouette_score(VECTORS, BLOBS), abs=0.05)


def test_clusters_are_fitted_on_fewer_texts_where_that_is_asked(labelled):
    found = cluster(labelled, variants=[PRE], max_texts=60, **QUICK)
    assert found.sampling == "clusters were fitted on 60 of 200 texts, the others joined the nearest centre"
    assert found.reference.against_labels.ari > 0.95
    with pytest.raises(SettingsError, match="max_texts is 3, expected 4 or more"):
        cluster(labelled, variants=[PRE], k=4, max_texts=3, **QUICK)


def test_without_sampling_that_is_said_too(found):
    assert found.sampling == "nothing was sampled: all 200 texts"


# --- poor input ---


def test_labels_of_half_the_texts_are_used_for_those(tmp_path):
    labels = [f"blob {number}" if row < 100 else None for row, number in enumerate(BLOBS)]
    found = cluster(make_set(tmp_path / "set", VECTORS, labels=labels), k=4, variants=[PRE], **QUICK)
    assert found.n_labelled == 100
    assert found.reference.against_labels.n == 100
    assert found.notes[0].startswith("100 of 200 texts have a label: all were clustered")
    assert len(found.reference.labels) == 200


def test_without_labels_there_is_no_agreement_with_them(tmp_path):
    found = cluster(make_set(tmp_path / "set", VECTORS), k=4, variants=[PRE], **QUICK)
    assert (found.n_labelled, found.reference.against_labels, found.notes) == (0, None, ())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_named(tmp_path, value):
    vectors = VECTORS.copy()
    vectors[[3, 17], 2] = value
    with pytest.raises(DegenerateInputError, match=r"pre_dropout\.inference.*2 rows: 3, 17"):
        cluster(make_set(tmp_path / "set", vectors), k=4, **QUICK)


def test_constant_vectors_are_an_error(tmp_path):
    with pytest.raises(DegenerateInputError, match=r"pre_dropout\.inference: all 200 texts have the same vector"):
        cluster(make_set(tmp_path / "set", np.ones_like(VECTORS)), k=4, **QUICK)


def test_constant_columns_do_no_harm(tmp_path):
    vectors = VECTORS.copy()
    vectors[:, 3:5] = 0
    found = cluster(make_set(tmp_path / "set", vectors), method="gmm", k=4, variants=[PRE], **QUICK)
    assert len(found.reference.clusters) == 4
    assert adjusted_rand_score(found.reference.labels, BLOBS) > 0.9


def test_duplicates_are_counted_and_too_few_distinct_vectors_are_an_error(tmp_path):
    embeddings = make_set(tmp_path / "set", np.repeat(VECTORS[:5], 8, axis=0))
    found = cluster(embeddings, k=5, variants=[PRE], **QUICK)
    assert found.n_duplicates == 35
    assert [each.size for each in found.reference.clusters] == [8] * 5
    with pytest.raises(DegenerateInputError, match="40 texts have only 5 distinct vectors, too few for 6 clusters"):
        cluster(embeddings, k=6, variants=[PRE], **QUICK)
    automatic = cluster(embeddings, variants=[PRE], **QUICK)
    assert max(automatic.k_scores) <= 5


def test_zero_and_minus_zero_are_one_vector():
    assert n_distinct(np.float32([[0.0, 1], [-0.0, 1], [0, 2]])) == 2


def test_too_few_texts_are_an_error(tmp_path):
    with pytest.raises(DegenerateInputError, match="hdbscan needs at least 10 texts, and there are 9"):
        cluster(make_set(tmp_path / "a", VECTORS[:9]), method="hdbscan", **QUICK)
    with pytest.raises(DegenerateInputError, match="2 texts are too few to choose"):
        cluster(make_set(tmp_path / "b", VECTORS[:2]), **QUICK)


def test_as_many_clusters_as_texts_have_no_silhouette(tmp_path):
    found = cluster(make_set(tmp_path / "set", VECTORS[:6]), k=6, variants=[PRE], **QUICK)
    assert found.reference.silhouette is None
    assert [each.size for each in found.reference.clusters] == [1] * 6
    json.dumps(found.to_json(), allow_nan=False)
