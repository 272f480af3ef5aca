"""Comparisons of honest sets: expectations that hold, identities that are found, and bad input that is named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from embedsvc import EmbeddingSet, Settings, extract_files, metrics
from embedsvc.comparison import DEFAULT_METRICS, compare
from embedsvc.errors import DegenerateInputError, SettingsError, UnknownNameError, UnknownVariantError
from embedsvc.graphs import Graphs
from embedsvc.knn import chance, neighbor_graph, overlap
from embedsvc.simulation import mechanism
from embedsvc.types import Mode
from tests import sets
from tests.analysis_sets import make_set

FAST = {"n_permutations": 20, "n_bootstrap": 40, "ks": (5, 10)}


def some_texts(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in rng.zipf(1.3, rng.integers(4, 14)) % 700) for _ in range(n)]


def extracted(folder, lines, name="set", **options):
    source = folder / f"{name}.csv"
    source.write_text("id,text\n" + "".join(f"{i},{line}\n" for i, line in lines), encoding="utf-8")
    model = options.pop("model", "fake:48")
    settings = Settings(**{"modes": tuple(Mode), "passes": 2, "seed": 3} | options)
    reading = None
    from embedsvc import ReadOptions

    reading = ReadOptions(id_column="id")
    extract_files([str(source)], folder / name, model=model, settings=settings, read_options=reading)
    return EmbeddingSet.read(folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def honest(folder):
    return extracted(folder, list(enumerate(some_texts(300))))


@pytest.fixture(scope="module")
def result(honest):
    return compare(honest, seed=1, **FAST)


def made_up(folder, name, **vectors):
    """A set on disk of 40 texts whose `pre_dropout.inference` and other stored variants are as given."""
    manifest = replace(sets.MANIFEST, taps=("pre_dropout",), modes=(Mode.INFERENCE, Mode.TRAINING), rows_per_part=64)
    n = len(next(iter(vectors.values())))
    block = sets.block(0, sets.texts(n), manifest)
    given = {key.replace("__", "."): value.astype(np.float32) for key, value in vectors.items()}
    sets.write(folder / name, [replace(block, vectors=dict(block.vectors) | given)], manifest)
    return EmbeddingSet.read(folder / name)


def test_head_passes_are_what_dropout_alone_predicts(result):
    """The head's mask is all there is, so every expectation, closed or simulated, meets what is observed."""
    for other, masks in (("pre_dropout.inference", 1), ("post_dropout.head.1", 2)):
        pair = result.pair("post_dropout.head.0", other)
        assert (pair.mechanism.masks, pair.mechanism.whole) == (masks, True)
        for name, figure in pair.figures.items():
            width = figure.interval.high - figure.interval.low
            assert figure.expected == pytest.approx(figure.observed, abs=max(1.5 * width, 0.004)), name
            assert figure.expected_by == ("closed form" if name in ("cka", "cosine") else "simulation")
            assert abs(figure.observed - figure.expected) < abs(figure.observed - figure.null.mean) / 4


def test_a_training_pass_pairs_with_its_own_pre(result):
    pair = result.pair("pre_dropout.training.0", "post_dropout.training.0")
    assert str(pair.mechanism) == "one head mask on pre_dropout.training.0"
    figure = pair.figures["cosine"]
    assert figure.expected == pytest.approx(figure.observed, abs=0.005)


def test_the_encoders_dropout_shows_as_an_excess(result):
    pair = result.pair("pre_dropout.inference", "post_dropout.training.0")
    assert not pair.mechanism.whole
    for name, figure in pair.figures.items():
        sign = -1 if name == "procrustes" else 1
        assert sign * (figure.expected - figure.observed) > 0, name
    assert np.nanmean(pair.scores["knn_excess_change_5"]) > 0.05


def test_no_mask_between_two_means_that_they_should_be_identical(result):
    for a, b in (
        ("pre_dropout.inference", "pre_dropout.training.0"),
        ("post_dropout.training.0", "post_dropout.head.0"),  # their head masks are keyed alike
    ):
        pair = result.pair(a, b)
        assert pair.mechanism.masks == 0
        assert pair.figures["cka"].expected == 1.0
        assert pair.figures["procrustes"].expected == 0.0
        assert pair.figures["rsa"].expected_by == "identity"
        assert np.allclose(pair.scores["knn_excess_change_5"], 1 - pair.scores["knn_overlap_5"])


