from collections.abc import Callable
from pathlib import Path

import pytest

from embedsvc.models.base import Encoder
from embedsvc.models.load import load_model
from tests.contracts.builders import ENCODERS, Built

_NUMPY_ONLY = {"fake"}


def _marks(name: str) -> list[pytest.MarkDecorator]:
    return [] if name in _NUMPY_ONLY else [pytest.mark.tensorflow]


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=_marks(name)) for name in ENCODERS],
)
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Built]:
    """Writes the model under test with the weights of a seed; once a seed."""
    written: dict[int, Built] = {}

    def write(seed: int) -> Built:
        if seed not in written:
            folder: Path = tmp_path_factory.mktemp(f"{request.param}-{seed}-")
            written[seed] = ENCODERS[request.param](folder, seed)
        return written[seed]

    return write


@pytest.fixture(scope="session")
def built(build: Callable[[int], Built]) -> Built:
    return build(0)


@pytest.fixture(scope="session")
def encoder(built: Built) -> Encoder:
    return load_model(built.uri, **built.options)
