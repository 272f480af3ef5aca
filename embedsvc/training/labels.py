"""What the labels say: which task it is, which classes there are, and the targets of each text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import DegenerateInputError, SettingsError

__all__ = ["Labels", "Task", "choose_task"]

_SHOWN = 12


class Task(StrEnum):
    """What a text's labels are to each other."""

    AUTO = "auto"  # from the labels
    BINARY = "binary"  # one of two classes: two logits, softmax
    MULTI_CLASS = "multi-class"  # one of several: a logit each, softmax
    MULTI_LABEL = "multi-label"  # any number of them: a logit each, sigmoid

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise SettingsError(f"no task is called {value!r}", f"Known: {', '.join(cls)}")


@dataclass(frozen=True, slots=True)
class Labels:
    """The task and its classes.

    Attributes
    ----------
    task : Task
        Never `Task.AUTO`.
    classes : tuple of str
        In the order of the logits: by number if all are numbers, else by name.
    separator : str
    reason : str
        Why it is this task, as a sentence.
    """

    task: Task
    classes: tuple[str, ...]
    separator: str
    reason: str

    def split(self, label: str) -> list[str]:
        """The classes of one text."""
        return _split(label, self.separator) if self.task is Task.MULTI_LABEL else [label]

    def encode(self, labels: Sequence[str], *, where: str) -> NDArray[Any]:
        """Targets: class numbers (n,) int32, or for multi-label (n, n_classes) float32 of 0 and 1.

        Raises
        ------
        DegenerateInputError
            For a label that is no class, named with `where`, the part it is in.
        """
        numbers = {name: number for number, name in enumerate(self.classes)}
        unseen = Counter(name for label in labels for name in self.split(label) if name not in numbers)
        if unseen:
            raise DegenerateInputError(
                f"{where} has labels that no training text has: {_counted(unseen)}",
                "A model can only learn classes it is shown: add training texts with these labels, or take the rows "
                "out.",
            )
        if self.task is not Task.MULTI_LABEL:
            return np.array([numbers[label] for label in labels], dtype=np.int32)
        targets = np.zeros((len(labels), len(self.classes)), dtype=np.float32)
        for row, label in enumerate(labels):
            targets[row, [numbers[name] for name in self.split(label)]] = 1.0
        return targets


def choose_task(labels: Sequence[str], *, task: Task = Task.AUTO, separator: str = "|") -> Labels:
    """Read off task and classes.

    Parameters
    ----------
    labels : sequence of str
        One a text.
    task : Task
        As told, or from the labels: multi-label if any holds the separator, else binary for two classes and
        multi-class for more.
    separator : str

    Raises
    ------
    DegenerateInputError
        If there is one class only, or the task does not fit the labels.

    >>> choose_task(["bad", "good", "good"]).reason
    'binary, since there are two labels: bad (1), good (2)'
    >>> choose_task(["5", "10", "1"]).classes
    ('1', '5', '10')
    """
    task = Task(task)
    joined = sum(separator in label for label in labels)
    multi = task is Task.MULTI_LABEL or (task is Task.AUTO and joined > 0)
    counts = Counter(name for label in labels for name in (_split(label, separator) if multi else [label]))
    classes = tuple(sorted(counts, key=_order(counts)))
    listed = _counted(Counter({name: counts[name] for name in classes}), ordered=True)
    if multi:
        if not classes:
            raise DegenerateInputError("no text has any label", "Check the label column.")
        why = f"{joined:,} texts have several labels joined by {separator!r}" if joined else "told so"
        return Labels(Task.MULTI_LABEL, classes, separator, f"multi-label, since {why}: {listed}")
    if len(classes) < 2:
        raise DegenerateInputError(
            f"all {len(labels):,} texts have the label {classes[0]!r}: with one class there is nothing to learn"
            if classes
            else "there are no labels",
            "Check that --label-column names the right column.",
        )
    if task is Task.BINARY and len(classes) != 2:
        raise DegenerateInputError(
            f"the task was said to be binary, but there are {len(classes)} labels: {listed}",
            "Leave --task out, or use --task multi-class.",
        )
    found = Task.BINARY if len(classes) == 2 and task is not Task.MULTI_CLASS else Task.MULTI_CLASS
    how_many = "two" if len(classes) == 2 else f"{len(classes)}"
    return Labels(found, classes, separator, f"{found}, since there are {how_many} labels: {listed}")


def _split(label: str, separator: str) -> list[str]:
    # A text may name a label twice; a separator alone is the empty set.
    return list(dict.fromkeys(part for raw in label.split(separator) if (part := raw.strip())))


def _order(names: Counter[str]) -> Any:  # noqa: ANN401 - a key of numbers or of strings
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        return str
    return numbers.__getitem__


def _counted(counts: Counter[str], *, ordered: bool = False) -> str:
    items = list(counts.items()) if ordered else counts.most_common()
    shown = ", ".join(f"{name[:40]} ({count:,})" for name, count in items[:_SHOWN])
    return shown + (f" and {len(items) - _SHOWN:,} more" if len(items) > _SHOWN else "")
