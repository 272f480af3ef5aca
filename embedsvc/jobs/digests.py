"""Keys of steps: equal keys, equal results. Made of settings, inputs, the model's files and the versions at work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedsvc.jobs.spec import Step
from embedsvc.machine import version_of
from embedsvc.storage import Place, open_raw

__all__ = ["analysis_inputs", "extraction_inputs", "file_digest", "model_digest", "step_key"]

# What decides a step's numbers besides its own code.
_LIBRARIES = {
    "extract": ("numpy", "pyarrow", "tensorflow", "tensorflow-cpu", "openvino", "tokenizers"),
    "analyses": ("numpy", "scipy", "scikit-learn", "umap-learn", "pynndescent"),
}
# Keys that say how fast or how safely, not what.
_IDLE = frozenset({"sources", "set", "other-set", "trust-model"})


def step_key(step: Step, inputs: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of everything that decides what a step makes.

    Parameters
    ----------
    step : Step
    inputs : mapping
        From `extraction_inputs` or `analysis_inputs`: JSON values.
    """
    libraries = _LIBRARIES["extract" if step.kind == "extract" else "analyses"]
    facts = {
        "kind": step.kind,
        "values": {name: value for name, value in step.values.items() if name not in _IDLE},
        "inputs": inputs,
        "versions": {name: version_of(name) or "none" for name in ("embedsvc", *libraries)},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def extraction_inputs(step: Step, sources: Sequence[Any]) -> dict[str, Any]:
    """The texts, by the digests of their files (`texts.Source`), and the model, by that of its files."""
    return {"model": model_digest(step.values), "sources": [asdict(source) for source in sources]}


def analysis_inputs(step: Step, keys: Mapping[str, str]) -> dict[str, Any]:
    """The sets an analysis works on, by the keys of the steps that make them."""
    names = {"set": set_step(step, "set", keys), "other-set": set_step(step, "other-set", keys)}
    return {role: keys[name] for role, name in names.items() if name is not None}


def set_step(step: Step, role: str, keys: Mapping[str, str]) -> str | None:
    """Name of the extraction whose set a step takes as its `set` or `other-set`; None where it takes none."""
    name = step.values.get(role)
    if name is None:
        return next(iter(keys)) if role == "set" else None
    return name if name in keys else f"extract.{name}"


def model_digest(values: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a model as it can be known without loading it.

    Of a named one by the catalogue's hashes, of a local one by its files; an address stands for itself.
    """
    from embedsvc import catalog

    uri = values["model"]
    if uri in catalog.MODELS:
        return _sha(repr(asdict(catalog.MODELS[uri])))
    parts = [uri]
    for location in (uri, uri.partition(":")[2], values["preprocess"] or ""):
        path = Path(location)
        if location and path.exists():
            files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
            parts += [f"{file.relative_to(path)} {file_digest(file)}" for file in files]
    return _sha("\n".join(parts))


def file_digest(path: Place) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open_raw(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