def test_observed_figures_are_those_of_the_metrics(honest, result):
    a, b = "pre_dropout.inference", "post_dropout.training.1"
    pair = result.pair(b, a)
    x, y = honest[a], honest[b]
    expected = {
        "cka": metrics.linear_cka(x, y),
        "procrustes": metrics.procrustes(x, y),
        "rsa": metrics.rsa(x, y),
        "cosine": metrics.cosine(x, y),
        "knn_overlap_5": metrics.knn_overlap(x, y, k=5),
        "knn_overlap_10": metrics.knn_overlap(x, y, k=10),
        "second_order_cosine": metrics.second_order_cosine(x, y, k=5),
    }
    assert {name: figure.observed for name, figure in pair.figures.items()} == pytest.approx(expected, abs=1e-6)
    assert np.allclose(pair.scores["cosine"], metrics.row_cosines(x, y))
    each = overlap(neighbor_graph(x, 10), neighbor_graph(y, 10), 10)
    assert np.array_equal(pair.scores["knn_overlap_10"], each)


def test_intervals_hold_what_is_observed_and_nulls_do_not(result):
    for pair in result.pairs:
        for name, figure in pair.figures.items():
            assert figure.interval.low < figure.observed < figure.interval.high, name
            assert figure.null.low <= figure.null.mean <= figure.null.high
            assert not figure.null.low < figure.observed < figure.null.high, name
        assert abs(pair.figures["cka"].null.mean) < 0.02
        assert abs(pair.figures["rsa"].null.mean) < 0.05
        assert pair.figures["knn_overlap_10"].null.mean == pytest.approx(chance(10, 300), abs=0.004)


def test_identical_variants_are_said_to_be_so_and_computed_once(result):
    assert result.identical == {"post_dropout.inference": "pre_dropout.inference"}
    assert "post_dropout.inference" in result.variants
    assert not any("post_dropout.inference" in (pair.a, pair.b) for pair in result.pairs)
    assert len(result.pairs) == 15
    assert result.pair("post_dropout.inference", "pre_dropout.inference") is None
    through = result.pair("post_dropout.inference", "post_dropout.head.0")
    assert through is result.pair("post_dropout.head.0", "pre_dropout.inference")
    matrix = result.matrix("cka")
    assert matrix.shape == (7, 7)
    assert np.array_equal(matrix, matrix.T)
    assert (np.diagonal(matrix) == 1).all()
    assert np.array_equal(matrix[0], matrix[1])
    assert (np.diagonal(result.matrix("procrustes")) == 0).all()
    assert np.diagonal(result.matrix("knn_overlap_10")).tolist() == [1.0] * 7


def test_equal_bytes_are_found_where_no_manifest_tells(folder):
    x = np.random.default_rng(0).standard_normal((40, 16))
    same = made_up(
        folder, "bytes", pre_dropout__inference=x, pre_dropout__training__0=x, pre_dropout__training__1=x + 1
    )
    found = compare(same, **FAST)
    assert found.identical == {"pre_dropout.training.0": "pre_dropout.inference"}
    only = compare(same, variants=["pre_dropout.inference", "pre_dropout.training.0"], **FAST)
    assert only.pairs == ()
    assert only.identical == found.identical


def test_what_was_left_out_is_named(result):
    assert "logits.inference" in result.left_out
    assert "pre_dropout.training.1" in result.left_out
    assert not set(result.left_out) & set(result.variants)


def test_everything_is_repeated_by_its_seed(honest):
    pick = ["pre_dropout.inference", "post_dropout.head.0"]
    one, two, three = (compare(honest, variants=pick, seed=seed, **FAST) for seed in (5, 5, 6))
    assert one.to_json() == two.to_json()
    assert one.to_json()["pairs"][0]["figures"]["rsa"]["null"] != three.to_json()["pairs"][0]["figures"]["rsa"]["null"]
    assert one.pairs[0].figures["cka"].observed == three.pairs[0].figures["cka"].observed
    assert one.seed == 5


def test_the_json_holds_all_figures(result):
    import json

    told = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert told["n"] == 300
    first = told["pairs"][1]
    assert set(first["figures"]) == {
        "cka",
        "procrustes",
        "rsa",
        "cosine",
        "knn_overlap_5",
        "knn_overlap_10",
        "second_order_cosine",
    }
    assert set(first["figures"]["rsa"]) == {"observed", "expected", "expected_by", "null", "interval"}
    assert first["dropout_alone"].startswith("one head mask on pre_dropout.inference; the encoder's")
    assert set(first["figures"]["rsa"]["null"]) == {"mean", "low", "high"}


