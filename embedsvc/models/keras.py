"""Classifiers in .keras and .h5 files, written by Keras 3 or by Keras 2 (tf.keras, tf_keras)."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

from embedsvc.errors import MissingExtraError, ModelError, ModelFormatError
from embedsvc.models.base import LoadOptions
from embedsvc.models.readers import PackedIds, Strings
from embedsvc.models.tapped import Reader, TappedEncoder, first_line

__all__ = ["load"]


def load(location: str, options: LoadOptions) -> TappedEncoder:
    """The classifier in that file.

    Parameters
    ----------
    location : str
        A .keras, .h5 or .hdf5 file. A BERT-like model (token ids in) needs its vocabulary, vocab.txt or
        tokenizer.json, in the same folder.
    options : LoadOptions

    Raises
    ------
    ModelFormatError
        If the file is torn, foreign, of a newer version, or holds weights only.
    ModelError
        If it has no head to tap, or its inputs are of no known kind.
    UnsafeModelError
        If it could run code and is not trusted.
    """
    path = Path(location)
    if not path.is_file():
        raise ModelFormatError(f"keras:{location} is no file", "Give a .keras or .h5 file.")
    version, config, loss = _read_head(path, trust=options.trust)
    model = _load(path, version, config, trust=options.trust)
    try:
        reader = _reader(model, path)
        return TappedEncoder(
            model,
            reader,
            uri=f"keras:{location}",
            content=hashlib.sha256(path.read_bytes()).hexdigest(),
            options=options,
            loss=loss,
        )
    except ModelError as error:
        raise type(error)(f"{path}: {error.problem}", error.hint) from error


def _read_head(path: Path, *, trust: bool) -> tuple[str, str, object]:
    """Version of Keras that wrote the file, the model's configuration as JSON, and its loss; checks the file before."""
    from embedsvc.models import safety
    from embedsvc.models.safety.json_files import parse_json, parse_object

    if path.suffix == ".keras":
        safety.check_keras_archive(path, trust=trust)
        try:
            with zipfile.ZipFile(path) as archive:
                metadata = parse_object(archive.read("metadata.json"), f"{path}, metadata.json")
                config = archive.read("config.json").decode()
                compiled = parse_object(config, f"{path}, config.json").get("compile_config")
                return str(metadata["keras_version"]), config, _loss(compiled)
        except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
            raise ModelFormatError(
                f"{path} is no .keras archive: {error}", "A .keras file is a zip made by Keras."
            ) from error
    import h5py

    safety.check_keras_h5(path, trust=trust)
    try:
        with h5py.File(path, "r") as file:
            found = dict(file.attrs)
    except OSError as error:
        raise ModelFormatError(f"{path} is no HDF5 file: {error}", "It may be torn; copy it again.") from error
    if "model_config" not in found:
        raise ModelFormatError(
            f"{path} holds no model, only {', '.join(sorted(found)) or 'weights'}",
            "Save the whole model with model.save(), not save_weights().",
        )
    # Keras 1 wrote no version here, and what it wrote Keras 2 reads.
    training = None
    if "training_config" in found:
        training = parse_json(_text(found["training_config"]), f"{path}, training_config")
    return _text(found.get("keras_version", "2")), _text(found["model_config"]), _loss(training)


def _loss(compiled: object) -> object:
    return compiled.get("loss") if isinstance(compiled, dict) else None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _load(path: Path, version: str, config: str, *, trust: bool) -> Any:
    if int(version.partition(".")[0]) >= 3:
        import keras

        if keras.backend.backend() != "tensorflow":
            raise ModelError(
                f"Keras runs on {keras.backend.backend()} here, embedsvc needs TensorFlow",
                "Set KERAS_BACKEND=tensorflow",
            )
    else:
        import tf_keras as keras
    if int(version.partition(".")[0]) > int(keras.__version__.partition(".")[0]):
        raise ModelFormatError(
            f"{path} was written by Keras {version}, newer than {keras.__version__} here", "Update keras."
        )
    if "keras_hub" in config:
        _register_keras_hub()
    try:
        return keras.models.load_model(path, compile=False, safe_mode=not trust)
    except Exception as error:  # Keras raises every kind of exception for a file that it cannot read
        raise ModelFormatError(
            f"{path}, written by Keras {version}, cannot be loaded by {keras.__version__}: {first_line(error)}",
            "Layers of other packages (tensorflow_hub's KerasLayer, your own classes) do not travel in such a file: "
            "export a SavedModel and load it by savedmodel:, or use hub:.",
        ) from error


def _register_keras_hub() -> None:
    try:
        import keras_hub  # noqa: F401 - its import registers its layers with Keras
    except ImportError as error:
        raise MissingExtraError.of("keras-hub", "kerashub") from error


def _reader(model: Any, path: Path) -> Reader:
    inputs = getattr(model, "inputs", None) or []
    if not inputs:
        raise ModelFormatError("the model declares no inputs", "Call it once on data before saving it.")
    names = [tensor.name.partition(":")[0] for tensor in inputs]
    kinds = [_dtype(tensor) for tensor in inputs]
    if kinds == ["string"]:
        return Strings(model)
    if len(names) > 1 and PackedIds.knows(names) and not any(kind == "string" for kind in kinds):
        from embedsvc.models.wordpiece import load_tokenizer

        return PackedIds.of_wordpiece(model, names, load_tokenizer(path.parent))
    described = ", ".join(
        f"{name} {kind}{tuple(tensor.shape)}" for name, kind, tensor in zip(names, kinds, inputs, strict=True)
    )
    if all(kind.startswith("int") for kind in kinds) or any(
        "Embedding" in type(layer).__name__ for layer in model.layers
    ):
        raise ModelError(
            f"the model takes numbers, not texts ({described}), and nothing says how words become them",
            "Put its TextVectorization layer in front (keras.Sequential([vectorizer, model])) and save that; or, for a "
            "BERT, name its inputs token_ids, padding_mask and segment_ids and put vocab.txt beside the file.",
        )
    raise ModelError(f"the model takes no texts: its inputs are {described}")


def _dtype(tensor: Any) -> str:
    return str(getattr(tensor.dtype, "name", tensor.dtype))
