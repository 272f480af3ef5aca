import json

import numpy as np
import pytest

from embedsvc import knn
from embedsvc.errors import DegenerateInputError, SettingsError, UnknownNameError
from embedsvc.reporting.panels import explored, flow_ends, flows, groups, neighbors_of, ribbons
from embedsvc.reporting.renderers import RENDERERS, render
from embedsvc.reporting.run import report
from embedsvc.reporting.tables import tables
from embedsvc.reporting.topics import topics
from tests.analysis_sets import blobs, make_set
from tests.reporting.conftest import build


def test_the_verdict_finds_what_was_built_in(small_report):
    assert small_report.reference == "pre_dropout.inference"
    assert small_report.comparison.identical == {"post_dropout.inference": "pre_dropout.inference"}
    kept = {each.variant: each for each in small_report.overlaps}
    beside = kept["post_dropout.training.0"]
    assert beside.encoder
    assert beside.observed < beside.expected
    assert small_report.verdict.headline.startswith(
        "Take pre_dropout.inference (before the dropout, with every dropout off; post_dropout.inference is the same"
    )


def test_the_page_opens_on_the_variant_where_most_is_to_be_seen(small_report):
    assert small_report.focus == "post_dropout.training.0"


def test_the_same_seed_gives_the_same_report(tmp_path):
    embeddings = build(tmp_path, 60)
    first, second = (report(embeddings, seed=3, passes=4, map_method="pca").to_json() for _ in range(2))
    assert first == second


@pytest.mark.slow  # compiles UMAP
def test_the_neighbours_of_a_variant_are_searched_once(tmp_path, monkeypatch):
    searched = []
    real = knn.neighbor_graph

    def counting(vectors, k, **options):
        searched.append(options.get("name"))
        return real(vectors, k, **options)

    monkeypatch.setattr(knn, "neighbor_graph", counting)
    monkeypatch.setattr("embedsvc.umaps.neighbor_graph", counting)
    monkeypatch.setattr("embedsvc.uncertainty.neighbor_graph", counting)
    report(build(tmp_path, 80), seed=3, passes=4, map_method="umap")
    named = [name for name in searched if name and "mask" not in name]
    assert sorted(named) == [
        *("post_dropout.head.0", "post_dropout.head.1", "post_dropout.training.0", "post_dropout.training.1"),
        *("pre_dropout.inference", "pre_dropout.training.0"),
    ]


def test_without_labels_classification_says_so(tmp_path):
    found = report(build(tmp_path, 60, labels=False), seed=3, passes=4, map_method="pca")
    assert found.probe is None
    assert "no text has a label" in found.absent["classification"]
    assert "Not answered: no text has a label" in found.verdict.findings[3].sentences[0]
    assert "probe" not in tables(found)


def test_texts_that_are_there_twice_are_counted(tmp_path, small_report):
    pre, _ = blobs(60)
    words = [f"a text {row % 57}" for row in range(60)]
    found = report(make_set(tmp_path / "set", pre, words=words), seed=3, passes=4, map_method="pca")
    assert found.to_json()["set"]["n_copies"] == 3
    render(found, tmp_path / "page.html", also=("markdown",))
    told = "3 texts are copies of others, word for word."
    assert told in (tmp_path / "page.html").read_text("utf-8")
    assert told in (tmp_path / "page.md").read_text("utf-8")
    assert small_report.facts.about_copies == ""


def test_many_labels_are_cross_validated_once(tmp_path, monkeypatch):
    embeddings = build(tmp_path, 60)
    assert report(embeddings, seed=3, passes=4, map_method="pca").probe.repeats == 4
    monkeypatch.setattr("embedsvc.reporting.analyses._PROBED", 59)
    assert report(embeddings, seed=3, passes=4, map_method="pca").probe.repeats == 1


def test_a_single_variant_is_reported_without_a_comparison(tmp_path):
    pre, _ = blobs(60)
    embeddings = make_set(tmp_path / "one", pre)
    found = report(embeddings, variants=["pre_dropout.inference"], seed=3, passes=4, map_method="pca")
    assert found.comparison is None
    assert found.focus is None
    assert "one variant" in found.verdict.findings[0].sentences[0]
    assert {path.suffix for path in render(found, tmp_path / "r.html", also=["markdown", "json", "png"])} == {
        *(".html", ".md", ".json", ".png")
    }


def test_six_texts_make_a_report_that_promises_little(tmp_path):
    pre, _ = blobs(6)
    found = report(make_set(tmp_path / "six", pre), seed=3, passes=4, map_method="pca", clusters=2)
    assert "6 texts are few" in found.verdict.headline
    assert render(found, tmp_path / "r.html")


def test_fewer_than_four_texts_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="the set holds 3 texts, expected 4 or more"):
        report(make_set(tmp_path / "three", blobs(3)[0]), seed=0)


