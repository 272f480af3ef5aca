"""Fine-tune an encoder with a dropout head, or the head alone: `run.train`."""

from embedsvc.training.run import Trained, Watch, train
from embedsvc.training.settings import TrainingSettings

__all__ = ["Trained", "TrainingSettings", "Watch", "train"]