def test_large_sets_are_sampled_and_say_so(honest, monkeypatch):
    monkeypatch.setattr("embedsvc.shared.ALL_TEXTS", 200)
    monkeypatch.setattr("embedsvc.shared.MANY", 200)
    pick = ["pre_dropout.inference", "post_dropout.head.0"]
    some = compare(honest, variants=pick, sample=60, **FAST)
    assert some.n_simulations == 2
    assert "neighbours of 60 sampled texts among all 300; RSA and permutations of 60 sampled texts" in some.sampling
    assert len(some.queries) == 60
    pair = some.pairs[0]
    full = compare(honest, variants=pick, **FAST).pairs[0].figures
    for name in ("cka", "procrustes"):
        ours, theirs = (each[name].interval for each in (pair.figures, full))
        assert 0.5 < (ours.high - ours.low) / (theirs.high - theirs.low) < 2, "that of all texts, not of the sample"
    assert np.array_equal(np.flatnonzero(~np.isnan(pair.scores["knn_overlap_10"])), some.queries)
    assert not np.isnan(pair.scores["cosine"]).any()
    whole = overlap(*(neighbor_graph(honest[name], 10) for name in pick), 10)
    assert np.array_equal(pair.scores["knn_overlap_10"][some.queries], whole[some.queries])
    for name, figure in pair.figures.items():
        assert figure.expected == pytest.approx(figure.observed, abs=0.05), name
        assert figure.interval.low <= figure.observed <= figure.interval.high or name == "rsa"
    assert pair.figures["knn_overlap_10"].null.mean == pytest.approx(chance(10, 300), abs=0.008)


def test_small_angles_of_many_texts_are_measured_in_float64(folder, monkeypatch):
    """Products in float32 give an angle of 1e-4 where there is none."""
    monkeypatch.setattr("embedsvc.shared.MANY", 10)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 16))
    turned = x @ np.linalg.qr(rng.standard_normal((16, 16)))[0]
    near = made_up(folder, "near", pre_dropout__inference=x, pre_dropout__training__0=turned)
    pick = ("pre_dropout.inference", "pre_dropout.training.0")
    found = compare(near, variants=pick, measures=["procrustes"], **FAST).pairs[0].figures["procrustes"]
    assert found.observed == pytest.approx(metrics.procrustes(near[pick[0]], near[pick[1]]), abs=1e-8)
    assert found.observed < 2e-6


def test_graphs_at_hand_are_used(honest, monkeypatch):
    pick = ["pre_dropout.inference", "pre_dropout.training.0"]
    graphs = Graphs(honest, 12)
    for name in pick:
        graphs[name]
    from embedsvc import knn

    monkeypatch.setattr(knn, "neighbor_graph", None)
    assert compare(honest, variants=pick, graphs=graphs, **FAST).pairs[0].figures["knn_overlap_10"].observed > 0.2
    with pytest.raises(SettingsError, match="graphs given hold 12 neighbours, expected 20"):
        compare(honest, variants=pick, graphs=graphs, **FAST | {"ks": (20,)})


def test_any_registered_measure_can_be_asked_for(honest):
    pick = ["pre_dropout.inference", "post_dropout.head.0"]
    pair = compare(honest, variants=pick, measures=["alignment"], **FAST).pairs[0]
    figure = pair.figures["alignment"]
    assert figure.observed == pytest.approx(metrics.alignment(*(honest[name] for name in pick)))
    assert figure.expected == pytest.approx(figure.observed, rel=0.1)
    assert figure.interval.low < figure.observed < figure.interval.high < figure.null.low


def test_widths_that_differ_leave_cosine_out(honest):
    found = compare(honest, variants=["pre_dropout.inference", "logits.inference"], **FAST)
    pair = found.pairs[0]
    assert pair.omitted == {"cosine": "pre_dropout.inference is 48 wide, logits.inference 3"}
    assert {"cka", "procrustes", "rsa", "knn_overlap_5"} <= set(pair.figures)
    assert pair.mechanism is None
    assert pair.figures["cka"].expected is None
    assert np.isnan(found.matrix("cosine")[0, 1])


# --- two sets ---


