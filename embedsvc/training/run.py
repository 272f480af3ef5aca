"""Fine-tune an encoder with a dropout head, or the head alone; the result is a folder that `extract` takes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedsvc import extraction, plots, streaming
from embedsvc.machine import version_of
from embedsvc.results import Columns, Result
from embedsvc.storage import atomic_file
from embedsvc.training import loop
from embedsvc.training.card import SCORES, write_card
from embedsvc.training.checkpoints import read_arrays, write_arrays
from embedsvc.training.evaluation import BINS, evaluate, majority
from embedsvc.training.folder import CHECKPOINTS, begin, finish, locked
from embedsvc.training.labels import Task
from embedsvc.training.reading import Parts, read_parts
from embedsvc.training.settings import Pooler, Precision, TrainingSettings
from embedsvc.training.splitting import PARTS
from embedsvc.training.weighting import text_weights
from embedsvc.types import Vectors

if TYPE_CHECKING:
    from embedsvc.models.network import Cached, Network
    from embedsvc.texts import ReadOptions

__all__ = ["Trained", "Watch", "train"]

_SPLIT = "split.csv"
_CHECKED = 64  # held-out texts that the written model is compared on


@dataclass(frozen=True, slots=True)
class Watch:
    """Whom to tell. Each is optional.

    Attributes
    ----------
    say : callable of str
        Plain sentences: the task, the split, what is trained.
    caching : callable of (int, Manifest)
        See ``started`` of `extraction.extract_files`; for the vectors of a frozen encoder.
    progress : callable of loop.Status
        After each step.
    epoch : callable of loop.Epoch
    """

    say: Callable[[str], None] | None = None
    caching: Callable[[int, Any], streaming.Progress] | None = None
    progress: Callable[[loop.Status], None] | None = None
    epoch: Callable[[loop.Epoch], None] | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Trained(Result):
    """A finished training.

    Attributes
    ----------
    path : Path
        Of the folder.
    record : mapping
        What training.json holds: settings, sources, labels, split, history, scores, exports, notes.
    new_steps : int
        Made by this call; the others were there already.
    texts_per_second : float
        Of this call's training steps; 0 where there were none.
    """

    path: Path
    record: Mapping[str, Any]
    new_steps: int
    texts_per_second: float

    def plot(self, *, figure: plots.MplFigure = None) -> plots.MplFigure:
        """Loss by epoch, of training and of validation; the epoch that was kept is marked.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; by default a new one, which shows itself in a notebook.
        """
        figure = plots.canvas((6.0, 3.2), figure)
        history = self.record["history"]
        plots.losses(
            figure,
            {name: [each[name] for each in history] for name in ("loss", "validation_loss")},
            kept=self.record["best_epoch"],
        )
        return figure

    def _facts(self) -> dict[str, object]:
        record = self.record
        facts: dict[str, object] = {
            "model": self.path,
            "encoder": record["settings"]["encoder"],
            "task": record["task"],
        }
        facts |= {name: record["split"][name] for name in PARTS}
        return facts | {"epochs": len(record["history"]), "best": record["best_epoch"] + 1}

    def _table(self) -> Columns:
        """A row for each score: on the held-out texts, by class frequencies alone, and on those for validation."""
        scores, classes = self.record["scores"], self.record["classes"]
        parts = {"test": "test", "by frequency alone": "test_by_frequency", "validation": "validation"}
        return {
            "score": [*SCORES.values(), *(f"F1 of {name}" for name in classes)],
            **{
                name: [*(scores[part][key] for key in SCORES), *(scores[part]["f1"][each] for each in classes)]
                for name, part in parts.items()
            },
        }


def train(
    sources: Sequence[str],
    out: str | Path,
    *,
    settings: TrainingSettings | None = None,
    read_options: ReadOptions | None = None,
    validation: Sequence[str] = (),
    test: Sequence[str] = (),
    overwrite: bool = False,
    watch: Watch | None = None,
) -> Trained:
    """Train a text classifier with a dropout head; go on where a killed run stopped.

    Parameters
    ----------
    sources : sequence of str
        Labelled texts: files, globs, folders, ``-``, or a named data set (``data:vader-tweets``).
    out : str or Path
        A folder, new or of the same run.
    settings : TrainingSettings, optional
    read_options : ReadOptions, optional
        With `OnError.SKIP`, rows without a label are skipped too.
    validation, test : sequence of str
        Files for these parts; without, they are split off the sources.
    overwrite : bool
        Begin anew where the folder holds a run under other settings.
    watch : Watch, optional

    Returns
    -------
    Trained
        The folder is a Hugging Face model that ``hf:`` loads, with ``saved_model/`` and ``model.keras`` in it.

    Raises
    ------
    InputError, DegenerateInputError
        For texts or labels that nothing can be learned from; before any model is loaded.
    ModelError, FetchError
        If the encoder cannot be loaded or trained.
    StoreError
        If the folder holds something else, or the disk refuses.
    """
    settings = (settings or TrainingSettings()).resolved()
    watch = watch or Watch()
    say = watch.say or (lambda line: None)
    path = Path(out)
    parts = read_parts(sources, settings, read_options, validation=validation, test=test)
    for line in (f"Task: {parts.labels.reason}", _split_line(parts), *parts.notes):
        say(line)
    with locked(path) as folder:
        identity = _identity(settings, parts)
        done = begin(folder, identity, overwrite=overwrite)
        if done is not None:
            return Trained(path, done, 0, 0.0)
        return _train(folder, settings, parts, identity, watch, say)


def _train(
    folder: Path,
    settings: TrainingSettings,
    parts: Parts,
    identity: Mapping[str, Any],
    watch: Watch,
    say: Callable[[str], None],
) -> Trained:
    from embedsvc.models.quiet import import_tensorflow

    began = time.perf_counter()
    import_tensorflow()
    from embedsvc.models.learner import Learner, best_precision

    precision = best_precision() if settings.precision is Precision.AUTO else str(settings.precision)
    network = _network(settings, parts, precision)
    n_weights = sum(int(np.prod(variable.shape)) for variable in network.weights.values())
    for line in (*network.notes, f"Training {n_weights:,} weights in {precision}."):
        say(line)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    vectors = None
    if network.cached is not None:
        vectors = _cached_vectors(network.cached, folder / CHECKPOINTS, digest, settings, parts, watch)
    rows = network.prepare(parts.texts, vectors)
    if n_cut := int(rows.truncated.sum()):
        say(f"Texts longer than the model reads, and cut: {n_cut:,}")
    learner = Learner(network, multi_label=parts.labels.task is Task.MULTI_LABEL, weight_decay=settings.weight_decay)
    data = loop.Data(
        rows,
        parts.targets,
        text_weights(parts.targets, parts.train, parts.labels, settings.class_weights),
        parts.train,
        parts.validation,
        parts.labels,
    )
    fitted = loop.fit(
        learner,
        data,
        settings,
        folder=folder / CHECKPOINTS,
        identity=digest,
        progress=watch.progress,
        epoch_done=watch.epoch,
    )
    logits = {part: loop.infer(learner, rows, parts.rows(part), settings.token_budget) for part in PARTS[1:]}
    say("Writing the model")
    exports = dict(network.export(folder))
    _write_split(folder / _SPLIT, parts)
    record = {
        "embedsvc": version_of("embedsvc"),
        "identity": identity,
        "settings": asdict(settings),
        "precision": precision,
        "sources": list(parts.sources),
        "task": str(parts.labels.task),
        "task_reason": parts.labels.reason,
        "classes": list(parts.labels.classes),
        "split": {part: len(parts.rows(part)) for part in PARTS} | {"file": _SPLIT},
        "n_weights": n_weights,
        "steps": fitted.steps,
        "history": [asdict(epoch) for epoch in fitted.history],
        "best_epoch": fitted.best_epoch,
        "scores": _scores(logits, parts),
        "calibration_error": f"{BINS} equal-width bins of the confidence",
        "exports": exports,
        "largest_logit_difference": _difference(folder / next(iter(exports.values())), parts, logits["test"], settings),
        "notes": [*parts.notes, *network.notes],
    }
    write_card(folder / "README.md", record)
    finish(folder, record)
    rate = fitted.texts / fitted.seconds if fitted.seconds else 0.0
    say(f"Done in {time.perf_counter() - began:,.0f} s")
    return Trained(folder, record, fitted.steps - fitted.resumed_at, rate)


def _network(settings: TrainingSettings, parts: Parts, precision: str) -> Network:
    from embedsvc.models.network import Request, build_network

    request = Request(
        texts=[parts.texts[row] for row in parts.train],
        classes=parts.labels.classes,
        multi_label=parts.labels.task is Task.MULTI_LABEL,
        rate=settings.dropout,
        freeze=settings.freeze_encoder,
        train_pooler={Pooler.AUTO: None, Pooler.TRAIN: True, Pooler.FREEZE: False}[settings.pooler],
        max_tokens=settings.max_tokens,
        precision=precision,
        seed=settings.seed,
    )
    return build_network(settings.encoder, request)


def _scores(logits: Mapping[str, Vectors], parts: Parts) -> dict[str, Any]:
    """Of the held-out parts, and of always saying what was most frequent in training."""
    scores = {part: evaluate(found, parts.targets[parts.rows(part)], parts.labels) for part, found in logits.items()}
    test = parts.targets[parts.rows("test")]
    scores["test_by_frequency"] = majority(parts.targets[parts.train], test, parts.labels)
    return {name: score.to_json() for name, score in scores.items()}


def _cached_vectors(
    cached: Cached, folder: Path, digest: str, settings: TrainingSettings, parts: Parts, watch: Watch
) -> Vectors:
    """The vectors that a frozen encoder gives, computed by the fast runner and kept until the run is done."""
    path = folder / "vectors.safetensors"
    if path.exists():
        found = read_arrays(path)
        if found.facts["identity"] == digest:
            return found.arrays["vectors"]
    asked = extraction.Settings(taps=(cached.tap,), max_tokens=settings.max_tokens)
    progress = None
    if watch.caching:
        progress = watch.caching(len(parts.texts), extraction.describe(cached.encoder, asked))
    blocks = extraction.extract(parts.texts, cached.encoder, asked, progress=progress)
    vectors = np.concatenate([next(iter(block.vectors.values())) for block in blocks])
    write_arrays(path, {"vectors": vectors}, {"identity": digest})
    return vectors


def _difference(model: Path, parts: Parts, logits: Vectors, settings: TrainingSettings) -> float:
    """Largest gap between the logits of the model as written and those of the trained one, on held-out texts."""
    from embedsvc.models import forward, load_model

    texts = [parts.texts[row] for row in parts.test[:_CHECKED]]
    found = forward(load_model(str(model)), texts, taps=["logits"], max_tokens=settings.max_tokens).vectors["logits"]
    return float(np.abs(found - logits[:_CHECKED]).max())


def _identity(settings: TrainingSettings, parts: Parts) -> dict[str, Any]:
    """All that decides the weights, JSON values."""
    plain = {name: value for name, value in asdict(settings).items() if name != "checkpoint_seconds"}
    rows = hashlib.sha256()
    for part in PARTS:
        for row in parts.rows(part):
            text = parts.texts[row]
            rows.update(repr((part, text.id, text.text, text.label)).encode("utf-8", "surrogatepass"))
    versions = {name: version_of(name) for name in ("embedsvc", "keras", "numpy", "tokenizers")}
    tensorflow = version_of("tensorflow", "tensorflow-cpu") or "unknown"
    return plain | {"texts": rows.hexdigest(), "versions": versions | {"tensorflow": tensorflow}}


def _write_split(path: Path, parts: Parts) -> None:
    """Id, part and label of each text that was used."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "part", "label"])
    for part in PARTS:
        writer.writerows([parts.texts[row].id, part, parts.texts[row].label] for row in parts.rows(part))
    with atomic_file(path) as file:
        file.write(out.getvalue().encode())


def _split_line(parts: Parts) -> str:
    return "Split: " + ", ".join(f"{len(parts.rows(part)):,} {part}" for part in PARTS)
