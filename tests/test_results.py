import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.figure
import numpy as np
import pandas as pd
import polars as pl
import pytest

from embedsvc import compare, inspect, neighbors, project, report, stability
from embedsvc.clustering import cluster
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import MissingExtraError, SettingsError
from embedsvc.extraction import Summary
from embedsvc.probing import probe
from embedsvc.reporting.report import Report
from embedsvc.results import Columns, Result
from embedsvc.training.card import SCORES
from embedsvc.training.run import Trained
from tests.reporting.conftest import HOSTILE, build

N = 60


def trained() -> Trained:
    """A finished training, as it is read from its record."""
    scores = dict.fromkeys(SCORES, 0.5) | {"n": 10, "f1": {"bad": 0.25, "good": 0.75}}
    record = {
        "settings": {"encoder": "minilm-l6"},
        "task": "binary",
        "classes": ["bad", "good"],
        "split": {"train": 40, "validation": 10, "test": 10},
        "history": [{"loss": 1.0 / epoch, "validation_loss": 1.1 / epoch} for epoch in (1, 2, 3)],
        "best_epoch": 1,
        "scores": dict.fromkeys(("test", "test_by_frequency", "validation"), scores),
    }
    return Trained(Path("model"), record, 3, 10.0)


def summary(embeddings: EmbeddingSet) -> Summary:
    """What a run says that made this set."""
    return Summary(Path("set"), embeddings.manifest, N, 5 * N, 1.5, 0.5, None, None)


# Every result there is, and rows of its table where that is known beforehand.
RESULTS: dict[str, tuple[Callable[[EmbeddingSet], Result], int | None]] = {
    "EmbeddingSet": (lambda embeddings: embeddings, N),
    "Comparison": (lambda embeddings: compare(embeddings, measures=["cka", "knn_overlap"]), None),
    "Clustering": (lambda embeddings: cluster(embeddings, k=4, n_resamples=2, n_passes=2, seed=0), N),
    "Projection": (lambda embeddings: project(embeddings), N),
    "Stability": (lambda embeddings: stability(embeddings, passes=8), N),
    "Probe": (lambda embeddings: probe(embeddings, repeats=1, seed=0), None),
    "Retrieval": (lambda embeddings: neighbors(embeddings, id="t7", k=5), None),
    "Report": (lambda embeddings: report(embeddings, passes=4, map_method="pca"), 4),
    "Summary": (summary, None),
    "Trained": (lambda embeddings: trained(), len(SCORES) + 2),
    "Inspection": (lambda embeddings: inspect("fake:16"), 2),
}


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSet:
    return build(tmp_path_factory.mktemp("results"), N)


@pytest.fixture(scope="module", params=RESULTS)
def found(request: pytest.FixtureRequest, embeddings: EmbeddingSet) -> Result:
    return RESULTS[request.param][0](embeddings)


def test_every_result_is_tried():
    """A new result has to be added above."""
    assert {each.__name__ for each in Result.__subclasses__() if each.__module__.startswith("embedsvc.")} == set(
        RESULTS
    )


def test_a_result_is_a_pandas_frame(found):
    frame = found.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == (RESULTS[type(found).__name__][1] or len(frame)) > 0
    assert frame.columns.is_unique


def test_both_frames_hold_the_same(found):
    one, other = found.to_pandas(), found.to_polars()
    assert isinstance(other, pl.DataFrame)
    assert list(one.columns) == other.columns
    for name in other.columns:
        mine, theirs = list(one[name]), other[name].to_list()
        if other[name].dtype.is_numeric():
            np.testing.assert_array_equal(np.array(mine, float), np.array(theirs, float))
        else:
            assert [None if pd.isna(value) else value for value in mine] == theirs


def test_a_result_draws_itself(found):
    figure = found.plot()
    assert isinstance(figure, matplotlib.figure.Figure)
    assert figure._repr_png_().startswith(b"\x89PNG"), "a notebook shows it"
    assert any(axes.has_data() or axes.texts for axes in figure.axes)


def test_a_result_draws_on_a_part_of_another_figure(found):
    whole = matplotlib.figure.Figure()
    left, right = whole.subfigures(1, 2)
    assert found.plot(figure=right) is right
    assert right.axes
    assert not left.axes


