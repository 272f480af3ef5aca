"""What dropout does to a vector: simulated cosines beside the closed form."""

from pathlib import Path

import numpy as np

from embedsvc import plots, theory
from embedsvc.colors import GROUPS, RED

RATES = (0.1, 0.3, 0.5)
N, WIDTH = 4_000, 384


def draw(images: Path) -> dict[str, str]:
    """Histograms of the cosine between a vector and its dropped self, one for each rate."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, WIDTH))
    figure = plots.canvas((7.5, 3.2))
    axes = figure.subplots()
    numbers = {}
    for rate, color in zip(RATES, GROUPS[2:], strict=False):
        keep = 1 - rate
        one, two = (x * (rng.random(x.shape) < keep) / keep for _ in range(2))
        own, between = cosines(x, one), cosines(one, two)
        predicted = float(theory.cosine_under_dropout(x, rate)[0].mean())
        axes.hist(own, bins=60, histtype="stepfilled", alpha=0.6, color=color, label=f"rate {rate}")
        axes.axvline(predicted, color=RED, linestyle="--", linewidth=1.2)
        numbers[f"rate {rate}, cosine with itself, simulated"] = f"{own.mean():.4f}"
        numbers[f"rate {rate}, cosine with itself, predicted"] = f"{predicted:.4f}"
        numbers[f"rate {rate}, cosine of two passes, simulated"] = f"{between.mean():.4f}"
        numbers[f"rate {rate}, cosine of two passes, predicted"] = f"{theory.cosine_between_passes(x, rate).mean():.4f}"
    axes.set(xlabel="cosine of a vector and itself after dropout (dashed: predicted)", ylabel="vectors")
    axes.legend(frameon=False, fontsize=8)
    plots.clean(axes)
    figure.savefig(images / "dropout.png", dpi=110, facecolor="white")
    return numbers


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Row by row."""
    return (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
