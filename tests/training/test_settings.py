"""What a training run is told, and what is filled in where it is told nothing."""

import pytest

from embedsvc.errors import SettingsError
from embedsvc.training import TrainingSettings


@pytest.mark.parametrize(
    ("settings", "epochs", "learning_rate", "patience"),
    [
        (TrainingSettings(), 3, 5e-5, 2),
        (TrainingSettings(freeze_encoder=True), 200, 1e-3, 10),
        (TrainingSettings(encoder="recurrent:gru,units=8"), 30, 2e-3, 5),
        (TrainingSettings(encoder="hf:recurrent:"), 3, 5e-5, 2),
    ],
)
def test_defaults_go_by_where_the_weights_begin(settings, epochs, learning_rate, patience):
    found = settings.resolved()
    assert (found.epochs, found.learning_rate, found.patience) == (epochs, learning_rate, patience)


def test_what_was_said_is_kept():
    found = TrainingSettings(encoder="recurrent:lstm", epochs=2, learning_rate=0.5, patience=9).resolved()
    assert (found.epochs, found.learning_rate, found.patience) == (2, 0.5, 9)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"learning_rate": 0.0}, {"validation": 0.6, "test": 0.4}, {"warmup": 1}]
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        TrainingSettings(**wrong)
