"""Keras configurations: JSON that names the classes and functions to build a model from.

Keras looks those names up and calls what it finds, so a configuration is a program. Public cases: Lambda layers
carrying bytecode, ``module: "os"``, ``keras.utils.get_file`` as an activation, TFSMLayer and TorchModuleWrapper
opening further files. Hence an allow-list: only classes of Keras' own model-building namespaces, only functions
that compute; minus the classes that open or run something else.

A configuration is checked for what `load_model(..., compile=False)` builds from it: the optimizer, loss and metrics
of its outermost model are skipped, since people's own ones would otherwise make honest models unloadable.
"""

from __future__ import annotations

import builtins
from typing import Any

from embedsvc.errors import UnsafeModelError
from embedsvc.models.safety.json_files import parse_json

__all__ = ["TRUST_HINT", "check_config", "check_config_text"]

TRUST_HINT = "If you know who made it and trust them: --trust-model (trust=True)."

_PACKAGES = {"keras", "tf_keras", "keras_hub", "keras_nlp"}
# Parts of a module path that say nothing: keras.api.layers, tf_keras.src.layers, keras._tf_keras.keras.layers.
_FILLERS = {"api", "src", "v2", "_tf_keras", "keras"}
_CLASS_NAMESPACES = {
    "activations", "backend", "constraints", "dtype_policies", "engine", "initializers", "layers", "losses", "metrics",
    "mixed_precision", "models", "ops", "optimizers", "quantizers", "random", "regularizers", "samplers", "tokenizers",
}  # fmt: skip
_FUNCTION_NAMESPACES = {"activations", "constraints", "initializers", "losses", "metrics", "ops", "regularizers"}
_REFUSED_CLASSES = {
    "Lambda": "carries Python bytecode",
    "__lambda__": "carries Python bytecode",
    "TFSMLayer": "loads another SavedModel",
    "KerasLayer": "loads another SavedModel",
    "TorchModuleWrapper": "opens a pickle",
    "JaxLayer": "runs a function of its own",
    "FlaxLayer": "runs a function of its own",
    "TensorFlowOpLayer": "runs a TensorFlow op of its own",
}
# What Keras writes for plain values, before any look-up.
_VALUES = {"__tuple__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__keras_tensor__"}
# Layers and tokenizers open a vocabulary given as a path; a list of words or null is data.
_PATH_KEYS = {"vocabulary", "merges", "proto"}
# What a TensorFlow function call recorded as a layer may be: namespaces that compute …
_TF_NAMESPACES = {"math", "nn", "linalg", "strings", "sparse", "ragged", "signal", "bitwise", "dtypes", "keras"}
_TF_NAMESPACES |= {"random", "__operators__", "image", "sets", "quantization"}
# … and bare names (tf.expand_dims) but these.
_TF_REFUSED = {"py_function", "py_func", "numpy_function", "read_file", "write_file", "matching_files", "print"}
_TF_REFUSED |= {"load_library", "load_op_library", "load_file_system_library", "import_graph_def"}
_TF_CALL_LAYERS = {"TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty"}


def check_config_text(text: str | bytes, where: str, *, skip_compile: bool = True, revived: bool = False) -> None:
    """As `check_config`, for JSON text.

    Raises
    ------
    ModelFormatError
        If it is no JSON.
    UnsafeModelError
        See `check_config`.
    """
    config = parse_json(text, where)
    if skip_compile and isinstance(config, dict):
        config.pop("compile_config", None)
    check_config(config, where, revived=revived)


def check_config(config: object, where: str, *, revived: bool = False) -> None:
    """Refuse a Keras configuration that builds anything but plain Keras objects.

    Parameters
    ----------
    config : object
        Parsed JSON.
    where : str
        Names file and place in messages.
    revived : bool
        The configuration lies in a SavedModel: Keras makes unknown layers from the graph's own functions there, so
        that ``KerasLayer`` opens nothing.

    Raises
    ------
    UnsafeModelError
        Naming class or function and the layer it belongs to.
    """
    # A stack of our own: depth is the file's choice, Python's is limited. Each entry knows the layer it is in.
    todo: list[tuple[Any, str]] = [(config, "")]
    while todo:
        value, layer = todo.pop()
        if isinstance(value, list):
            todo += [(item, layer) for item in value]
        elif isinstance(value, dict):
            inner = value.get("config")
            name = value.get("name") or (inner.get("name") if isinstance(inner, dict) else None)
            if "class_name" in value and isinstance(name, str):
                layer = name
            if reason := _refusal(value, revived=revived):
                place = f" (layer {layer!r})" if layer else ""
                raise UnsafeModelError(f"{where}: {reason}{place}", TRUST_HINT)
            todo += [(item, layer) for item in value.values()]