def test_two_sets_are_joined_by_id_in_any_order(folder, honest):
    lines = list(enumerate(some_texts(300)))
    again = extracted(folder, lines[::-1], "reversed")
    found = compare(honest, other=again, variants=["pre_dropout.inference"], **FAST)
    assert found.identical == {"other:pre_dropout.inference": "this:pre_dropout.inference"}
    wide = extracted(folder, lines[::-1], "wide", model="fake:32")
    found = compare(honest, other=wide, **FAST)
    assert found.variants == (
        *("this:pre_dropout.inference", "this:post_dropout.training.0"),
        *("other:pre_dropout.inference", "other:post_dropout.training.0"),
    )
    pair = found.pair("this:pre_dropout.inference", "other:pre_dropout.inference")
    assert pair.mechanism is None
    assert {figure.expected for figure in pair.figures.values()} == {None}
    y = wide["pre_dropout.inference"][::-1]
    assert pair.figures["cka"].observed == pytest.approx(metrics.linear_cka(honest["pre_dropout.inference"], y))
    assert found.pair("this:pre_dropout.inference", "this:post_dropout.training.0").mechanism is not None


def test_sets_that_share_some_ids_need_an_inner_join(folder, honest):
    lines = list(enumerate(some_texts(300)))
    part = extracted(folder, [*lines[100:], (900, "w1 w2")], "part", model="fake:32")
    with pytest.raises(
        SettingsError, match="has 300 texts, .* 201, and 200 ids are in both; not in both: '0'.*\n.*--join inner"
    ):
        compare(honest, other=part, **FAST)
    found = compare(honest, other=part, join="inner", variants=["pre_dropout.inference"], **FAST)
    assert found.n == 200
    assert found.ids == tuple(str(i) for i in range(100, 300))
    rows = honest["pre_dropout.inference"][100:]
    expected = metrics.linear_cka(rows, part["pre_dropout.inference"][:200])
    assert found.pairs[0].figures["cka"].observed == pytest.approx(expected)


def test_sets_that_share_nothing_or_other_texts_are_refused(folder, honest):
    none = extracted(folder, [(f"x{i}", line) for i, line in enumerate(some_texts(20))], "none")
    with pytest.raises(SettingsError, match="and 0 ids are in both.*\nExtract both from the same texts"):
        compare(honest, other=none, join="inner", **FAST)
    changed = extracted(folder, list(enumerate(some_texts(300, seed=9))), "changed")
    with pytest.raises(SettingsError, match=r"3\d\d of 300 shared ids stand for different texts, the first is '0'"):
        compare(honest, other=changed, **FAST)
    with pytest.raises(SettingsError, match="join is 'outer'"):
        compare(honest, other=none, join="outer", **FAST)


def test_one_model_under_two_seeds_differs_by_two_masks(folder, honest):
    again = extracted(folder, list(enumerate(some_texts(300))), "seeds", seed=4)
    found = compare(honest, other=again, variants=["post_dropout.head.0"], **FAST)
    pair = found.pairs[0]
    assert str(pair.mechanism) == "two independent head masks on pre_dropout.inference"
    assert pair.figures["cka"].expected == pytest.approx(pair.figures["cka"].observed, abs=0.02)


def test_mechanisms_are_none_for_other_taps(honest):
    assert mechanism((honest, "cls.inference"), (honest, "cls.training.0")) is None


# --- bad input ---


def test_a_single_variant_is_refused(honest):
    with pytest.raises(SettingsError, match="there is one variant to compare, pre_dropout.inference.*\nThe set holds"):
        compare(honest, variants=["pre_dropout.inference"], **FAST)
    with pytest.raises(UnknownVariantError, match="post_dropout.trainning.0"):
        compare(honest, variants=["pre_dropout.inference", "post_dropout.trainning.0"], **FAST)
    with pytest.raises(UnknownNameError, match="Did you mean 'cka'"):
        compare(honest, measures=["ckaa"], **FAST)


def test_too_few_texts_are_refused_and_default_ks_give_way(folder):
    x = np.random.default_rng(0).standard_normal((30, 16))
    few = made_up(folder, "thirty", pre_dropout__inference=x)
    pick = ["pre_dropout.inference", "pre_dropout.training.0"]
    with pytest.raises(SettingsError, match="k is 30, expected 1 to 29: there are 30 texts"):
        compare(few, variants=pick, **FAST | {"ks": (5, 30)})
    found = compare(few, variants=pick, n_permutations=20, n_bootstrap=20)
    assert found.ks == (10,)
    assert found.notes == ("30 texts have too few neighbours for k = 50",)
    three = made_up(folder, "three", pre_dropout__inference=x[:3])
    with pytest.raises(SettingsError, match="there are 3 texts to compare, expected 4 or more"):
        compare(three, variants=pick)


