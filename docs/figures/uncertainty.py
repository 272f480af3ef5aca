"""Dropout variability follows the rate, not the errors: the same classifier under three rates."""

from pathlib import Path

import numpy as np
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from embedsvc import Head, masks, plots
from embedsvc.colors import GROUPS
from embedsvc.tallies import HeadTally

RATES = (0.1, 0.3, 0.5)
PASSES = 100


def draw(images: Path) -> dict[str, str]:
    """Mean BALD of the texts that are classified rightly and wrongly, at each rate."""
    x, y = make_blobs(4_000, 64, centers=4, cluster_std=6.0, center_box=(-2.0, 2.0), random_state=0)
    x = np.tanh(x / 6).astype(np.float32)
    train, test, y_train, y_test = train_test_split(x, y, random_state=0)
    fitted = LogisticRegression(max_iter=2_000).fit(train, y_train)
    kernel, bias = fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32)
    wrong = fitted.predict(test) != y_test
    keys = masks.row_keys(map(str, range(len(test))))
    numbers = {"wrong at every rate": f"{wrong.mean():.1%}"}
    figure = plots.canvas((7.5, 3.2))
    axes = figure.subplots()
    for rate, color in zip(RATES, GROUPS[2:], strict=False):
        head = Head(rate, kernel, bias)
        tally = HeadTally(test, keys, head, seed=7)
        tally.draw(PASSES)
        bald = tally.classes.scores(head.logits(test)).bald
        axes.hist(bald, bins=60, range=(0, 0.5), histtype="step", linewidth=1.6, color=color, label=f"rate {rate}")
        numbers[f"rate {rate}, mean BALD"] = f"{bald.mean():.3f}"
        steady = bald < np.median(bald)
        numbers[f"rate {rate}, wrong among the steadier half"] = f"{wrong[steady].mean():.1%}"
    axes.set(xlabel=f"BALD over {PASSES} head passes, nats", ylabel="texts")
    axes.legend(frameon=False, fontsize=8)
    plots.clean(axes)
    figure.savefig(images / "uncertainty.png", dpi=110, facecolor="white")
    return numbers