def _refusal(value: dict[str, Any], *, revived: bool) -> str | None:
    for key, item in value.items():
        if key.startswith("py/"):
            return f"it holds a pickled Python object ({key})"
        if key in _PATH_KEYS and isinstance(item, str):
            return f"{key} is to be read from the file {item!r}"
    if value.get("function_type") == "lambda":
        return "it holds a Python lambda as bytecode"
    if "class_name" in value:
        return _class_refusal(value, revived=revived)
    return None


def _class_refusal(value: dict[str, Any], *, revived: bool) -> str | None:
    """Why the object of this class may not be built, or None."""
    class_name, module, inner = value["class_name"], value.get("module"), value.get("config")
    if not isinstance(class_name, str) or not isinstance(module, str | None):
        return f"the class {class_name!r} of module {module!r} is no name"
    registered = value.get("registered_name")
    for name in (class_name, registered):
        short = name.split(">")[-1].split(".")[-1] if isinstance(name, str) else ""
        if short in _REFUSED_CLASSES and not (revived and short == "KerasLayer"):
            return f"the layer class {short} {_REFUSED_CLASSES[short]}"
        if short in _TF_CALL_LAYERS:
            return _tf_call_refusal(inner)
    if class_name in _VALUES:
        return None
    if class_name == "__typespec__":
        spec = str(value.get("spec_name", ""))
        known = module is None or module.split(".")[0] in {"tensorflow", *_PACKAGES}
        return None if known and spec.endswith("Spec") else f"the type {spec!r} comes from {module!r}"
    if module is None:
        # The older format: Keras looks the name up among its own layers and registered classes, and nowhere else.
        return None
    if class_name == "function":
        return _function_refusal(str(inner), module)
    # Keras joins the two, so that either may hold the namespace.
    package, *path = [*module.split("."), *class_name.split(".")]
    path = [part for part in path if part not in _FILLERS]
    # "keras" alone holds Model, Sequential, Variable. Classes begin with a capital; load_model does not.
    if package in _PACKAGES and path and path[-1][:1].isupper() and (len(path) == 1 or path[0] in _CLASS_NAMESPACES):
        return None
    return f"the class {class_name!r} comes from {module!r}, which is not part of Keras' layers"


def _function_refusal(name: str, module: str) -> str | None:
    if module == "builtins":
        # Keras writes its own functions as "builtins" and finds them by name; Python's eval must not be among them.
        return f"the function {name!r} is Python's own" if hasattr(builtins, name) or "." in name else None
    package, *path = [*module.split("."), *name.split(".")]
    path = [part for part in path if part not in _FILLERS]
    if package in _PACKAGES and path and path[0] in _FUNCTION_NAMESPACES:
        return None
    return f"the function {name!r} comes from {module!r}, which is not part of Keras' functions"


def _tf_call_refusal(config: object) -> str | None:
    """Why a recorded TensorFlow call may not run: its symbol is looked up by name, whatever it does."""
    if not isinstance(config, dict):
        return "it holds a TensorFlow call without a name"
    attribute, tensor_class = config.get("attr_name"), config.get("cls_symbol")
    if attribute is not None and str(attribute).startswith("_"):
        return f"it reads the attribute {attribute!r} of a tensor"
    if tensor_class is not None:
        known = tensor_class in {"RaggedTensor", "SparseTensor"} and not str(config.get("method_name")).startswith("_")
        return None if known else f"it calls a method of the TensorFlow class {tensor_class!r}"
    symbol = config.get("function")
    if symbol is None:
        return None
    parts = str(symbol).split(".")
    if parts[0] == "compat":
        parts = parts[2:] or [""]
    namespace, name = parts[0], parts[-1]
    if name in _TF_REFUSED or not name[:1].islower() and not name.startswith("__"):
        known = False
    elif namespace == "keras":
        # keras.backend computes, keras.utils fetches files.
        known = len(parts) > 2 and parts[1] in {"backend", *_FUNCTION_NAMESPACES}
    else:
        known = len(parts) == 1 or namespace in _TF_NAMESPACES
    return None if known else f"it calls the TensorFlow function {symbol!r}"
