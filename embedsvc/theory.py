"""What dropout alone does to vectors, in closed form: the difference that would be there whatever the model.

Inverted dropout with rate p and keep rate q = 1 - p gives x̃ = x · m / q with m ~ Bernoulli(q) for each unit. Every
function takes `x` of shape (n_texts, width) and a rate 0 <= p < 1, and works in float64. "Two passes" have
independent masks. Approximations are to the order of 1 / `participation_ratio`, and each is tested by simulation.

References
----------
Srivastava et al. (2014), JMLR 15:1929, for the mean and variance of inverted dropout; the rest follows from them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import DegenerateInputError, SettingsError
from embedsvc.types import Vectors, check_rate

__all__ = [
    "cka_under_dropout",
    "cosine_between_passes",
    "cosine_of_mean",
    "cosine_of_texts",
    "cosine_under_dropout",
    "logit_variance",
    "participation_ratio",
    "post_variance",
    "squared_displacement",
    "squared_distance",
    "unbiased_squared_distance",
]

Floats = NDArray[np.float64]

_ROWS = 256  # in float64 they stay in the cache


def odds(rate: float) -> float:
    """Variance that dropout adds to a unit, as a multiple of its square: p / q.

    >>> odds(0.5)
    1.0
    """
    return check_rate(rate) / (1.0 - rate)


def participation_ratio(x: Vectors) -> Floats:
    """How many units carry a vector's energy, (Σx²)² / Σx⁴: from 1 to the width. Shape (n,).

    Raises
    ------
    DegenerateInputError
        For zero vectors.

    >>> participation_ratio(np.float32([[1, 1, 1, 1], [5, 0, 0, 0]])).tolist()
    [4.0, 1.0]
    """
    ratio = np.empty(len(x))
    for start in range(0, len(x), _ROWS):
        squares = _squares(x[start : start + _ROWS])
        total = squares.sum(axis=1, keepdims=True)
        # Shares first: fourth powers of small numbers would vanish.
        np.divide(squares, total, out=squares, where=total > 0)
        np.einsum("nd,nd->n", squares, squares, out=ratio[start : start + _ROWS])
    if not ratio.all():
        raise DegenerateInputError(
            f"{np.count_nonzero(ratio == 0)} rows hold only zeros: no unit carries their energy",
            "Leave these texts out.",
        )
    return np.asarray(1.0 / ratio)


def cosine_under_dropout(x: Vectors, rate: float) -> tuple[Floats, Floats]:
    """Mean and deviation of cos(x, x̃), approximately √q - p / (8·PR·√q) and √(p / (4·PR)). Shape (n,) each."""
    q, ratio = 1.0 - check_rate(rate), participation_ratio(x)
    return np.sqrt(q) - rate / (8 * ratio * np.sqrt(q)), np.sqrt(rate / (4 * ratio))


def cosine_between_passes(x: Vectors, rate: float) -> Floats:
    """Mean of cos(x̃₁, x̃₂) over two passes, approximately: q - p / (4·PR). Shape (n,).

    The second term is the second-order expansion of Σwm₁m₂ / √(Σwm₁ · Σwm₂), w = x² / Σx².
    """
    return np.asarray(1.0 - check_rate(rate) - rate / (4 * participation_ratio(x)))


def cosine_of_texts(cosines: Floats, rate: float) -> Floats:
    """Mean of cos(x̃, ỹ) of two texts under independent masks, approximately: q · cos(x, y)."""
    return np.asarray((1.0 - check_rate(rate)) * cosines)


def cosine_of_mean(rate: float, passes: int) -> float:
    """cos(x, mean of T passes), approximately 1 / √(1 + p / (q·T)): the T-curve.

    >>> round(cosine_of_mean(0.1, 1), 5), cosine_of_mean(0.0, 1)
    (0.94868, 1.0)
    """
    if passes < 1:
        raise SettingsError(f"passes is {passes}, expected 1 or more")
    return float(1.0 / np.sqrt(1.0 + odds(rate) / passes))


def squared_displacement(x: Vectors, rate: float, *, masks: int = 1) -> Floats:
    """E‖x̃ - x‖² = p/q · ‖x‖² for one mask, E‖x̃₁ - x̃₂‖² = 2p/q · ‖x‖² for two. Shape (n,)."""
    if masks not in (0, 1, 2):
        raise SettingsError(f"masks is {masks}, expected 0, 1 or 2")
    return np.asarray(masks * odds(rate) * _squares(x).sum(axis=1))


def squared_distance(x: Vectors, y: Vectors, rate: float, *, shared: bool = False) -> Floats:
    """E‖x̃ - ỹ‖² of two texts: ‖x - y‖² + p/q · (‖x‖² + ‖y‖²), or ‖x - y‖² / q under a shared mask. Shape (n,)."""
    apart = _squares(np.asarray(x, dtype=np.float64) - y).sum(axis=1)
    if shared:
        return np.asarray(apart / (1.0 - check_rate(rate)))
    return np.asarray(apart + odds(rate) * (_squares(x).sum(axis=1) + _squares(y).sum(axis=1)))


def unbiased_squared_distance(x1: Vectors, y1: Vectors, x2: Vectors, y2: Vectors) -> Floats:
    """‖x - y‖² of two texts without the masks' share, from two passes of each: (x̃₁ - ỹ₁)·(x̃₂ - ỹ₂). Shape (n,).

    Its mean is right; a single value may be negative.

    References
    ----------
    Walther et al. (2016), doi:10.1016/j.neuroimage.2015.12.012: the cross-validated distance.
    """
    first, second = (np.asarray(a, dtype=np.float64) - b for a, b in ((x1, y1), (x2, y2)))
    return np.asarray((first * second).sum(axis=1))


def logit_variance(x: Vectors, kernel: NDArray[np.float32], rate: float) -> Floats:
    """Variance of each logit under the head's mask, p/q · Σ w²x². Shape (n, n_classes)."""
    return np.asarray(odds(rate) * (_squares(x) @ _squares(kernel)))


