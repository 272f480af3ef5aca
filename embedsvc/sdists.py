"""Bringing a source distribution through pip without running any of it.

Even for a download pip asks a source distribution for its metadata, and the answer comes from its setup.py. Here the
build tool that pip would call, setuptools, is replaced for that one process by a stub that answers in its place.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["PIP_OPTIONS", "environment"]

# --no-build-isolation: pip takes the build tool it finds on the path, the stub, and fetches none.
PIP_OPTIONS = ("--no-binary=:all:", "--no-build-isolation", "--use-pep517")

_STUB = """\
import os


class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        folder = "{name}-{version}.dist-info"
        os.mkdir(os.path.join(metadata_directory, folder))
        with open(os.path.join(metadata_directory, folder, "METADATA"), "w") as file:
            file.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return folder


prepare_metadata_for_build_wheel = __legacy__.prepare_metadata_for_build_wheel
"""


def environment(distribution: str, scratch: Path) -> dict[str, str]:
    """Variables for a pip that is to download ``name==version``; the stub is written below `scratch`."""
    name, _, version = distribution.partition("==")
    folder = scratch / "stub" / "setuptools"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "build_meta.py").write_text(_STUB.replace("{name}", name).replace("{version}", version), encoding="utf-8")
    return os.environ | {"PYTHONPATH": str(folder.parent)}
