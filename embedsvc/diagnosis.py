"""What this machine and this environment are like, and what in them is known to go wrong.

Nothing heavy is imported: versions are read from the installed packages' metadata. Only if asked, each library is
imported in a process of its own, which finds what no metadata tells: a CPU without the needed instructions, torn files.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from embedsvc import catalog, machine
from embedsvc.machine import version_of

__all__ = ["Diagnosis", "Finding", "Severity", "diagnose"]

_PYTHON = ((3, 11), (3, 14))  # from, and below: `requires-python` of pyproject.toml
_SETUPTOOLS = 82  # removed pkg_resources, which tensorflow_hub imports
_LEAST_MEMORY = 2e9  # TensorFlow with a small BERT and its batches
_LEAST_DISK = 1e9
_STACK = ("tensorflow", "tensorflow_text", "tensorflow_hub", "tf_keras", "keras", "sklearn", "pyarrow", "umap")
_VERSIONS = (
    *("embedsvc", "numpy", "scipy", "scikit-learn", "pyarrow", "tokenizers", "safetensors", "openvino"),
    *("tensorflow", "tensorflow-cpu", "tensorflow-text", "tensorflow-hub", "tf-keras", "keras", "keras-hub"),
    *(
        "setuptools",
        "protobuf",
        "umap-learn",
        "pynndescent",
        "bokeh",
        "matplotlib",
        "pandas",
        "polars",
        "faiss-cpu",
        "ray",
    ),
)


class Severity(StrEnum):
    """How bad a finding is: an error stops something that embedsvc promises."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be, and what to do."""

    severity: Severity
    problem: str
    fix: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What `diagnose` found.

    Attributes
    ----------
    machine : mapping of str to str
        Processors, memory, graphics cards, the cache.
    versions : mapping of str to str or None
        Of each package that matters; None where it is not installed.
    extras : mapping of str to tuple of str
        What is missing of each extra of embedsvc.
    models : mapping of str to bool
        Named models, and whether they are in the cache.
    imports : mapping of str to float
        Seconds that each library took to import; empty if that was not asked for.
    findings : tuple of Finding
        Errors first.
    """

    machine: Mapping[str, str]
    versions: Mapping[str, str | None]
    extras: Mapping[str, tuple[str, ...]]
    models: Mapping[str, bool]
    imports: Mapping[str, float]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether there is no error."""
        return not any(finding.severity is Severity.ERROR for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "healthy": self.healthy,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "extras": {name: list(missing) for name, missing in self.extras.items()},
            "models": dict(self.models),
            "imports": dict(self.imports),
            "findings": [asdict(finding) for finding in self.findings],
        }


def diagnose(*, imports: bool = False) -> Diagnosis:
    """Look at the machine, the installed packages, the cache and the named models.

    Parameters
    ----------
    imports : bool
        Also import each library in a process of its own, which takes seconds each.
    """
    versions = {name: version_of(name) for name in _VERSIONS}
    timed: dict[str, float] = {}
    findings = [
        *_python(sys.version_info[:2]),
        *_conflicts(versions),
        *_requirements(),
        *_surroundings(os.environ),
        *_cache(),
    ]
    memory, available = machine.memory()
    if available is not None and available < _LEAST_MEMORY:
        findings.append(
            Finding(
                Severity.WARNING,
                f"{available / 1e9:.1f} GB of memory are free",
                "TensorFlow and a small BERT need about 2 GB: close something, or take a smaller --token-budget.",
            )
        )
    cards = machine.cards()
    findings += _unused_cards(cards, versions)
    if imports:
        for name in _STACK:
            seconds, problem = _import(name)
            if problem is None:
                timed[name] = seconds
            elif problem:
                findings.append(Finding(Severity.ERROR, f"importing {name} fails: {problem}", "Install it again."))
    return Diagnosis(
        machine={
            "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
            "python": f"{platform.python_version()} ({sys.executable})",
            "processors": ", ".join([f"{machine.processors()} usable of {os.cpu_count()}", *machine.instructions()]),
            "memory": "unknown"
            if memory is None or available is None
            else f"{available / 1e9:.1f} GB free of {memory / 1e9:.1f} GB",
            "graphics": ", ".join(cards) or "none seen",
            "cache": str(catalog.cache_folder()),
        },
        versions=versions,
        extras=_extras(),
        models={entry.name: entry.cached for entry in catalog.entries()},
        imports=timed,
        findings=tuple(sorted(findings, key=lambda finding: finding.severity is not Severity.ERROR)),
    )


def _python(version: tuple[int, ...]) -> Iterator[Finding]:
    least, below = _PYTHON
    if not least <= version < below:
        yield Finding(
            Severity.ERROR,
            f"this is Python {version[0]}.{version[1]}; TensorFlow and its text package are there for "
            f"{least[0]}.{least[1]} to {below[0]}.{below[1] - 1}",
            f"Make the environment with Python {below[0]}.{below[1] - 2}.",
        )