def test_a_result_says_in_one_line_what_it_is(found):
    line = repr(found)
    assert line.startswith(f"<{type(found).__name__} ")
    assert len(line) < 500
    assert "\n" not in line


def test_a_result_shows_itself_in_a_notebook(found):
    page = found._repr_html_()
    assert page.count("<table>") == 1
    assert 1 <= page.count("<tr>") <= 11
    assert len(page) < 15_000


def test_a_report_is_explored_in_a_frame_that_reaches_nothing(found):
    if not isinstance(found, Report):
        return
    frame = found.explore(height=700)
    page = frame._repr_html_()
    assert page.startswith("<iframe srcdoc=")
    assert 'sandbox="allow-scripts"' in page, "and not allow-same-origin: texts come from strangers"
    assert page.count("<") == 2, "all of the page is inside the attribute"
    assert "height:700px" in page
    assert frame._repr_png_().startswith(b"\x89PNG"), "what a repository shows"


def test_texts_are_shown_as_text_whatever_they_say(embeddings):
    shown = neighbors(embeddings, id="t0", k=10)._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script" not in shown
    assert "<img" not in shown
    assert any(text.startswith("<script") for text in HOSTILE)


def test_a_set_gives_vectors_to_frames(embeddings):
    name = "post_dropout.head.5"
    vectors = embeddings[name]
    one, other = embeddings.to_pandas([name]), embeddings.to_polars([name])
    np.testing.assert_array_equal(np.stack(one[name].to_list()), vectors)
    np.testing.assert_array_equal(other[name].to_numpy(), vectors)
    assert other[name].dtype == pl.Array(pl.Float32, vectors.shape[1])


def test_a_comparison_has_a_row_for_each_figure(embeddings):
    found = compare(embeddings, measures=["cka"])
    frame = found.to_pandas()
    row = frame[(frame.a == "pre_dropout.inference") & (frame.b == "post_dropout.head.0")].iloc[0]
    pair = found.pair("pre_dropout.inference", "post_dropout.head.0")
    assert pair is not None
    assert (row.measure, row.observed, row.expected) == (
        "cka",
        pair.figures["cka"].observed,
        pair.figures["cka"].expected,
    )


def test_a_map_is_coloured_by_labels_and_by_scores(embeddings):
    found = project(embeddings)
    legend = [text.get_text() for text in found.plot(color=embeddings.labels).legends[0].get_texts()]
    assert {name.partition(" (")[0] for name in legend} == set(embeddings.labels)
    assert len(found.plot(color=np.arange(N)).legends[0].get_texts()) == 3
    with pytest.raises(SettingsError, match="3 values, expected one for each of the 60 texts"):
        found.plot(color=["a", "b", "c"])


def test_what_was_not_measured_cannot_be_drawn(embeddings):
    found = compare(embeddings, measures=["cka"])
    with pytest.raises(SettingsError, match="'rsa' was not measured\nThere are: cka"):
        found.plot("rsa")
    with pytest.raises(SettingsError, match="'cls.inference' was not projected"):
        project(embeddings).plot(["cls.inference"])


class Sample(Result):
    def _facts(self) -> dict[str, object]:
        return {"rows": 12_345}

    def _table(self) -> Columns:
        return {"n": range(30), "x": [None, float("nan"), 0.123456, *[1.0] * 27]}


def test_long_tables_are_cut_and_say_so():
    page = Sample()._repr_html_()
    assert page.count("<tr>") == 11
    assert "30 rows" in page
    assert "0.1235" in page
    assert page.count("–") == 2
    assert repr(Sample()) == "<Sample rows: 12,345>"


@pytest.mark.parametrize(
    ("package", "method", "extra"),
    [("pandas", "to_pandas", "frames"), ("polars", "to_polars", "frames"), ("matplotlib", "plot", "report")],
)
def test_a_missing_package_is_named_with_its_extra(package, method, extra, embeddings, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*\n.*embedsvc\[{extra}\]"):
        getattr(embeddings, method)()


def test_importing_results_loads_no_frames_and_no_plots(tmp_path: Path):
    code = (
        "import sys, embedsvc.comparison, embedsvc.plots; print({'pandas', 'polars', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
