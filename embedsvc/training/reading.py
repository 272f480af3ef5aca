"""From files to labelled texts in three parts."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import DuplicateIdError, InputError
from embedsvc.texts import OnError, ReadOptions, read, scan
from embedsvc.training.labels import Labels, choose_task
from embedsvc.training.settings import TrainingSettings
from embedsvc.training.splitting import PARTS, split_texts, without
from embedsvc.types import Text

__all__ = ["Parts", "read_parts"]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Labelled texts, and the part each is in.

    Attributes
    ----------
    texts : tuple of Text
    labels : Labels
    targets : ndarray
        See `Labels.encode`.
    train, validation, test : ndarray of intp
        Rows of `texts`.
    sources : tuple of mapping
        Name and SHA-256 of each file, by part.
    notes : tuple of str
        What was left out or is odd about the texts.
    """

    texts: tuple[Text, ...]
    labels: Labels
    targets: NDArray[Any]
    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]
    sources: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    def rows(self, part: str) -> NDArray[np.intp]:
        """Rows of the part of that name."""
        rows: NDArray[np.intp] = getattr(self, part)
        return rows


def read_parts(
    sources: Sequence[str],
    settings: TrainingSettings,
    options: ReadOptions | None = None,
    *,
    validation: Sequence[str] = (),
    test: Sequence[str] = (),
) -> Parts:
    """Read and split.

    Parameters
    ----------
    sources : sequence of str
        See `extraction.extract_files`.
    settings : TrainingSettings
    options : ReadOptions, optional
    validation, test : sequence of str
        Files for these parts; without, they are split off the sources.

    Raises
    ------
    InputError
        For rows that cannot be read or have no label.
    DegenerateInputError
        For labels that nothing can be learned from or scored on.
    """
    options = options or ReadOptions()
    given = {"train": sources, "validation": validation, "test": test}
    texts: dict[str, list[Text]] = {}
    used: list[dict[str, Any]] = []
    notes: list[str] = []
    for part, names in given.items():
        texts[part], found, told = _labelled(names, options) if names else ([], [], [])
        used += [{"part": part} | source for source in found]
        notes += told
    _check_ids(texts)
    held_out = [*texts["validation"], *texts["test"]]
    kept = without(texts["train"], held_out)
    if len(kept) < len(texts["train"]):
        notes.append(
            f"{len(texts['train']) - len(kept):,} training texts are also in the held-out files and were left out."
        )
    labels = choose_task([text.label or "" for text in kept], task=settings.task, separator=settings.label_separator)
    split = split_texts(
        kept,
        labels,
        validation=0.0 if validation else settings.validation,
        test=0.0 if test else settings.test,
        seed=settings.seed,
    )
    if split.n_copies:
        different = f", {split.n_conflicts:,} of them under another label" if split.n_conflicts else ""
        notes.append(f"{split.n_copies:,} texts are copies of others{different}; copies are in the same part.")
    rows = {part: getattr(split, part) for part in PARTS}
    everything = list(kept)
    for part in PARTS[1:]:
        if texts[part]:
            rows[part] = np.arange(len(everything), len(everything) + len(texts[part]))
            everything += texts[part]
            _check_all_classes(texts[part], labels, part)
    targets = [labels.encode([text.label or "" for text in everything[: len(kept)]], where="the training file")]
    for part in PARTS[1:]:
        if texts[part]:
            targets.append(labels.encode([text.label or "" for text in texts[part]], where=f"the {part} file"))
    return Parts(
        tuple(everything),
        labels,
        np.concatenate(targets),
        rows["train"],
        rows["validation"],
        rows["test"],
        tuple(used),
        tuple(notes),
    )


def _labelled(names: Sequence[str], options: ReadOptions) -> tuple[list[Text], list[dict[str, Any]], list[str]]:
    with tempfile.TemporaryDirectory(prefix="embedsvc-") as spool:
        scanned = scan(names, options, spool=Path(spool))
        texts = list(read(scanned))
    labelled = [text for text in texts if text.label is not None]
    missing = len(texts) - len(labelled)
    notes = []
    rejected = len(scanned.rejected)
    if rejected:
        notes.append(f"{rejected:,} rows cannot be read and were skipped.")
    if missing and (options.on_error is OnError.FAIL or not labelled):
        first = next(text.id for text in texts if text.label is None)
        column = options.label_column or "label"
        all_ = missing == len(texts)
        raise InputError(
            f"{'none' if all_ else f'{missing:,}'} of {len(texts):,} rows {'has' if all_ else 'have no'} "
            f"{'a ' * all_}label in the column {column!r}" + ("" if all_ else f", the first is {first}"),
            "Name the column with --label-column."
            if all_
            else "Label these rows, take them out, or skip them with --on-error skip.",
        )
    if missing:
        notes.append(f"{missing:,} rows have no label and were skipped.")
    return labelled, [asdict(source) for source in scanned.sources], notes


def _check_ids(texts: dict[str, list[Text]]) -> None:
    """Ids decide the masks and name the rows of the split, so they are unique across files too."""
    seen: dict[str, str] = {}
    for part, rows in texts.items():
        for text in rows:
            if text.id in seen:
                raise DuplicateIdError(
                    f"the id {text.id[:80]!r} is in the {seen[text.id]} and in the {part} files",
                    "Give each row an id of its own, or leave out --id-column: ids are then <file>:<row>.",
                )
            seen[text.id] = part


def _check_all_classes(texts: Sequence[Text], labels: Labels, part: str) -> None:
    from embedsvc.errors import DegenerateInputError

    found = {name for text in texts for name in labels.split(text.label or "")}
    if missing := [name for name in labels.classes if name not in found]:
        raise DegenerateInputError(
            f"the {part} file has no text of the class{'es' * (len(missing) > 1)} {', '.join(missing[:12])}, which the "
            "training texts have",
            "Without one, the class cannot be scored: add texts of it, or let the part be split off.",
        )
