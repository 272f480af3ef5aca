"""How many passes are enough: the T-curve of the example texts."""

from pathlib import Path

from embedsvc import EmbeddingSet, plots, stability


def draw(images: Path, embeddings: EmbeddingSet) -> dict[str, str]:
    """The curve that `Stability.plot` draws, to 256 passes."""
    found = stability(embeddings, passes=256, neighbor_passes=0)
    figure = plots.canvas((7.5, 3.4))
    found.plot(figure=figure)
    figure.savefig(images / "passes.png", dpi=110, facecolor="white")
    curve = found.curve
    numbers = {}
    for passes in (1, 8, 64):
        at = curve.passes.index(passes)
        numbers[f"T = {passes}, observed"] = f"{curve.observed[at]:.4f}"
        numbers[f"T = {passes}, predicted"] = f"{curve.expected[at]:.4f}"
    if found.split is not None:
        numbers["share of the encoder"] = f"{found.split.encoder_share:.0%}"
    return numbers
