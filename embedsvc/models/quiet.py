"""Importing TensorFlow without its greeting, saving without its notice, and OpenVINO without its telephone call."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

__all__ = ["import_openvino", "import_tensorflow", "only_warnings"]

# What TensorFlow's C++ prints on every import, whatever TF_CPP_MIN_LOG_LEVEL says: nothing a user could act on.
_GREETING = (
    b"All log messages before absl::InitializeLog()",
    b"oneDNN custom operations are on",
    b"This TensorFlow binary is optimized to use available CPU instructions",
    b"To enable the following instructions:",
    b"Could not find cuda drivers",
    b"Unable to register cu",
)


def import_tensorflow() -> None:
    """Import TensorFlow once, and pass on whatever it writes to stderr but its greeting.

    Does nothing where it is imported already, or where the user set TF_CPP_MIN_LOG_LEVEL to see more.
    """
    if "tensorflow" in sys.modules or os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "pkg_resources is deprecated")
                import_module("tensorflow")
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught:
                if not any(part in line for part in _GREETING):
                    sys.stderr.write(line.decode(errors="replace"))


@contextmanager
def only_warnings() -> Iterator[None]:
    """TensorFlow's log from WARNING on: in a notebook it sets itself to INFO, and tells twice where it saved what."""
    logger = import_module("tensorflow").get_logger()
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def import_openvino() -> Any:
    """The module openvino, its telemetry left out.

    Its import sends an event to its makers and writes an identifier into the home folder, unless the package
    openvino-telemetry is missing: so it is hidden for the while.
    """
    hidden = "openvino_telemetry"
    hide = "openvino" not in sys.modules and hidden not in sys.modules
    if hide:
        sys.modules[hidden] = None  # type: ignore[assignment] # None makes an import fail
    try:
        return import_module("openvino")
    finally:
        if hide:
            del sys.modules[hidden]
