"""Makes the default model: pooler, dropout and head on minilm-l6, from tweets that people rated.

    python scripts/train_default.py

writes ``embedsvc/weights/minilm-l6-sentiment.safetensors`` and its card beside it. The encoder is frozen, so it takes a
minute or two. The card also says what other vectors of the same encoder score on the same held-out texts, under
logistic regression: the untrained pooler, [CLS] and the mean over tokens.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from embedsvc import extraction, load_model, train
from embedsvc.models.huggingface import write_head
from embedsvc.training import TrainingSettings
from embedsvc.training.card import SCORES
from embedsvc.training.evaluation import Scores, evaluate
from embedsvc.training.reading import Parts, read_parts

DATA = ["data:vader-tweets"]
SETTINGS = TrainingSettings(encoder="minilm-l6", freeze_encoder=True, dropout=0.1, seed=0)
NAME = "minilm-l6-sentiment"
WEIGHTS = Path(__file__).parents[1] / "embedsvc" / "weights"
TENSORS = ("pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias")
KEYS = ("classifier_dropout", "id2label", "label2id", "problem_type")


def main() -> None:
    """Train, write weights and card, print the card."""
    WEIGHTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        record = train(DATA, folder, settings=SETTINGS).record
        tensors = load_file(Path(folder) / "model.safetensors")
        config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    named = {name: tensors[name if name in tensors else f"bert.{name}"] for name in TENSORS}
    write_head(WEIGHTS / f"{NAME}.safetensors", named, {key: config[key] for key in KEYS})
    scores = {"trained pooler and head": record["scores"]["test"]}
    scores |= {name: found.to_json() for name, found in probes(read_parts(DATA, SETTINGS)).items()}
    scores["class frequencies alone"] = record["scores"]["test_by_frequency"]
    text = card(record, scores)
    (WEIGHTS / f"{NAME}.md").write_text(text, encoding="utf-8")
    print(text)


def probes(parts: Parts) -> dict[str, Scores]:
    """Logistic regression on vectors of the encoder as it comes; its strength is chosen on the validation part."""
    taps = {"untrained pooler": "pooled_output", "[CLS]": "cls", "mean pooling": "mean"}
    asked = extraction.Settings(taps=tuple(taps.values()))
    blocks = list(extraction.extract(parts.texts, load_model(SETTINGS.encoder), asked))
    found = {}
    for name, tap in taps.items():
        vectors = np.concatenate([block.vectors[f"{tap}.inference"] for block in blocks])
        scaler = StandardScaler().fit(vectors[parts.train])
        x = {part: scaler.transform(vectors[parts.rows(part)]) for part in ("train", "validation", "test")}
        best: tuple[float, Scores] | None = None
        for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
            model = LogisticRegression(C=strength, max_iter=2000).fit(x["train"], parts.targets[parts.train])
            scored = {
                part: evaluate(
                    model.decision_function(x[part]).astype(np.float32), parts.targets[parts.rows(part)], parts.labels
                )
                for part in ("validation", "test")
            }
            if best is None or scored["validation"].log_loss < best[0]:
                best = (scored["validation"].log_loss, scored["test"])
        assert best is not None
        found[f"{name}, logistic regression"] = best[1]
    return found


def card(record: dict, scores: dict) -> str:
    """The model card."""
    rows = [f"| {name} | " + " | ".join(f"{found[key]:.3f}" for key in SCORES) + " |" for name, found in scores.items()]
    split = record["split"]
    return f"""# {NAME}

Sentiment of short English texts: {", ".join(record["classes"])}. `embedsvc extract` uses it if no model is named.

- **What it is.** The encoder `minilm-l6` (all-MiniLM-L6-v2, Apache-2.0), unchanged, with a pooler, dropout
  {SETTINGS.dropout} and a dense layer trained on top: {record["n_weights"]:,} weights, `{NAME}.safetensors`.
- **Data.** `{DATA[0]}`: 4,200 tweets with the mean of at least 20 human ratings each from -4 to +4 (Hutto &
  Gilbert 2014, MIT, from the source distribution of vaderSentiment 3.2.1). A text is neutral where the mean
  rounds to 0 on the raters' scale of whole numbers (-0.5 < mean < 0.5), else positive or negative by its sign.
- **Split.** By a hash of the text, within each class: {split["train"]:,} to train on, {split["validation"]:,} to decide
  when to stop, {split["test"]:,} to test. Copies of a text are in one part.
- **Made by** `scripts/train_default.py`, seed {SETTINGS.seed}; best epoch {record["best_epoch"] + 1} of
  {len(record["history"])}. Licence of the weights: Apache-2.0.
- **Not for** decisions about people. It has seen English tweets of 2013 or so, and its neutral class is weak
  (F1 {scores["trained pooler and head"]["f1"]["neutral"]:.2f}).

On the {split["test"]:,} held-out texts:

| vectors and classifier | {" | ".join(SCORES.values())} |
| --- | {" | ".join("---" for _ in SCORES)} |
{chr(10).join(rows)}

ROC-AUC: one class against the rest, mean. Calibration error: {record["calibration_error"]}. The pooler
reads the [CLS] vector, which limits it, trained or not: this encoder was made for the mean over its tokens. Fine-tuning
every weight (`embedsvc train {DATA[0]} -o model/`) lifts that limit, at 91 MB.
"""


if __name__ == "__main__":
    main()
