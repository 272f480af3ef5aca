"""From a uri to a loaded model: the loaders, and what a plain path is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from embedsvc.errors import ModelFormatError, SettingsError, did_you_mean
from embedsvc.models.base import Encoder, LoadOptions
from embedsvc.models.engines import AUTO, Precision
from embedsvc.models.quiet import import_tensorflow
from embedsvc.registry import Registry

__all__ = ["LOADERS", "SCHEMES", "load_model"]

Loader = Callable[[str, LoadOptions], Encoder]

LOADERS: Registry[Loader] = Registry(
    "loader",
    {
        "fake": "embedsvc.models.fake:load",
        "hf": "embedsvc.models.huggingface:load",
        "hub": "embedsvc.models.hub:load",
        "keras": "embedsvc.models.keras:load",
        "kerashub": "embedsvc.models.kerashub:load",
        "recurrent": "embedsvc.models.recurrent.encoder:load",
        "savedmodel": "embedsvc.models.savedmodel:load",
    },
)

_WITHOUT_TENSORFLOW = ("fake", "hf")  # a BERT's engine may be another one

SCHEMES = {
    "hf": "a Hugging Face folder of BERT or DistilBERT: config.json, model.safetensors, vocab.txt or tokenizer.json",
    "hub": "a TF Hub text encoder, a handle or folder, with --preprocess HANDLE",
    "savedmodel": "a whole classifier saved by tf.keras as a SavedModel folder",
    "keras": "a .keras or .h5 file of Keras 3 or Keras 2",
    "kerashub": "a keras-hub preset: a folder or a handle (extra: kerashub)",
    "recurrent": "a recurrent classifier's folder; FOLDER#gal=0.25 takes another dropout policy",
    "fake": "a small numpy encoder for trials: fake:WIDTH",
}


def load_model(uri: str, options: LoadOptions | None = None, **changes: object) -> Encoder:
    """Load a classifier and find its dropout head.

    Parameters
    ----------
    uri : str
        A name from the catalogue (``minilm-l6``), ``scheme:location`` with a scheme out of `LOADERS`, or a path,
        whose content then decides the loader.
    options : LoadOptions, optional
    **changes
        Fields of `LoadOptions`, for short calls: ``load_model("hf:/models/x", rate=0.2)``.

    Raises
    ------
    ModelFormatError
        If nothing loadable is there; the message says what was found.
    UnsafeModelError
        If the model could run code or touch files and ``trust`` is not set.
    FetchError
        If a named model cannot be downloaded or verified.
    SettingsError
        If an engine or precision is asked for that this model cannot run on.
    MissingExtraError
        If that engine is not installed.
    """
    options = replace(options or LoadOptions(), **changes)  # type: ignore[arg-type]
    encoder = _load(uri, options)
    runs_on, precision = getattr(encoder, "engine", "tensorflow"), getattr(encoder, "precision", Precision.FLOAT32)
    if options.engine not in (AUTO, runs_on) or options.precision != precision:
        asked = f"precision {options.precision}" if options.engine in (AUTO, runs_on) else f"engine {options.engine}"
        raise SettingsError(
            f"{asked} was asked for, but {uri} runs on {runs_on} in {precision} only",
            "Engines and precisions are for BERT encoders: hf:, named ones, and hub: where the encoder is a standard "
            "BERT. Leave out --engine and --precision.",
        )
    return encoder


def _load(uri: str, options: LoadOptions) -> Encoder:
    from embedsvc import catalog, fetching

    if uri in catalog.MODELS:
        named = catalog.MODELS[uri]
        path = fetching.fetch(named)
        rate = named.rate if options.rate is None else options.rate
        return _loader(named.loader)(str(path), replace(options, name=uri, rate=rate, head_file=named.head_file))
    scheme, colon, location = uri.partition(":")
    # A single letter is a Windows drive, and a folder may have a colon in its name.
    if colon and len(scheme) > 1 and not set(scheme) & set("/\\") and not Path(uri).exists():
        if not location and SCHEMES.get(scheme, "fake:") != SCHEMES["fake"]:
            raise ModelFormatError(f"{uri} names no model", f"{uri} is followed by {SCHEMES[scheme]}.")
        return _loader(scheme)(location, options)
    return _loader(recognise(Path(uri)))(uri, options)


def _loader(scheme: str) -> Loader:
    if scheme in LOADERS and scheme not in _WITHOUT_TENSORFLOW:
        import_tensorflow()
    return LOADERS[scheme]


def recognise(path: Path) -> str:
    """The loader for what lies at a path.

    Raises
    ------
    ModelFormatError
        If nothing there is known; the message lists what was found and, for a bare word, the known names.
    """
    from embedsvc import catalog

    if not path.exists():
        from embedsvc.models.safety.hugging_face import DOWNLOAD

        guess = did_you_mean(str(path), catalog.MODELS)
        raise ModelFormatError(
            f"no model named {str(path)!r}, and no such file or folder",
            f"{guess}Named models: {', '.join(catalog.MODELS)}. Or give a path, or scheme:location with a scheme out "
            f"of: {', '.join(LOADERS)}. {DOWNLOAD}",
        )
    if path.is_file():
        if path.suffix in {".keras", ".h5", ".hdf5"}:
            return "keras"
        raise ModelFormatError(f"{path} is no model file", "Known: .keras, .h5, or a model folder.")
    found = {entry.name for entry in path.iterdir()}
    if found & {"saved_model.pb", "saved_model.pbtxt"}:
        return "savedmodel"
    # keras-hub presets have a config.json as well; task.json and metadata.json are theirs alone.
    if "metadata.json" in found and found & {"task.json", "model.weights.h5"}:
        return "kerashub"
    if {"config.json", "vocab.txt"} <= found and _is_recurrent(path):
        return "recurrent"
    if "config.json" in found:
        return "hf"
    listing = ", ".join(sorted(found)[:12]) or "nothing"
    raise ModelFormatError(
        f"{path} holds no model that is known here: found {listing}",
        "Known folders: a SavedModel (saved_model.pb), a Hugging Face folder (config.json, model.safetensors, "
        "vocab.txt or tokenizer.json), a keras-hub preset (metadata.json, config.json, model.weights.h5), a recurrent "
        "classifier (of embedsvc train).",
    )


def _is_recurrent(folder: Path) -> bool:
    from embedsvc.models.recurrent.folder import MODEL_TYPE
    from embedsvc.models.safety.json_files import read_json

    try:
        return read_json(folder / "config.json").get("model_type") == MODEL_TYPE
    except ModelFormatError:  # the loader that it falls to says what is wrong with it
        return False
