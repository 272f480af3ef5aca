"""Epoch after epoch: steps, validation, early stopping, checkpoints; where it was killed, it goes on.

All that a step depends on is in the checkpoint, or follows from seed, epoch and text: the order of the batches, the
dropout masks, the learning rate. So a resumed run takes the steps of an unbroken one, and ends with the same weights.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import StoreMismatchError
from embedsvc.training.batches import epoch_batches, pieces
from embedsvc.training.checkpoints import Checkpoint, latest, prune, read_arrays, write_arrays, write_checkpoint
from embedsvc.training.evaluation import Scores, evaluate
from embedsvc.training.labels import Labels
from embedsvc.training.schedule import learning_rate
from embedsvc.training.settings import TrainingSettings
from embedsvc.types import Mode, Pass

if TYPE_CHECKING:
    from embedsvc.models.learner import Learner, Piece
    from embedsvc.models.network import Rows

__all__ = ["Data", "Epoch", "Fitted", "Status", "fit", "infer"]

_AHEAD = 2  # batches that are made ready while one is trained on


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """What the loop works on.

    Attributes
    ----------
    rows : Rows
        All texts, of every part.
    targets, weights : ndarray
        Of all texts.
    train, validation : ndarray of intp
        Rows of these parts.
    labels : Labels
    """

    rows: Rows
    targets: NDArray[Any]
    weights: NDArray[np.float32]
    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    labels: Labels


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch gave: mean training loss (with dropout, as the weights moved), and validation."""

    number: int
    loss: float
    validation_loss: float
    validation_accuracy: float
    validation_macro_f1: float


