"""How named data sets become tables: from what their authors published to ``texts.csv``, the same bytes everywhere."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path

__all__ = ["vader_tweets"]

_NEUTRAL = 0.5  # a mean rating nearer to 0 than to any other whole number of the raters' scale


def vader_tweets(folder: Path) -> None:
    """Tweets with the mean of at least 20 human ratings from -4 to +4, as negative, neutral or positive.

    The raters' scale is whole numbers with 0 for neutral; a text is neutral where the mean rounds to 0
    (-0.5 < mean < 0.5), else positive or negative by its sign. Texts are as published, HTML entities included.

    References
    ----------
    Hutto & Gilbert (2014), "VADER: a parsimonious rule-based model for sentiment analysis of social media text",
    ICWSM-14.
    """
    with tarfile.open(folder / "additional_resources" / "hutto_ICWSM_2014.tar.gz") as archive:
        file = archive.extractfile("hutto_ICWSM_2014/tweets_GroundTruth.txt")
        assert file is not None
        # Not splitlines: a tweet may hold one of the rarer line ends.
        lines = file.read().decode().removesuffix("\r\n").split("\r\n")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["text", "label", "rating"])
    for line in lines:
        _, rating, text = line.split("\t")
        mean = float(rating)
        label = "neutral" if abs(mean) < _NEUTRAL else "positive" if mean > 0 else "negative"
        writer.writerow([text, label, rating])
    (folder / "texts.csv").write_text(out.getvalue(), encoding="utf-8", newline="")