def _conflicts(versions: Mapping[str, str | None]) -> Iterator[Finding]:
    """What pip does not notice."""
    if (setuptools := versions["setuptools"]) and _number(setuptools)[0] >= _SETUPTOOLS:
        yield Finding(
            Severity.ERROR,
            f"setuptools {setuptools} has no pkg_resources any more, and tensorflow_hub imports it",
            f'Run: pip install "setuptools<{_SETUPTOOLS}"',
        )
    if versions["tensorflow"] and versions["tensorflow-cpu"]:
        yield Finding(
            Severity.ERROR,
            "tensorflow and tensorflow-cpu are both installed, and write the same files",
            "Run: pip uninstall -y tensorflow tensorflow-cpu, and install one of them.",
        )
    tensorflow = versions["tensorflow"] or versions["tensorflow-cpu"]
    if tensorflow is None:
        yield Finding(Severity.ERROR, "tensorflow is not installed", "Run: pip install tensorflow")
        return
    minor = _number(tensorflow)[:2]
    for name in ("tensorflow-text", "tf-keras"):
        version = versions[name]
        if version and _number(version)[:2] != minor:
            wanted = f"{name}=={minor[0]}.{minor[1]}.*"
            yield Finding(
                Severity.ERROR,
                f"{name} {version} is built for another TensorFlow than {tensorflow}",
                f'Run: pip install "{wanted}"',
            )


def _requirements() -> Iterator[Finding]:
    """What embedsvc itself asks for, and is not there in the right version."""
    if version_of("embedsvc") is None:
        yield Finding(
            Severity.ERROR, "embedsvc is not installed, only its source is on the path", "Run: pip install -e ."
        )
        return
    for requirement in _declared(""):
        installed = version_of(requirement.name)
        if requirement.name == "tensorflow" and installed is None:
            installed = version_of("tensorflow-cpu")  # stands in for it
        if installed is None:
            yield Finding(Severity.ERROR, f"{requirement.name} is not installed", f'Run: pip install "{requirement}"')
        elif not requirement.specifier.contains(installed, prereleases=True):
            yield Finding(
                Severity.ERROR,
                f"{requirement.name} {installed} is installed, expected {requirement.specifier}",
                f'Run: pip install "{requirement}"',
            )


def _extras() -> dict[str, tuple[str, ...]]:
    if version_of("embedsvc") is None:
        return {}
    names = metadata.metadata("embedsvc").get_all("Provides-Extra") or []
    return {
        name: tuple(
            requirement.name
            for requirement in _declared(name)
            if (version := version_of(requirement.name)) is None
            or not requirement.specifier.contains(version, prereleases=True)
        )
        for name in names
    }


def _declared(extra: str) -> list[Any]:
    """Requirements of embedsvc itself, or those that one of its extras adds."""
    from packaging.requirements import Requirement

    def wanted(requirement: Any, extra: str) -> bool:  # noqa: ANN401 - a Requirement
        return requirement.marker is None or bool(requirement.marker.evaluate({"extra": extra}))

    every = [Requirement(line) for line in metadata.requires("embedsvc") or []]
    return [each for each in every if wanted(each, extra) and not (extra and wanted(each, ""))]


def _surroundings(environment: Mapping[str, str]) -> Iterator[Finding]:
    if (backend := environment.get("KERAS_BACKEND", "tensorflow")) != "tensorflow":
        yield Finding(
            Severity.ERROR,
            f"KERAS_BACKEND is {backend!r}: Keras models would not run on TensorFlow",
            "Unset it, or set KERAS_BACKEND=tensorflow.",
        )
    hub = environment.get("TFHUB_CACHE_DIR")
    if hub and Path(hub).is_relative_to("/tmp"):
        yield Finding(
            Severity.WARNING,
            f"TFHUB_CACHE_DIR is {hub}: cleaners of the temporary folder leave models half deleted",
            "Point it at a folder that stays.",
        )
    folder = _folder("tensorflow")
    if folder is not None and not (folder / "__pycache__").is_dir():
        yield Finding(
            Severity.WARNING,
            "TensorFlow's bytecode is not compiled: each import takes about three times as long",
            f"Run: {sys.executable} -m compileall -q -j 0 {folder}",
        )


def _folder(package: str) -> Path | None:
    """Where a package lies, found without importing it."""
    return next((Path(entry) / package for entry in sys.path if (Path(entry) / package).is_dir()), None)


def _cache() -> Iterator[Finding]:
    folder = catalog.cache_folder()
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(existing, os.W_OK):
        yield Finding(
            Severity.ERROR,
            f"the cache {folder} cannot be written",
            "Point EMBEDSVC_CACHE at a folder that can.",
        )
    elif (free := shutil.disk_usage(existing).free) < _LEAST_DISK:
        yield Finding(
            Severity.WARNING,
            f"{free / 1e6:.0f} MB are free where the cache is ({folder})",
            "Free some space, or point EMBEDSVC_CACHE at another disk.",
        )


def _unused_cards(cards: list[str], versions: Mapping[str, str | None]) -> Iterator[Finding]:
    if cards and versions["tensorflow-cpu"] and not versions["tensorflow"]:
        yield Finding(
            Severity.WARNING,
            "there is a graphics card, but tensorflow-cpu does not use it",
            f'Run: pip uninstall -y tensorflow-cpu && pip install "tensorflow[and-cuda]=={versions["tensorflow-cpu"]}"',
        )


def _import(name: str) -> tuple[float, str | None]:
    """Seconds, and why it failed: None if it did not, "" if the package is not installed."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode == 0:
        return seconds, None
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return seconds, "" if last == f"ModuleNotFoundError: No module named '{name}'" else last


def _number(version: str) -> tuple[int, ...]:
    from packaging.version import Version

    return Version(version).release
