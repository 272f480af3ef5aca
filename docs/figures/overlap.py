"""Neighbours that survive dropout, beside what the mask alone does and what chance gives."""

from pathlib import Path

from embedsvc import EmbeddingSet, compare, plots
from embedsvc.colors import BLUE, GREY, RED

REFERENCE = "pre_dropout.inference"
OTHERS = ("post_dropout.head.0", "pre_dropout.training.0", "post_dropout.training.0")


def draw(images: Path, embeddings: EmbeddingSet) -> dict[str, str]:
    """Overlap of 10 nearest neighbours with the reference: observed, mask alone, chance."""
    found = compare(embeddings, variants=[REFERENCE, *OTHERS], measures=["knn_overlap"], ks=[10], seed=0)
    figure = plots.canvas((7.5, 2.6))
    axes = figure.subplots()
    numbers = {}
    for at, name in enumerate(OTHERS):
        pair = found.pair(REFERENCE, name)
        shown = pair.figures["knn_overlap_10"]
        axes.plot([shown.interval.low, shown.interval.high], [at, at], color=BLUE, linewidth=2)
        axes.plot(shown.observed, at, "o", color=BLUE, label="observed, 95 %" if at == 0 else None)
        if shown.expected is not None:
            axes.plot(shown.expected, at, "|", color=RED, markersize=16, markeredgewidth=2,
                      label="the head's mask alone" if at == 0 else None)  # fmt: skip
            numbers[f"{name}, mask alone"] = f"{shown.expected:.0%}"
        axes.plot([shown.null.low, shown.null.high], [at, at], color=GREY, linewidth=4,
                  label="by chance" if at == 0 else None)  # fmt: skip
        numbers[f"{name}, observed"] = f"{shown.observed:.0%}"
        numbers["by chance"] = f"{shown.null.mean:.1%}"
    axes.set_yticks(range(len(OTHERS)), OTHERS, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"share of the 10 nearest neighbours of {REFERENCE} that are kept")
    axes.legend(frameon=False, fontsize=8, loc="upper center")
    plots.clean(axes)
    figure.savefig(images / "overlap.png", dpi=110, facecolor="white")
    return numbers
