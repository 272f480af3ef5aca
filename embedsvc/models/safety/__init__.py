"""Models are untrusted input: what is checked before anything of a model is loaded or run.

TensorFlow, Keras and pickle all let a model file carry code. The checks here only parse: protobufs, JSON, the
headers of HDF5 and safetensors. Torn files, absurd sizes and paths that climb out are `ModelFormatError`; a model
that could run code, touch files or reach other processes is `UnsafeModelError`, unless the user trusts it.

What they do not promise: TensorFlow's own kernels are large C++ programs, and a graph of permitted ops can still
take all memory or meet a bug in one of them. For models from strangers, run in a container all the same.
"""

from embedsvc.models.safety.hugging_face import check_hugging_face_folder, check_safetensors
from embedsvc.models.safety.keras_files import check_keras_archive, check_keras_h5, check_keras_weights
from embedsvc.models.safety.saved_model import scan_saved_model

__all__ = [
    "check_hugging_face_folder",
    "check_keras_archive",
    "check_keras_h5",
    "check_keras_weights",
    "check_safetensors",
    "scan_saved_model",
]
