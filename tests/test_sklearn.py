import pickle
import subprocess
import sys
import threading
from typing import Any, Self

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data

import embedsvc.sklearn
from embedsvc import Pass, Text, forward, load_model
from embedsvc.errors import InputError, ModelError, SettingsError, UnknownTapError
from embedsvc.sklearn import TextEmbedder

TEXTS = ["what a film", "never again", "a joy from beginning to end", "a bore"] * 5
LABELS = [1, 0, 1, 0] * 5


class RowsAsTexts(TextEmbedder):
    """scikit-learn checks only estimators of tables of numbers: here each row of one is written out as a text."""

    def __init__(self, model="fake:", *, tap="pre_dropout", mode="inference", passes=1, seed=None, max_tokens=None,
                 load_options=None) -> None:  # fmt: skip
        super().__init__(model, tap=tap, mode=mode, passes=passes, seed=seed, max_tokens=max_tokens,
                         load_options=load_options)  # fmt: skip

    def fit(self, X: Any, y: object = None) -> Self:
        return super().fit(self._written(X, reset=True))

    def transform(self, X: Any) -> Any:
        return super().transform(self._written(X, reset=False))

    def _written(self, X: Any, *, reset: bool) -> list[str]:
        if not reset:
            estimator_checks.check_is_fitted(self)
        return [" ".join(f"{value:.6g}" for value in row) for row in validate_data(self, X, reset=reset)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.string = False
        return tags


@parametrize_with_checks(
    [
        RowsAsTexts(),
        RowsAsTexts(tap="post_dropout", mode="head", passes=2, seed=7),
        RowsAsTexts(tap="logits", mode="training", passes=2, seed=7),
    ]
)
def test_scikit_learn_accepts_it_as_an_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "name",
    [
        *("check_estimator_cloneable", "check_estimator_tags_renamed", "check_valid_tag_types"),
        *("check_estimator_repr", "check_no_attributes_set_in_init", "check_mixin_order"),
        *("check_do_not_raise_errors_in_init_or_set_params", "check_parameters_default_constructible"),
        *("check_get_params_invariance", "check_set_params"),
    ],
)
def test_the_checks_without_data_hold_for_the_very_class(name):
    getattr(estimator_checks, name)("TextEmbedder", TextEmbedder())


def test_it_says_that_it_takes_texts():
    tags = TextEmbedder().__sklearn_tags__()
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array


@pytest.mark.parametrize("tap", ["pre_dropout", "post_dropout", "logits", "mean"])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_vectors_are_those_of_a_forward_pass(tap, mode):
    made = TextEmbedder("fake:", tap=tap, mode=mode, passes=2, seed=7).fit_transform(TEXTS[:4])
    passes = [Pass()] if mode == "inference" else [Pass(mode, index, 7) for index in range(2)]
    texts = [Text(text, text) for text in TEXTS[:4]]
    wanted = [forward(load_model("fake:"), texts, taps=[tap], pass_=pass_).vectors[tap] for pass_ in passes]
    np.testing.assert_allclose(made, np.mean(wanted, axis=0), rtol=1e-6, atol=1e-7)
    assert made.dtype == np.float32


@pytest.mark.parametrize("tap", ["post_dropout", "logits"])
def test_head_passes_are_those_of_a_forward_pass(tap):
    made = TextEmbedder("fake:", tap=tap, mode="head", passes=3, seed=7).fit_transform(TEXTS[:4])
    texts = [Text(text, text) for text in TEXTS[:4]]
    wanted = [
        forward(load_model("fake:"), texts, taps=[tap], pass_=Pass("head", index, 7)).vectors[tap] for index in range(3)
    ]
    np.testing.assert_allclose(made, np.mean(wanted, axis=0), rtol=1e-6, atol=1e-7)


def test_many_passes_come_near_the_vector_without_dropout():
    pre = TextEmbedder("fake:").fit_transform(TEXTS[:4])
    post = TextEmbedder("fake:", tap="post_dropout", mode="head", passes=2000, seed=7).fit_transform(TEXTS[:4])
    assert 0 < np.abs(post - pre).max() < 0.05


