"""What a training run is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from embedsvc.errors import SettingsError
from embedsvc.training.labels import Task
from embedsvc.types import check_rate, check_seed

__all__ = ["ClassWeights", "Decay", "Pooler", "Precision", "TrainingSettings"]

# Schemes of encoders without weights of their own: a rate for fine-tuning would leave them where they began.
_BEGIN_AT_RANDOM = frozenset({"recurrent"})


class _Choice(StrEnum):
    @classmethod
    def _missing_(cls, value: object) -> None:
        what = cls.__doc__.partition(".")[0] if cls.__doc__ else cls.__name__
        raise SettingsError(f"{what}: there is no {value!r}", f"Known: {', '.join(cls)}")


class Decay(_Choice):
    """How the learning rate falls after the warm-up."""

    LINEAR = "linear"  # to 0 at the last step (Devlin et al. 2019)
    COSINE = "cosine"  # to 0 at the last step (Loshchilov & Hutter 2017, arXiv:1608.03983)
    NONE = "none"


class ClassWeights(_Choice):
    """How much a row weighs in the loss."""

    NONE = "none"  # every row the same: probabilities stay calibrated to how often a class occurs
    BALANCED = "balanced"  # n / (classes * rows of its class): every class the same


class Pooler(_Choice):
    """Whether the pooler of a frozen encoder is trained with the head."""

    AUTO = "auto"  # if it is untrained: its bias is exactly 0
    TRAIN = "train"
    FREEZE = "freeze"


class Precision(_Choice):
    """What the matrix products are computed in; weights, norms, softmax and losses are float32 always."""

    AUTO = "auto"  # bfloat16 on a GPU that has it (compute capability 8.0 and up), else float32
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What to train, and how. A None is filled in by `resolved`.

    Attributes
    ----------
    encoder : str
        A name of the catalogue, a Hugging Face folder, or ``scheme:location`` with a scheme out of
        `models.network.NETWORKS`.
    dropout : float
        Rate of the head's dropout, in training and in the model that comes out.
    freeze_encoder : bool
        Train the head alone, on vectors that are computed once.
    pooler : Pooler
        With `freeze_encoder`.
    task : Task
    label_separator : str
        Between the labels of one text (``sports|politics``); alone, it says that none applies.
    epochs : int or None
        At most; 3, 200 with a frozen encoder, or 30 for one that begins at random (``recurrent:``).
    batch_size : int
        Texts a step.
    learning_rate : float or None
        Its peak; 5e-5, 1e-3 with a frozen encoder, or 2e-3 for one that begins at random.
    weight_decay : float
        Of kernels and embeddings; biases and norms have none.
    warmup : float
        Share of the steps in which the learning rate rises from 0.
    decay : Decay
    patience : int or None
        Epochs without a lower validation loss before it stops; 2, 10 with a frozen encoder, or 5 for one that begins at
        random. The weights of the best epoch are kept in any case.
    class_weights : ClassWeights
    validation, test : float
        Shares of the texts that are held out: validation decides when to stop, test is scored once, at the end.
    max_tokens : int or None
        Longest text in tokens, special ones included; None takes the model's limit.
    token_budget : int
        Tokens that go through the encoder at once; a batch with more is run in pieces whose gradients add up.
    precision : Precision
    seed : int
        Of the head's first weights, the split, the order of the texts and the dropout masks.
    checkpoint_seconds : float
        Between checkpoints; one is written after each epoch in any case.

    Raises
    ------
    SettingsError
        For values out of range.
    """

    encoder: str = "minilm-l6"
    dropout: float = 0.1
    freeze_encoder: bool = False
    pooler: Pooler = Pooler.AUTO
    task: Task = Task.AUTO
    label_separator: str = "|"
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    weight_decay: float = 0.01
    warmup: float = 0.1
    decay: Decay = Decay.LINEAR
    patience: int | None = None
    class_weights: ClassWeights = ClassWeights.NONE
    validation: float = 0.1
    test: float = 0.2
    max_tokens: int | None = None
    token_budget: int = 4096
    precision: Precision = Precision.AUTO
    seed: int = 0
    checkpoint_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name, kind in (
            ("pooler", Pooler),
            ("task", Task),
            ("decay", Decay),
            ("class_weights", ClassWeights),
            ("precision", Precision),
        ):
            object.__setattr__(self, name, kind(getattr(self, name)))  # plain strings are accepted
        object.__setattr__(self, "dropout", check_rate(self.dropout))
        check_seed(self.seed)
        for name in ("epochs", "batch_size", "patience", "token_budget"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}, expected 1 or more")
        for name in ("validation", "test"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise SettingsError(f"{name} is {getattr(self, name)}, expected a share between 0 and 1")
        if self.validation + self.test >= 1.0:
            raise SettingsError(
                f"validation {self.validation} and test {self.test} leave nothing to train on", "Make them smaller."
            )
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise SettingsError(f"learning_rate is {self.learning_rate}, expected more than 0")
        if not self.weight_decay >= 0:
            raise SettingsError(f"weight_decay is {self.weight_decay}, expected 0 or more")
        if not 0.0 <= self.warmup < 1.0:
            raise SettingsError(f"warmup is {self.warmup}, expected a share from 0 to below 1")
        if not self.checkpoint_seconds >= 0:
            raise SettingsError(f"checkpoint_seconds is {self.checkpoint_seconds}, expected 0 or more")
        if not self.label_separator:
            raise SettingsError("label_separator is empty, expected a character")

    def resolved(self) -> Self:
        """The same with nothing left open."""
        if self.freeze_encoder:
            epochs, rate, patience = 200, 1e-3, 10
        elif self.encoder.partition(":")[0] in _BEGIN_AT_RANDOM:
            epochs, rate, patience = 30, 2e-3, 5
        else:
            epochs, rate, patience = 3, 5e-5, 2
        return replace(
            self,
            epochs=self.epochs or epochs,
            learning_rate=self.learning_rate or rate,
            patience=self.patience or patience,
        )
