"""SavedModel folders: opening, naming and hashing them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from embedsvc.errors import ModelFormatError

__all__ = ["compiled_loss", "describe_signatures", "digest_folder", "loading_error", "open_saved_model"]


def open_saved_model(folder: Path, *, shown: Path | None = None) -> Any:
    """``tf.saved_model.load``, with errors that say what is wrong with which folder."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the ops of preprocess models

    try:
        return tf.saved_model.load(str(folder))
    except Exception as error:  # torn variables raise a dozen different types
        raise loading_error(error, folder, shown or folder) from error


def loading_error(error: Exception, folder: Path, shown: Path) -> ModelFormatError:
    """What to tell of an exception raised by loading `folder`, which the user knows as `shown`."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    reason = (lines[0] if lines else type(error).__name__).replace(str(folder), str(shown))[:300]
    return ModelFormatError(
        f"{shown}: the SavedModel cannot be loaded ({reason})",
        "A file may be torn or missing, or it needs ops or layers of a package that is not installed.",
    )


def compiled_loss(folder: Path) -> object:
    """What Keras wrote about the loss of the model in a folder that was scanned before; None if it wrote nothing."""
    from tf_keras.protobuf import saved_metadata_pb2

    path = folder / "keras_metadata.pb"
    if not path.is_file():
        return None
    metadata = saved_metadata_pb2.SavedMetadata()
    metadata.ParseFromString(path.read_bytes())
    roots = [node.metadata for node in metadata.nodes if node.node_path == "root"]
    training = json.loads(roots[0]).get("training_config") if roots else None
    return training.get("loss") if isinstance(training, dict) else None


def digest_folder(*folders: Path) -> str:
    """SHA-256 (hex) over names and bytes of all files of these folders, in a fixed order."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "fingerprint.pb"):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def describe_signatures(model: Any) -> str:
    """What a loaded SavedModel takes and gives, in one sentence for an error."""
    signatures = getattr(model, "signatures", {})
    shown = [
        f"{name} ({', '.join(signatures[name].structured_input_signature[1])}) -> "
        f"{', '.join(signatures[name].structured_outputs)}"
        for name in signatures
    ]
    return f"Its signatures: {'; '.join(shown) or 'none'}."
