"""SavedModels: a graph is a program, so every node of it is looked at before TensorFlow sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from embedsvc.errors import ModelFormatError, UnsafeModelError
from embedsvc.models.safety.graphs import Body, Graph, asset_files
from embedsvc.models.safety.keras_config import TRUST_HINT, check_config_text
from embedsvc.models.safety.operations import SAVER_OPS, TABLE_FILE_OPS, refusal

__all__ = ["scan_saved_model"]

# What a protobuf may have, and what TensorFlow can read.
_MAX_BYTES = (1 << 31) - 1


def scan_saved_model(folder: Path, *, trust: bool = False) -> None:
    """Check a SavedModel before it is loaded. Nothing of it is run.

    Refused are ops that run Python, touch files, build data pipelines, write logs, talk to other processes or hold
    opaque programs, in the graph and in every function; ops that neither TensorFlow nor tensorflow_text knows;
    Keras metadata that would build Lambda layers or foreign classes; and files that lie elsewhere.

    Parameters
    ----------
    folder : Path
    trust : bool
        Skip what asks whether the model runs code or touches files; torn files and climbing paths are errors still.

    Raises
    ------
    ModelFormatError
        If it is torn or foreign, or an asset's path climbs out of the folder.
    UnsafeModelError
        Naming op, node and function.
    """
    model = _parse(folder)
    for meta_graph in model.meta_graphs:
        for asset in asset_files(meta_graph):
            _check_asset(folder, asset.filename)
    if trust:
        return
    _check_links(folder)
    for meta_graph in model.meta_graphs:
        graph = Graph(meta_graph)
        for body in graph.bodies:
            for node in body.nodes:
                if reason := _node_refusal(graph, body, node):
                    raise UnsafeModelError(
                        f"{folder}: the op {node.op} {reason} (node {node.name!r} in {body})", TRUST_HINT
                    )
    for text, where in _keras_metadata(folder, model):
        check_config_text(text, where, skip_compile=False, revived=True)


def _node_refusal(graph: Graph, body: Body, node: Any) -> str | None:
    if reason := refusal(node):
        return reason
    if node.op in SAVER_OPS and (body.name, node.name) not in graph.saver_nodes:
        return "reads or writes files outside the model's own saver"
    if node.op in TABLE_FILE_OPS and not graph.reads_asset(body, node.input[1]):
        return "reads a file that is not an asset of the model"
    # A node may be a call of a function of the model: that one's own nodes are looked at.
    if node.op not in graph.functions and not _is_known(node.op):
        return "is not known to TensorFlow or tensorflow_text: it needs a library of its own"
    return None


def _is_known(op: str) -> bool:
    from tensorflow.python.framework import op_def_registry

    if op_def_registry.get(op) is not None:
        return True
    # Registers its ops on import; only worth the wait for a model that has such ops.
    import tensorflow_text  # noqa: F401

    return op_def_registry.get(op) is not None


def _parse(folder: Path) -> Any:
    """The SavedModel protobuf."""
    path = folder / "saved_model.pb"
    if not path.is_file():
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else ["no such folder"]
        raise ModelFormatError(
            f"{folder} holds no saved_model.pb: found {', '.join(names[:12]) or 'nothing'}",
            "Export it as a SavedModel; the text form (saved_model.pbtxt) is not read.",
        )
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ModelFormatError(f"{path} has {size:,} bytes, expected at most {_MAX_BYTES:,}")
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelFormatError(
            f"{path} is torn or no SavedModel: its {size:,} bytes cannot be read", "Copy or download it again."
        ) from error
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error.strerror}") from error
    if not any(meta_graph.graph_def.node for meta_graph in model.meta_graphs):
        raise ModelFormatError(f"{path} is torn: it holds no graph ({size:,} bytes)", "Copy or download it again.")
    return model


def _check_asset(folder: Path, name: str) -> None:
    path = PurePosixPath(name)
    # "://": TensorFlow would ask another file system for it.
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise ModelFormatError(f"{folder}: the asset {name!r} points out of the model's folder")
    if not (folder / "assets" / path).is_file():
        raise ModelFormatError(f"{folder} is torn: its asset {name!r} is missing", "Copy or download it again.")


def _check_links(folder: Path) -> None:
    root = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise UnsafeModelError(f"{folder}: {path.relative_to(folder)} is a link to {path.resolve()}", TRUST_HINT)


def _keras_metadata(folder: Path, model: Any) -> Iterator[tuple[str, str]]:
    """JSON that Keras would rebuild layers from, with the place it is in: of its own file, or of the graph (older)."""
    path = folder / "keras_metadata.pb"
    if path.is_file():
        from google.protobuf.message import DecodeError
        from tf_keras.protobuf import saved_metadata_pb2

        metadata = saved_metadata_pb2.SavedMetadata()
        try:
            metadata.ParseFromString(path.read_bytes())
        except DecodeError as error:
            raise ModelFormatError(
                f"{path} is torn: its {path.stat().st_size:,} bytes cannot be read", "Copy or download it again."
            ) from error
        for node in metadata.nodes:
            if node.metadata:
                yield node.metadata, f"{path}, {node.node_path or node.identifier}"
    for meta_graph in model.meta_graphs:
        for index, node in enumerate(meta_graph.object_graph_def.nodes):
            if node.user_object.identifier.startswith("_tf_keras") and node.user_object.metadata:
                yield node.user_object.metadata, f"{folder / 'saved_model.pb'}, object {index}"
