"""The door for scikit-learn: texts in, vectors of one tap and mode out, as a transformer like any other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from embedsvc import masks
from embedsvc.errors import InputError, ModelError, SettingsError
from embedsvc.extraction import Settings, extract
from embedsvc.models.base import HEAD_TAPS, Encoder, LoadOptions, check_taps
from embedsvc.models.load import load_model
from embedsvc.types import Mode, Pass, Text, Vectors, check_seed

__all__ = ["TextEmbedder"]

_loading = Lock()


@cache
def _load(uri: str, options: LoadOptions) -> Encoder:
    return load_model(uri, options)


def _encoder(uri: str, options: LoadOptions | None) -> Encoder:
    """The model, loaded once in this process, however many estimators and threads ask for it."""
    with _loading:
        return _load(uri, options or LoadOptions())


class TextEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Vectors of texts at one tap of a classifier, in one mode.

    Works in a `Pipeline` and in a grid search, where `tap`, `mode`, `passes` and `seed` are parameters like others.
    Estimators share the loaded model within a process, and a pickle holds its name and digest only.

    Parameters
    ----------
    model : str
        See `load_model`.
    tap : str
        A tap of the model: ``"pre_dropout"``, ``"post_dropout"``, ``"logits"``, ``"mean"`` and so on.
    mode : {"inference", "training", "head"}
    passes : int
        Passes of a stochastic mode that are averaged; one pass is one draw of the masks. Not used in inference mode.
    seed : int, optional
        Of the masks; needed by stochastic modes, not used in inference mode. A text's mask is decided by its wording,
        so that it is the same in every fold, order and batch, and equal texts share it.
    max_tokens : int, optional
        Longest text in tokens; by default the model's limit. Longer texts are cut.
    load_options : LoadOptions, optional
        What the model needs to be loaded.

    Attributes
    ----------
    digest_ : str
        Of the model that was fitted with. A model that has changed since then is refused by `transform`.
    n_features_out_ : int
        Width of the vectors.

    Examples
    --------
    >>> from embedsvc.sklearn import TextEmbedder
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> texts, labels = ["what a day", "never again", "a joy", "a bore"], [1, 0, 1, 0]
    >>> pipeline = make_pipeline(TextEmbedder("fake:", tap="post_dropout", mode="head", seed=7), LogisticRegression())
    >>> pipeline.fit(texts, labels).predict(texts).shape
    (4,)
    """

    def __init__(
        self,
        model: str = "minilm-l6-sentiment",
        *,
        tap: str = "pre_dropout",
        mode: str = "inference",
        passes: int = 1,
        seed: int | None = None,
        max_tokens: int | None = None,
        load_options: LoadOptions | None = None,
    ) -> None:
        self.model = model
        self.tap = tap
        self.mode = mode
        self.passes = passes
        self.seed = seed
        self.max_tokens = max_tokens
        self.load_options = load_options

    def fit(self, X: Sequence[str] | NDArray[Any], y: object = None) -> Self:
        """Load the model and check the parameters; nothing is learned.

        Raises
        ------
        SettingsError, UnknownTapError
            For parameters that contradict each other or the model.
        ModelError, FetchError
            If the model cannot be loaded.
        InputError
            If `X` is no sequence of texts.
        """
        _texts(X)
        self._settings()
        encoder = _encoder(self.model, self.load_options)
        check_taps(encoder.spec, [self.tap])
        self.digest_ = encoder.spec.digest
        self.n_features_out_ = encoder.spec.taps[self.tap]
        return self

    def transform(self, X: Sequence[str] | NDArray[Any]) -> Vectors:
        """Vectors of the texts, shape (n_texts, width), float32.

        Raises
        ------
        InputError
            If `X` is no sequence of texts.
        ModelError
            If the model is no longer the one that was fitted with.
        """
        check_is_fitted(self)
        texts, mode, settings = _texts(X), Mode(self.mode), self._settings()
        encoder = _encoder(self.model, self.load_options)
        if encoder.spec.digest != self.digest_:
            raise ModelError(
                f"{self.model} has the digest {encoder.spec.digest[:12]}, fitted was one of {self.digest_[:12]}",
                "Fit again, or bring back the model of that time.",
            )
        parts = [np.empty((0, self.n_features_out_), dtype=np.float32)]
        for block in extract([Text(text, text) for text in texts], encoder, settings):
            if mode is Mode.HEAD:
                keys = masks.row_keys(text.id for text in block.texts)
                pre = block.vectors["pre_dropout.inference"]
                posts = (encoder.head.post(pre, keys, Pass(mode, index, self.seed)) for index in range(self.passes))
                vectors = [post if self.tap == "post_dropout" else encoder.head.logits(post) for post in posts]
            elif mode is Mode.TRAINING:
                vectors = [block.vectors[f"{self.tap}.training.{index}"] for index in range(self.passes)]
            else:
                tap = "pre_dropout" if self.tap == "post_dropout" else self.tap
                vectors = [block.vectors[f"{tap}.inference"]]
            parts.append(np.asarray(np.mean(vectors, axis=0, dtype=np.float64), dtype=np.float32))
        return np.concatenate(parts)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Names of the columns: ``pre_dropout_0`` and so on."""
        check_is_fitted(self)
        return np.array([f"{self.tap}_{unit}" for unit in range(self.n_features_out_)], dtype=object)

    def _settings(self) -> Settings:
        """What to extract: head passes are drawn from `pre_dropout` afterwards."""
        if self.mode not in set(Mode):
            raise SettingsError(f"mode is {self.mode!r}", f"Expected one of: {', '.join(Mode)}")
        mode = Mode(self.mode)
        if not mode.stochastic:
            return Settings(taps=(self.tap,), max_tokens=self.max_tokens)
        if self.passes < 1 or self.seed is None:
            raise SettingsError(
                f"{mode} mode needs passes and a seed, got passes {self.passes} and seed {self.seed}",
                "Give both, for example passes=8, seed=7.",
            )
        check_seed(self.seed)
        if mode is Mode.HEAD:
            if self.tap not in HEAD_TAPS:
                raise SettingsError(
                    f"head mode leaves {self.tap} as it is", f"Take {' or '.join(HEAD_TAPS)}, or mode 'inference'."
                )
            return Settings(taps=("pre_dropout",), max_tokens=self.max_tokens)
        return Settings((self.tap,), (mode,), self.passes, self.seed, self.max_tokens)

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags


def _texts(values: Sequence[str] | NDArray[Any]) -> list[str]:
    """The texts of a sequence, a series, or a table of one column."""
    if isinstance(values, str):
        raise InputError("X is a single str, expected a sequence of texts", "Give [text] for one text.")
    shape = getattr(values, "shape", None)
    if shape is not None and (len(shape) == 2 and shape[1] != 1 or len(shape) > 2):
        raise InputError(
            f"X has the shape {shape}, expected one text a row", "In a ColumnTransformer name the column: ..., 'text')"
        )
    found = np.ravel(np.asarray(values, dtype=object)).tolist()
    wrong = next((row for row, value in enumerate(found) if not isinstance(value, str)), None)
    if wrong is not None:
        raise InputError(f"row {wrong} of X is {found[wrong]!r}, expected a str", "Fill or drop what is missing first.")
    return [str(value) for value in found]
