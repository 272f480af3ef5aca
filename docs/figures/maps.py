"""Maps that can be compared, beside maps that cannot: the same texts, fitted twice or placed on one map."""

from pathlib import Path

import numpy as np
from scipy.spatial import procrustes

from embedsvc import EmbeddingSet, plots, project
from embedsvc.colors import BLUE, GREY, RED

REFERENCE, OTHER = "pre_dropout.inference", "post_dropout.head.0"


def draw(images: Path, embeddings: EmbeddingSet) -> dict[str, str]:
    """Left: two fits of the same vectors, matched by Procrustes. Right: one fit, and a dropped variant placed on it."""
    first, second = (project(embeddings, method="umap", variants=[REFERENCE], seed=seed) for seed in (0, 1))
    placed = project(embeddings, method="umap", variants=[REFERENCE, OTHER], seed=0)
    a, b, _ = procrustes(first.coordinates[REFERENCE], second.coordinates[REFERENCE])
    apart = np.linalg.norm(a - b, axis=1) / np.linalg.norm(np.ptp(a, axis=0))
    here, there = placed.coordinates[REFERENCE], placed.coordinates[OTHER]
    movement = placed.movements[OTHER]
    figure = plots.canvas((9, 4.4))
    left, right = figure.subplots(1, 2)
    for start, end in zip(a, b, strict=True):
        left.plot(*np.stack([start, end]).T, color=GREY, linewidth=0.6)
    left.scatter(*a.T, s=6, color=BLUE)
    left.scatter(*b.T, s=6, color=RED)
    left.set_title("the same vectors, fitted twice, matched", fontsize=10)
    for start, end, moved in zip(here, there, movement.moved, strict=True):
        if moved:
            right.plot(*np.stack([start, end]).T, color=RED, linewidth=0.8)
    right.scatter(*here.T, s=6, color=BLUE)
    right.set_title(f"one map; lines: {OTHER}, above the control", fontsize=10)
    for axes in (left, right):
        axes.set_xticks([])
        axes.set_yticks([])
    figure.savefig(images / "maps.png", dpi=110, facecolor="white")
    return {
        "two fits of the same vectors": f"{np.median(apart):.1%}",
        "head pass on one map": f"{np.median(movement.displacement) / placed.extent:.1%}",
        "control on one map": f"{np.median(placed.control) / placed.extent:.1%}",
        "texts above the control": f"{movement.moved.mean():.0%}",
    }