def test_vectors_that_are_not_numbers_are_refused_with_their_rows(tmp_path):
    pre, _ = blobs(30)
    pre[[4, 9], 0] = np.nan
    with pytest.raises(DegenerateInputError, match="2 rows: 4, 9"):
        report(make_set(tmp_path / "nan", pre), seed=0)


def test_the_map_lists_the_most_changed_texts_first(small_report):
    told = explored(small_report)
    first = np.asarray(told.scores[0].values)
    assert told.scores[0].name == "excess change post_dropout.training.0"
    assert (np.diff(first) <= 0).all()
    row = small_report.ids.index(told.ids[0])
    assert told.texts[0] == small_report.texts[row]
    assert np.array_equal(
        told.maps[told.first][0], small_report.projections["pre_dropout"].coordinates[told.first][row]
    )


def test_lost_and_gained_neighbours_add_up(small_report):
    lost, gained = neighbors_of(small_report, "post_dropout.training.0")
    change = small_report.change("post_dropout.training.0")
    assert [len(lost[row]) for row in range(small_report.n)] == (change * small_report.k).round().astype(int).tolist()
    assert [len(each) for each in lost.values()] == [len(each) for each in gained.values()]
    assert all(row not in lost[row] for row in lost)


def test_groups_are_ranked_by_what_goes_beyond_the_mask(small_report):
    ranked = groups(small_report)
    assert {each.kind for each in ranked} == {"label", "cluster in pre_dropout.inference"}
    assert [each.mean for each in ranked] == sorted((each.mean for each in ranked), reverse=True)
    assert sum(each.n for each in ranked if each.kind == "label") == small_report.n


def test_a_flow_moves_every_text_and_fills_its_blocks(small_report):
    flow = flows(small_report)[0]
    assert flow.variant == "post_dropout.training.0"
    assert flow.counts.sum() == small_report.n
    streams = ribbons(flow)
    assert sum(each.count for each in streams) == small_report.n
    left, right = flow_ends(flow)
    for each in streams:
        assert left[each.left, 0] - 1e-9 <= each.y[-1] <= each.y[0] <= left[each.left, 1] + 1e-9
        middle = len(each.x) // 2
        assert right[each.right, 0] - 1e-9 <= each.y[middle] <= each.y[middle - 1] <= right[each.right, 1] + 1e-9


def test_a_cluster_is_named_by_its_own_words():
    texts = ["bread oven bake"] * 9 + ["train station ticket"] * 9
    found = topics(texts, np.repeat([0, 1], 9))
    assert set(found[0].split(", ")) == {"bread", "oven", "bake"}
    assert set(found[1].split(", ")) == {"train", "station", "ticket"}


def test_texts_without_words_name_nothing():
    assert topics(["1 2", "3 4"], np.array([0, 1])) == {0: "", 1: ""}


def test_a_histogram_of_shares_gives_every_bin_equally_many_values(small_report):
    score = explored(small_report).scores[0]
    edges, counts, expected = score.bins()
    assert counts.sum() == small_report.n
    assert expected.sum() == pytest.approx(small_report.n)
    assert np.diff(edges) == pytest.approx(np.diff(edges)[0])


def test_every_panel_states_its_numbers_and_sampling(small_report):
    for table in tables(small_report).values():
        assert f"{small_report.n:,}" in table.about or "texts" in table.about, table.name
    assert all("150 texts" in score.about for score in explored(small_report).scores)


def test_json_is_the_whole_report(small_report, tmp_path):
    [path] = render(small_report, tmp_path / "r.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["verdict"]["headline"] == small_report.verdict.headline
    assert data["comparison"]["n"] == data["n"] == small_report.n
    assert {"clustering", "stability", "probe", "projections"} <= data.keys()


def test_markdown_escapes_texts(small_report, tmp_path):
    [path] = render(small_report, tmp_path / "r.md")
    text = path.read_text(encoding="utf-8")
    assert "**Take pre\\_dropout.inference" in text
    assert "<script>" not in text
    assert "<i>food" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows
    assert "](javascript" not in text


def test_every_figure_becomes_an_image(small_report, tmp_path):
    written = render(small_report, tmp_path / "r.png")
    names = {path.stem.removeprefix("r-") for path in written}
    assert {"maps", "change", "groups", "curve", "flow-0", "histogram-0", "matrix-knn_overlap_10"} <= names
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 4_000 for path in written)


def test_an_unknown_ending_or_form_is_an_error(small_report, tmp_path):
    with pytest.raises(SettingsError, match="ends in '.pdf'"):
        render(small_report, tmp_path / "r.pdf")
    with pytest.raises(UnknownNameError, match="Did you mean 'markdown'"):
        render(small_report, tmp_path / "r.html", also=["markdow"])
    assert not list(tmp_path.iterdir())


def test_the_renderers_are_those_that_are_told_of():
    assert sorted(RENDERERS) == ["html", "json", "markdown", "png"]
