"""The model card of a trained classifier: what it was made from, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedsvc.storage import atomic_file

__all__ = ["SCORES", "write_card"]

SCORES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "roc_auc": "ROC-AUC",
    "calibration_error": "calibration error",
    "log_loss": "log loss",
}
"""Scores in the order of tables, and their headings."""


def write_card(path: Path, record: Mapping[str, Any]) -> None:
    """Write README.md from the record of a training."""
    settings, split, scores = record["settings"], record["split"], record["scores"]
    rows = [
        ("validation (decided when to stop)", scores["validation"]),
        ("test (scored once)", scores["test"]),
        ("test, by class frequencies alone", scores["test_by_frequency"]),
    ]
    table = "\n".join(f"| {name} | " + " | ".join(f"{found[key]:.3f}" for key in SCORES) + " |" for name, found in rows)
    sources = ", ".join(f"`{source['name']}` (SHA-256 `{source['sha256'][:16]}…`)" for source in record["sources"])
    what = "head alone, the encoder is frozen" if settings["freeze_encoder"] else "every weight"
    card = f"""# A text classifier with a dropout head

{record["task_reason"][:1].upper() + record["task_reason"][1:]}.

Made by embedsvc {record["embedsvc"]} from the encoder `{settings["encoder"]}`; trained: {what}
({record["n_weights"]:,} weights). Head: pooled_output → Dropout({settings["dropout"]}) → Dense → logits.
Texts: {sources}; {split["train"]:,} to train on, {split["validation"]:,} for validation, {split["test"]:,} to test;
`{split["file"]}` lists them. Seed {settings["seed"]}; best epoch
{record["best_epoch"] + 1} of {len(record["history"])}.
The licence of the encoder and the terms of the texts apply.

| part | {" | ".join(SCORES.values())} |
| --- | {" | ".join("---" for _ in SCORES)} |
{table}

Calibration error: {record["calibration_error"]}.

    embedsvc extract texts.txt -o out.parquet --model .

`saved_model/` takes strings (`import tensorflow_text` first), `model.keras` takes token ids. `training.json` has
all settings and the history.
"""
    with atomic_file(path) as file:
        file.write(card.encode())