def post_variance(mean: Floats, variance: Floats, rate: float) -> tuple[Floats, Floats]:
    """The two shares of a unit's variance in `post_dropout`: the encoder's, and the head mask's.

    Var(pre) + p/q · E[pre²], by the law of total variance.

    Parameters
    ----------
    mean, variance : ndarray
        Of `pre_dropout` over training passes, of any one shape.
    rate : float
    """
    return variance, np.asarray(odds(rate) * (variance + mean**2))


def cka_under_dropout(
    covariance: Floats, second_moment: Floats, rate: float, *, masks: int, squared_norm: float | None = None
) -> float:
    """Linear CKA of x and x̃ (`masks` 1) or of two passes (2): ‖Σ‖/‖Σ + D‖ or its square, D = p/q · diag(E x²).

    Parameters
    ----------
    covariance : ndarray of shape (width, width)
        Σ of x over the texts.
    second_moment : ndarray of shape (width,)
        E x² of each unit, not centred.
    rate : float
    masks : {0, 1, 2}
    squared_norm : float, optional
        ‖Σ‖² where a better estimate than that of `covariance` is at hand: its own is biased upward at n < width.

    Raises
    ------
    DegenerateInputError
        If ‖Σ‖² is not positive: every text has the same vector.
    """
    if masks not in (0, 1, 2):
        raise SettingsError(f"masks is {masks}, expected 0, 1 or 2")
    signal = float((covariance**2).sum()) if squared_norm is None else squared_norm
    if not signal > 0:
        raise DegenerateInputError(
            "the vectors do not vary between texts, so CKA has no value", "Bring more texts, or texts that differ."
        )
    noise = odds(rate) * second_moment
    whole = signal + 2.0 * float(np.diagonal(covariance) @ noise) + float(noise @ noise)
    return float((signal / whole) ** (masks / 2))


def _squares(x: NDArray[np.floating]) -> Floats:
    return np.asarray(np.square(x, dtype=np.float64))
