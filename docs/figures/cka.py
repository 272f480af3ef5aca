"""Why CKA has to be debiased: two representations that have nothing in common, at growing numbers of texts."""

from pathlib import Path

import numpy as np

from embedsvc import plots
from embedsvc.colors import BLUE, GREY, RED
from embedsvc.metrics import linear_cka

WIDTH = 768
COUNTS = (25, 50, 100, 200, 400, 800, 1600, 3200)


def draw(images: Path) -> dict[str, str]:
    """Biased and debiased CKA of independent Gaussians over the number of texts."""
    rng = np.random.default_rng(0)
    biased, debiased = [], []
    for n in COUNTS:
        x, y = rng.standard_normal((2, n, WIDTH)).astype(np.float32)
        biased.append(plain_cka(x, y))
        debiased.append(linear_cka(x, y))
    figure = plots.canvas((7.5, 3.2))
    axes = figure.subplots()
    axes.plot(COUNTS, biased, "o-", color=RED, markersize=4, label="CKA as it is often computed")
    axes.plot(COUNTS, [WIDTH / (n + WIDTH) for n in COUNTS], "--", color=GREY, label="width / (texts + width)")
    axes.plot(COUNTS, debiased, "o-", color=BLUE, markersize=4, label="debiased, as here")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(COUNTS, [f"{n:,}" for n in COUNTS])
    axes.minorticks_off()
    axes.set(xlabel="texts", ylabel=f"CKA of unrelated vectors of width {WIDTH}")
    axes.legend(frameon=False, fontsize=8)
    plots.clean(axes)
    figure.savefig(images / "cka.png", dpi=110, facecolor="white")
    at = COUNTS.index(50)
    return {"biased, 50 texts": f"{biased[at]:.3f}", "debiased, 50 texts": f"{debiased[at]:.3f}"}


def plain_cka(x: np.ndarray, y: np.ndarray) -> float:
    """The estimate of Kornblith et al. 2019 as it stands, not debiased."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.sum((x.T @ y) ** 2) / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y))