def test_a_grid_search_goes_over_taps_modes_and_passes():
    pipeline = Pipeline([("embed", TextEmbedder("fake:", seed=7)), ("classify", LogisticRegression())])
    grid = [
        {"embed__tap": ["pre_dropout", "mean"]},
        {"embed__tap": ["post_dropout"], "embed__mode": ["head", "training"], "embed__passes": [1, 4]},
    ]
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(TEXTS, LABELS)
    assert len(search.cv_results_["params"]) == 6
    assert search.best_score_ == 1.0, "equal texts are in both folds"


@pytest.mark.parametrize(("library", "frame"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_it_gives_data_frames_when_asked(library, frame):
    made = TextEmbedder("fake:4", tap="logits").set_output(transform=library).fit_transform(TEXTS)
    assert isinstance(made, frame)
    assert list(made.columns) == ["logits_0", "logits_1", "logits_2"]


def test_a_union_of_taps_names_its_columns_apart():
    union = FeatureUnion([("a", TextEmbedder("fake:2")), ("b", TextEmbedder("fake:2", tap="mean"))])
    union.fit(TEXTS)
    assert list(union.get_feature_names_out()) == ["a__pre_dropout_0", "a__pre_dropout_1", "b__mean_0", "b__mean_1"]


def test_a_column_of_a_table_is_embedded():
    frame = pd.DataFrame({"text": TEXTS, "stars": LABELS})
    plain = TextEmbedder("fake:").fit_transform(TEXTS)
    for column in ("text", ["text"]):
        made = ColumnTransformer([("embed", TextEmbedder("fake:"), column)]).fit_transform(frame)
        np.testing.assert_array_equal(made, plain)
    np.testing.assert_array_equal(TextEmbedder("fake:").fit_transform(np.array(TEXTS)), plain)


def test_no_texts_give_no_vectors():
    assert TextEmbedder("fake:8").fit([]).transform([]).shape == (0, 8)


def test_a_pickle_holds_no_model_and_gives_the_same_vectors():
    fitted = TextEmbedder("fake:256").fit(TEXTS)
    data = pickle.dumps(fitted)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).transform(TEXTS), fitted.transform(TEXTS))


def test_a_model_that_changed_since_it_was_fitted_is_refused():
    fitted = TextEmbedder("fake:").fit(TEXTS)
    fitted.digest_ = "0" * 64
    with pytest.raises(ModelError, match=r"fitted was one of 000000000000\nFit again"):
        fitted.transform(TEXTS)


def test_a_process_loads_a_model_once(monkeypatch):
    loads = []

    def load(uri, options):
        loads.append(uri)
        return load_model(uri, options)

    monkeypatch.setattr(embedsvc.sklearn, "load_model", load)
    first = TextEmbedder("fake:31")
    threads = [threading.Thread(target=clone(first).fit, args=(TEXTS,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clone(first).set_params(tap="mean").fit_transform(TEXTS)
    assert loads == ["fake:31"]


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"mode": "train"}, SettingsError, "mode is 'train'\nExpected one of: inference, training, head"),
        ({"mode": "training"}, SettingsError, "training mode needs passes and a seed, got passes 1 and seed None"),
        ({"mode": "head", "tap": "post_dropout", "seed": 7, "passes": 0}, SettingsError, "got passes 0 and seed 7"),
        ({"mode": "head", "seed": 7}, SettingsError, "head mode leaves pre_dropout as it is\nTake post_dropout or"),
        ({"tap": "pooled"}, UnknownTapError, "fake:16 has no tap 'pooled'"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_fit(parameters, error, message):
    with pytest.raises(error, match=message):
        TextEmbedder("fake:", **parameters).fit(TEXTS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("one text", "X is a single str, expected a sequence of texts"),
        (["a", None], "row 1 of X is None, expected a str"),
        (pd.Series(["a", float("nan")]), "row 1 of X is nan, expected a str"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), r"X has the shape \(1, 2\), expected one text a row"),
    ],
)
def test_what_is_no_text_is_named(values, message):
    with pytest.raises(InputError, match=message):
        TextEmbedder("fake:").fit(values)


def test_it_must_be_fitted_first():
    with pytest.raises(NotFittedError):
        TextEmbedder("fake:").transform(TEXTS)


def test_our_module_does_not_hide_scikit_learn():
    code = "import embedsvc.sklearn, sklearn; print(sklearn.__name__, embedsvc.sklearn.TextEmbedder.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "sklearn embedsvc.sklearn\n"
