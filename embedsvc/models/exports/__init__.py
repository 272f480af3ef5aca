"""A trained classifier of BERT's families, written so that others can run it.

======================  ================================================================
``.``                   a Hugging Face folder (a classifier of the family, safetensors)
``model.keras``         Keras 3, plain layers only; token ids in, logits out
``saved_model/``        TensorFlow; strings in, logits and probabilities out
======================  ================================================================
"""

from __future__ import annotations

from pathlib import Path

from embedsvc.head import Head
from embedsvc.models.bert import Weights
from embedsvc.models.huggingface import Folder

__all__ = ["export"]


def export(folder: Path, source: Folder, weights: Weights, head: Head, *, multi_label: bool) -> dict[str, str]:
    """Write all three.

    Parameters
    ----------
    folder : Path
    source : Folder
        What the training began with: its configuration and vocabulary go along.
    weights : Weights
        Of the encoder, as it is now.
    head : Head
        With a dense layer and class names.
    multi_label : bool
        Probabilities are a sigmoid of each logit, instead of a softmax.

    Returns
    -------
    mapping of str to str
        Format to path below `folder`.
    """
    from embedsvc.models.exports import hugging_face, keras_file, saved_model

    folder.mkdir(parents=True, exist_ok=True)
    keras_file.write(folder / "model.keras", source.config, weights, head)
    saved_model.write(folder / "saved_model", source, weights, head, multi_label=multi_label)
    hugging_face.write(folder, source, weights, head, multi_label=multi_label)
    return {"hugging_face": ".", "saved_model": "saved_model", "keras": "model.keras"}