@dataclass(frozen=True, slots=True)
class Status:
    """Where the training is, for a progress display; epochs are counted from 0, `rate` is in texts per second."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    rate: float


@dataclass(slots=True)
class _State:
    epoch: int = 0  # under way
    batch: int = 0  # of this epoch, next
    step: int = 0  # of all, next
    loss: float = 0.0  # sum over the texts of this epoch so far
    texts: int = 0  # of this epoch so far
    history: list[Epoch] = field(default_factory=list)
    best: str = ""  # file of the best weights
    best_epoch: int = -1


@dataclass(frozen=True, slots=True)
class Fitted:
    """What `fit` did; the learner has the best epoch's weights.

    `texts` and `seconds` are of this process alone, and of training steps alone.
    """

    history: tuple[Epoch, ...]
    best_epoch: int
    steps: int
    resumed_at: int
    texts: int
    seconds: float


def fit(
    learner: Learner,
    data: Data,
    settings: TrainingSettings,
    *,
    folder: Path,
    identity: str,
    progress: Callable[[Status], None] | None = None,
    epoch_done: Callable[[Epoch], None] | None = None,
) -> Fitted:
    """Train until the epochs are through or validation gets no better.

    Parameters
    ----------
    learner : Learner
        Fresh.
    data : Data
    settings : TrainingSettings
        Resolved.
    folder : Path
        Of the checkpoints; what is there is gone on with.
    identity : str
        Digest of all that decides the weights.
    progress, epoch_done : callable, optional

    Raises
    ------
    StoreMismatchError
        If the checkpoint is of another run.
    StoreError
        If the disk refuses, or a checkpoint is damaged.
    """
    run = _Run(learner, data, settings, folder, identity)
    run.restore()
    resumed_at = run.state.step
    run.train(progress, epoch_done)
    learner.set_weights(read_arrays(folder / run.state.best).arrays)
    state = run.state
    return Fitted(tuple(state.history), state.best_epoch, state.step, resumed_at, run.texts, run.seconds)


def infer(learner: Learner, rows: Rows, chosen: NDArray[np.intp], token_budget: int) -> NDArray[np.float32]:
    """Logits of the chosen rows, in their order, in inference mode."""
    found: NDArray[np.float32] | None = None
    place = {int(row): at for at, row in enumerate(chosen)}
    for part in pieces(chosen, rows.lengths, token_budget):
        logits = learner.logits(rows.inputs(part, Pass()))
        if found is None:
            found = np.empty((len(chosen), logits.shape[1]), dtype=np.float32)
        found[[place[int(row)] for row in part]] = logits
    assert found is not None
    return found


class _Run:
    def __init__(self, learner: Learner, data: Data, settings: TrainingSettings, folder: Path, identity: str) -> None:
        assert settings.epochs and settings.learning_rate and settings.patience
        self.learner, self.data, self.settings = learner, data, settings
        self.folder, self.identity = folder, identity
        self.state = _State()
        self.epochs, self.peak, self.patience = settings.epochs, settings.learning_rate, settings.patience
        self.steps = self.epochs * -(-len(data.train) // settings.batch_size)
        self.texts, self.seconds = 0, 0.0
        self._saved = time.monotonic()

    def restore(self) -> None:
        found = latest(self.folder)
        if found is None:
            return
        if found.facts["identity"] != self.identity:
            raise StoreMismatchError(
                f"{self.folder.parent} holds a run that was stopped, under other settings, inputs or versions",
                "Give the command of that run to go on with it, use --overwrite to begin anew, or another folder.",
            )
        self.learner.set_state(found.arrays)
        facts = dict(found.facts["state"])
        self.state = _State(**(facts | {"history": [Epoch(**epoch) for epoch in facts["history"]]}))

    def save(self) -> None:
        facts = {"identity": self.identity, "state": asdict(self.state)}
        path = write_checkpoint(self.folder, self.state.step, Checkpoint(self.learner.state(), facts))
        prune(self.folder, {path.name, self.state.best})
        self._saved = time.monotonic()

    def train(self, progress: Callable[[Status], None] | None, epoch_done: Callable[[Epoch], None] | None) -> None:
        state = self.state
        with ThreadPoolExecutor(1, thread_name_prefix="embedsvc-batches") as pool:
            while state.epoch < self.epochs and not self.is_stuck():
                batches = epoch_batches(
                    self.data.rows.lengths[self.data.train],
                    batch_size=self.settings.batch_size,
                    seed=self.settings.seed,
                    epoch=state.epoch,
                )
                rest = [self.data.train[batch] for batch in batches[state.batch :]]
                for rows, made in _ahead(pool, rest, self.make):
                    self.step(rows, made, progress)
                self.validate(epoch_done)

    def make(self, rows: NDArray[np.intp]) -> list[Piece]:
        """A batch as the learner takes it; runs in a thread of its own while the one before is trained on."""
        data = self.data
        pass_ = Pass(Mode.TRAINING, self.state.epoch, self.settings.seed)
        return [
            (data.rows.inputs(part, pass_), data.targets[part], data.weights[part])
            for part in pieces(rows, data.rows.lengths, self.settings.token_budget)
        ]

    def step(self, rows: NDArray[np.intp], made: Sequence[Piece], progress: Callable[[Status], None] | None) -> None:
        state = self.state
        began = time.perf_counter()
        rate = learning_rate(
            state.step, steps=self.steps, peak=self.peak, warmup=self.settings.warmup, decay=self.settings.decay
        )
        loss = self.learner.step(made, n=len(rows), learning_rate=rate)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        self.texts += len(rows)
        state.loss += loss * len(rows)
        state.texts += len(rows)
        state.step += 1
        state.batch += 1
        if progress:
            mean = state.loss / state.texts
            progress(Status(state.epoch, self.epochs, state.step, self.steps, mean, len(rows) / seconds))
        if time.monotonic() - self._saved >= self.settings.checkpoint_seconds:
            self.save()

    def validate(self, epoch_done: Callable[[Epoch], None] | None) -> None:
        """The end of an epoch: score it, keep its weights if they are the best so far, write a checkpoint."""
        state, data = self.state, self.data
        logits = infer(self.learner, data.rows, data.validation, self.settings.token_budget)
        scores: Scores = evaluate(logits, data.targets[data.validation], data.labels)
        epoch = Epoch(state.epoch, state.loss / state.texts, scores.log_loss, scores.accuracy, scores.macro_f1)
        if not state.history or epoch.validation_loss < min(old.validation_loss for old in state.history):
            state.best, state.best_epoch = f"best-{state.step:09}.safetensors", state.epoch
            write_arrays(self.folder / state.best, self.learner.weights(), {"identity": self.identity})
        state.history.append(epoch)
        state.epoch, state.batch, state.loss, state.texts = state.epoch + 1, 0, 0.0, 0
        self.save()
        if epoch_done:
            epoch_done(epoch)

    def is_stuck(self) -> bool:
        """Whether validation has not got better for as many epochs as `patience` allows."""
        return bool(self.state.history) and len(self.state.history) - 1 - self.state.best_epoch >= self.patience


def _ahead(
    pool: ThreadPoolExecutor, batches: Sequence[NDArray[np.intp]], make: Callable[[NDArray[np.intp]], list[Piece]]
) -> Iterator[tuple[NDArray[np.intp], list[Piece]]]:
    """Each batch and what was made of it, a few being made ready in the meantime."""
    waiting: deque[tuple[NDArray[np.intp], Future[list[Piece]]]] = deque()
    for rows in batches:
        waiting.append((rows, pool.submit(make, rows)))
        if len(waiting) > _AHEAD:
            first, made = waiting.popleft()
            yield first, made.result()
    for first, made in waiting:
        yield first, made.result()
