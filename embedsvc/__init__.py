"""Embeddings of a text classifier before and after dropout, in inference and training modes.

>>> from embedsvc import Text, forward, load_model
>>> encoder = load_model("fake:")
>>> forward(encoder, [Text("a", "good morning")], taps=["pre_dropout"]).vectors["pre_dropout"].shape
(1, 16)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedsvc.clustering import cluster
    from embedsvc.comparison import compare
    from embedsvc.embeddings import EmbeddingSet
    from embedsvc.errors import EmbedsvcError
    from embedsvc.exporting import export
    from embedsvc.extraction import Settings, Summary, extract, extract_files
    from embedsvc.head import Head
    from embedsvc.inspection import inspect
    from embedsvc.manifest import Manifest
    from embedsvc.models.base import Encoder, LoadOptions, forward
    from embedsvc.models.load import load_model
    from embedsvc.probing import probe
    from embedsvc.projection import project
    from embedsvc.reporting.run import report
    from embedsvc.retrieval import neighbors
    from embedsvc.texts import ReadOptions
    from embedsvc.training.run import train
    from embedsvc.types import Block, Forward, Mode, ModelSpec, Pass, Text, Variant
    from embedsvc.uncertainty import stability

# Public name to its module: imported when asked for, so that `import embedsvc` is instant.
_PUBLIC = {
    "Block": "types",
    "EmbeddingSet": "embeddings",
    "EmbedsvcError": "errors",
    "Encoder": "models.base",
    "Forward": "types",
    "Head": "head",
    "LoadOptions": "models.base",
    "Manifest": "manifest",
    "Mode": "types",
    "ModelSpec": "types",
    "Pass": "types",
    "ReadOptions": "texts",
    "Settings": "extraction",
    "Summary": "extraction",
    "Text": "types",
    "Variant": "types",
    "cluster": "clustering",
    "compare": "comparison",
    "export": "exporting",
    "extract": "extraction",
    "extract_files": "extraction",
    "forward": "models.base",
    "inspect": "inspection",
    "load_model": "models.load",
    "neighbors": "retrieval",
    "probe": "probing",
    "project": "projection",
    "report": "reporting.run",
    "stability": "uncertainty",
    "train": "training.run",
}

__all__ = [
    "Block",
    "EmbeddingSet",
    "EmbedsvcError",
    "Encoder",
    "Forward",
    "Head",
    "LoadOptions",
    "Manifest",
    "Mode",
    "ModelSpec",
    "Pass",
    "ReadOptions",
    "Settings",
    "Summary",
    "Text",
    "Variant",
    "cluster",
    "compare",
    "export",
    "extract",
    "extract_files",
    "forward",
    "inspect",
    "load_model",
    "neighbors",
    "probe",
    "project",
    "report",
    "stability",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'embedsvc' has no attribute {name!r}")
    return getattr(import_module(f"embedsvc.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
