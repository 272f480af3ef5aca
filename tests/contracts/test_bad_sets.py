"""Every analysis on generated bad sets: a result without NaN in its JSON, or one error that says what to do.

Warnings are errors here as everywhere, so a division by zero that is only warned of fails as well.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import embedsvc
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import EmbedsvcError
from embedsvc.reporting.renderers import render
from tests.analysis_sets import make_set

DEFECTS: Mapping[str, Callable[[np.ndarray, np.random.Generator], None]] = {
    "a NaN": lambda x, rng: x.__setitem__(rng.integers(len(x)), np.nan),
    "an infinity": lambda x, rng: x.__setitem__((rng.integers(len(x)), 0), -np.inf),
    "a zero row": lambda x, rng: x.__setitem__(rng.integers(len(x)), 0),
    "a constant column": lambda x, rng: x.__setitem__((slice(None), rng.integers(x.shape[1])), 0.1),
    "equal rows": lambda x, rng: x.__setitem__(slice(None), x[0].copy()),
    "copies": lambda x, rng: x.__setitem__(slice(None), x[np.arange(len(x)) // 2 * 2].copy()),
    "a far row": lambda x, rng: x.__setitem__(0, x[0] * 1e6),
    "a large mean": lambda x, rng: np.add(x, np.float32(1e4), out=x),
    "a line": lambda x, rng: x.__setitem__(slice(None), np.outer(np.arange(1, 1 + len(x)), x[0]).astype(np.float32)),
    "tiny numbers": lambda x, rng: np.multiply(x, np.float32(1e-20), out=x),
    "huge numbers": lambda x, rng: np.multiply(x, np.float32(1e18), out=x),
}
LABELS = ("none", "all", "half", "one class", "each its own")


@dataclass(frozen=True)
class Recipe:
    """What a set is made of, short enough to be read in a failure."""

    n: int
    width: int = 4
    defects: tuple[str, ...] = ()
    defects_of_training: tuple[str, ...] = ()
    labels: str = "all"
    rate: float = 0.1
    passes: int = 1
    seed: int = 0

    def make(self, folder: Path) -> EmbeddingSet:
        rng = np.random.default_rng(self.seed)
        pre = rng.standard_normal((self.n, self.width)).astype(np.float32)
        training = [(pre + rng.standard_normal(pre.shape) / 4).astype(np.float32) for _ in range(self.passes)]
        if self.n:
            for defect in self.defects:
                DEFECTS[defect](pre, rng)
            for each in training:
                for defect in self.defects_of_training:
                    DEFECTS[defect](each, rng)
        named = {
            "none": None,
            "all": [f"group {row % 2}" for row in range(self.n)],
            "half": [f"group {row % 4}" if row % 4 < 2 else None for row in range(self.n)],
            "one class": ["group"] * self.n,
            "each its own": [str(row) for row in range(self.n)],
        }[self.labels]
        return make_set(folder, pre, labels=named, training=training, passes=max(self.passes, 1), rate=self.rate)


# Most are good but for one thing: of a set that is bad all over, only the first badness is ever met.
SIZES, WIDTHS, RATES = (0, 1, 2, 3, 5, 9, 24, 24, 24), (1, 3, 16, 16, 16), (0.0, 0.1, 0.1, 0.5)
DEFECTIVE = st.one_of(st.just(()), st.just(()), st.lists(st.sampled_from(sorted(DEFECTS)), max_size=2).map(tuple))
RECIPES = st.builds(
    Recipe,
    n=st.sampled_from(SIZES),
    width=st.sampled_from(WIDTHS),
    defects=DEFECTIVE,
    defects_of_training=DEFECTIVE,
    labels=st.sampled_from(LABELS),
    rate=st.sampled_from(RATES),
    passes=st.integers(0, 2),
    seed=st.integers(0, 3),
)
CHOSEN = st.one_of(
    st.none(), st.sampled_from(["pre_dropout.inference", "post_dropout.head.0"]).map(lambda name: [name])
)


ANALYSES: Mapping[str, Callable[..., object]] = {
    "compare": lambda made, variants, seed: embedsvc.compare(
        made, variants=variants, n_permutations=20, n_bootstrap=20, seed=seed
    ),
    "compare alignment": lambda made, variants, seed: embedsvc.compare(
        made, variants=variants, measures=["alignment", "cka"], n_permutations=20, n_bootstrap=20, seed=seed
    ),
    "cluster": lambda made, variants, seed: embedsvc.cluster(
        made, variants=variants, n_resamples=2, n_passes=2, seed=seed
    ),
    "cluster by hdbscan": lambda made, variants, seed: embedsvc.cluster(
        made, method="hdbscan", variants=variants, n_resamples=2, n_passes=2, seed=seed
    ),
    "cluster by gmm": lambda made, variants, seed: embedsvc.cluster(
        made, method="gmm", k=3, variants=variants, n_resamples=2, n_passes=2, seed=seed
    ),
    "cluster by agglomerative": lambda made, variants, seed: embedsvc.cluster(
        made, method="agglomerative", k=2, variants=variants, n_resamples=2, n_passes=2, seed=seed
    ),
    "project": lambda made, variants, seed: embedsvc.project(made, variants=variants, n_neighbors=5, seed=seed),
    "stability": lambda made, variants, seed: embedsvc.stability(made, passes=4, k=3, seed=seed),
    "probe": lambda made, variants, seed: embedsvc.probe(made, variants=variants, folds=2, repeats=1, seed=seed),
    "neighbors": lambda made, variants, seed: embedsvc.neighbors(made, id="t0", k=3, variants=variants),
}


def told(analyse, *arguments):
    """The result, or our error; anything else is raised."""
    error = None
    try:
        found = analyse(*arguments)
    except EmbedsvcError as raised:
        error = raised
    if error is not None:
        assert error.hint or "expected" in error.problem, f"nothing says what to do about: {error.problem}"
        return error
    json.dumps(found.to_json(), allow_nan=False)
    return found


def quick(examples):
    # A set is a file, and there are many: the health check is about how long one takes.
    return settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])


def check(name, recipe, variants):
    with tempfile.TemporaryDirectory() as folder:
        told(ANALYSES[name], recipe.make(Path(folder) / "set"), variants, recipe.seed)


@pytest.mark.parametrize("name", ANALYSES)
@quick(8)
@given(RECIPES, CHOSEN)
def test_a_bad_set_gives_a_result_or_an_error_that_says_what_to_do(name, recipe, variants):
    check(name, recipe, variants)


@pytest.mark.slow
@pytest.mark.parametrize("name", ANALYSES)
@quick(120)
@given(RECIPES, CHOSEN)
def test_many_bad_sets_give_results_or_errors_that_say_what_to_do(name, recipe, variants):
    check(name, recipe, variants)


@pytest.mark.slow
@quick(25)
@given(RECIPES)
def test_a_bad_set_gives_a_report_or_an_error_that_says_what_to_do(recipe):
    with tempfile.TemporaryDirectory() as folder:
        made = recipe.make(Path(folder) / "set")
        found = told(lambda: embedsvc.report(made, passes=3, map_method="pca", seed=recipe.seed))
        if not isinstance(found, EmbedsvcError):
            render(found, Path(folder) / "report.html")
            render(found, Path(folder) / "report.md")


@quick(15)
@given(RECIPES, RECIPES, st.sampled_from(["strict", "inner"]))
def test_two_bad_sets_are_compared_where_they_share_texts(one, two, join):
    """The sets share their first texts, as many as the smaller one has."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = (each.make(Path(folder) / name) for each, name in ((one, "one"), (two, "two")))
        found = told(
            lambda: embedsvc.compare(first, other=second, join=join, n_permutations=20, n_bootstrap=20, seed=0)
        )
        if join == "strict" and one.n != two.n and max(one.n, two.n) >= 4:
            assert isinstance(found, EmbedsvcError)
            assert f"{min(one.n, two.n)} ids are in both" in found.problem