def test_vectors_without_a_value_name_variant_and_rows(folder):
    rng = np.random.default_rng(0)
    good = rng.standard_normal((40, 16))
    bad, zero = good.copy(), good.copy()
    bad[[3, 8], 2] = np.nan, np.inf
    zero[5] = 0
    pick = {"variants": ["pre_dropout.inference", "pre_dropout.training.0"], **FAST}
    with pytest.raises(DegenerateInputError, match="pre_dropout.training.0: NaN or infinite numbers in 2 rows: 3, 8 "):
        compare(made_up(folder, "nan", pre_dropout__inference=good, pre_dropout__training__0=bad), **pick)
    with pytest.raises(DegenerateInputError, match="pre_dropout.training.0: only zeros in 1 row: 5 "):
        compare(made_up(folder, "zero", pre_dropout__inference=good, pre_dropout__training__0=zero), **pick)
    with pytest.raises(DegenerateInputError, match="pre_dropout.training.0: all 40 texts have the same vector"):
        compare(made_up(folder, "flat", pre_dropout__inference=good, pre_dropout__training__0=0 * good + 0.1), **pick)


def test_constant_columns_and_duplicates_are_no_error_but_duplicates_are_told(folder):
    x = np.random.default_rng(0).standard_normal((40, 16))
    x[:, 3] = 2.5
    x[20:25] = x[0]
    found = compare(made_up(folder, "twins", pre_dropout__inference=x), **FAST)
    assert "5 texts have the very vector of another in pre_dropout.inference" in found.notes[0]
    for pair in found.pairs:
        assert all(np.isfinite(figure.observed) for figure in pair.figures.values())
        assert set(pair.figures) >= set(DEFAULT_METRICS) - {"knn_overlap"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_permutations": 5}, "n_permutations is 5, expected 20 or more"),
        ({"n_simulations": 1}, "n_simulations is 1, expected 2"),
        ({"sample": 3000}, "at most 2000"),
        ({"sample": 3}, "sample is 3, expected 10"),
        ({"ks": ()}, "ks is empty"),
        ({"seed": -1}, "the seed is -1"),
    ],
)
def test_settings_out_of_range_are_refused(honest, options, message):
    with pytest.raises(SettingsError, match=message):
        compare(honest, **FAST | options)


def test_cka_alone_streams_from_the_set(honest, monkeypatch):
    pick = ["pre_dropout.inference", "post_dropout.head.0", "pre_dropout.training.0", "post_dropout.training.0"]
    whole = compare(honest, variants=pick, **FAST)
    monkeypatch.setattr(EmbeddingSet, "__getitem__", None)
    monkeypatch.setattr("embedsvc.sides.ROWS", 70)
    streamed = compare(honest, variants=pick, measures=["cka"], **FAST)
    for one, other in zip(streamed.pairs, whole.pairs, strict=True):
        (figure,) = one.figures.values()
        expected = other.figures["cka"].to_json()
        assert figure.observed == pytest.approx(expected["observed"], rel=1e-9)
        assert figure.expected == pytest.approx(expected["expected"], rel=1e-9)
        assert figure.interval.low == pytest.approx(expected["interval"]["low"], rel=1e-6)
    without_base = compare(honest, variants=pick[1:], measures=["cka"], **FAST)
    assert without_base.pairs[0].figures["cka"].expected == pytest.approx(
        whole.pair(*pick[1:3]).figures["cka"].expected
    )


def test_a_measure_without_a_value_is_left_out_with_its_reason_and_the_others_stay(tmp_path):
    """Every text along an axis of its own: all distances are equal, and no two texts share any variation."""
    apart, rng = np.eye(24, dtype=np.float32), np.random.default_rng(0)
    moved = (apart + rng.standard_normal((24, 24)) / 5).astype(np.float32)
    names = ["pre_dropout.inference", "pre_dropout.training.0"]
    found = compare(make_set(tmp_path / "set", apart, training=[moved]), variants=names)
    pair = found.pair(*names)
    assert "all distances between texts of pre_dropout.inference are equal" in pair.omitted["rsa"]
    assert "no two texts share any variation of pre_dropout.inference" in pair.omitted["cka"]
    assert "row 0 is unlike all of its neighbours" in pair.omitted["second_order_cosine"]
    assert set(pair.figures) == {"procrustes", "cosine", "knn_overlap_10"}
    json.dumps(found.to_json(), allow_nan=False)
