"""Families of encoders that are BERT but for names, sizes and a few places: what `huggingface` must know of each.

A family is data: what its config.json calls the sizes and rates, what its safetensors call the weights, and where it
departs from BERT. The network is BERT's for all of them (`bert`).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from embedsvc.errors import ModelFormatError

__all__ = ["FAMILIES", "Family", "Pooler", "family_of"]


@dataclass(frozen=True, slots=True)
class Pooler:
    """A dense layer on the first token's vector, before the head's dropout: `pooled_output` comes out of it.

    Attributes
    ----------
    name : str
        Of its tensors, with the prefix that they have in a classifier's folder.
    activation : {"tanh", "relu"}
    has_dropout : bool
        Whether a dropout of the head's rate is before it, too.
    """

    name: str
    activation: Literal["tanh", "relu"] = "tanh"
    has_dropout: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """What tells a family's folders from another's.

    Attributes
    ----------
    name : str
        As people write it.
    classifier_class : str
        What transformers calls a classifier of the family.
    prefix : str
        Of the encoder's tensors in a classifier's folder; a bare encoder's have none.
    settings : mapping of str to str
        Fields of `BertConfig` to keys of config.json; what is not there has BERT's value.
    head_rate : str
        Key of the rate of the head's dropout.
    weights : mapping of str to str
        Our names (those of `BertRunner`, but query, key and value apart) to the family's, ``{i}`` for a layer's number.
    poolers : tuple of Pooler
        That a folder may have; of several the first is taken, and a new one is like the first.
    classifier : str
        Name of the dense layer behind the head's dropout.
    default_head_rate : float or None
        Where config.json has none; None takes the hidden rate, as transformers does.
    drops_attended : bool
        See `BertConfig`.
    """

    name: str
    classifier_class: str
    prefix: str
    settings: Mapping[str, str]
    head_rate: str
    weights: Mapping[str, str]
    poolers: tuple[Pooler, ...]
    classifier: str = "classifier"
    default_head_rate: float | None = None
    drops_attended: bool = True

    def prefix_in(self, tensors: Container[str]) -> str:
        """The prefix of the encoder's tensors in a folder that has these."""
        return self.prefix if f"{self.prefix}{self.weights['word']}.weight" in tensors else ""

    def pooler_in(self, tensors: Container[str]) -> Pooler | None:
        """The pooler of a folder that has these tensors, under the name that it has there."""
        prefix = self.prefix_in(tensors)
        for pooler in self.poolers:
            name = pooler.name if prefix else pooler.name.removeprefix(self.prefix)
            if f"{name}.weight" in tensors:
                return Pooler(name, pooler.activation, pooler.has_dropout)
        return None


_BERT_SETTINGS = {
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "width": "hidden_size",
    "intermediate": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "norm_epsilon": "layer_norm_eps",
    "activation": "hidden_act",
    "hidden_rate": "hidden_dropout_prob",
    "attention_rate": "attention_probs_dropout_prob",
}
_BERT_WEIGHTS = {
    "word": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "type": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "query": "encoder.layer.{i}.attention.self.query",
    "key": "encoder.layer.{i}.attention.self.key",
    "value": "encoder.layer.{i}.attention.self.value",
    "attention_out": "encoder.layer.{i}.attention.output.dense",
    "attention_norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "ffn_in": "encoder.layer.{i}.intermediate.dense",
    "ffn_out": "encoder.layer.{i}.output.dense",
    "ffn_norm": "encoder.layer.{i}.output.LayerNorm",
}

FAMILIES: Mapping[str, Family] = {
    # Devlin et al. (2019), arXiv:1810.04805.
    "bert": Family(
        "BERT",
        "BertForSequenceClassification",
        prefix="bert.",
        settings=_BERT_SETTINGS,
        head_rate="classifier_dropout",
        weights=_BERT_WEIGHTS,
        poolers=(Pooler("bert.pooler.dense"),),
    ),
    # Sanh et al. (2019), arXiv:1910.01108. No token types, no dropout of the attention's output, and a pooler of the
    # classifier's own.
    "distilbert": Family(
        "DistilBERT",
        "DistilBertForSequenceClassification",
        prefix="distilbert.",
        settings={
            "n_layers": "n_layers",
            "n_heads": "n_heads",
            "width": "dim",
            "intermediate": "hidden_dim",
            "max_positions": "max_position_embeddings",
            "activation": "activation",
            "hidden_rate": "dropout",
            "attention_rate": "attention_dropout",
        },
        head_rate="seq_classif_dropout",
        weights={
            "word": "embeddings.word_embeddings",
            "position": "embeddings.position_embeddings",
            "embedding_norm": "embeddings.LayerNorm",
            "query": "transformer.layer.{i}.attention.q_lin",
            "key": "transformer.layer.{i}.attention.k_lin",
            "value": "transformer.layer.{i}.attention.v_lin",
            "attention_out": "transformer.layer.{i}.attention.out_lin",
            "attention_norm": "transformer.layer.{i}.sa_layer_norm",
            "ffn_in": "transformer.layer.{i}.ffn.lin1",
            "ffn_out": "transformer.layer.{i}.ffn.lin2",
            "ffn_norm": "transformer.layer.{i}.output_layer_norm",
        },
        poolers=(Pooler("pre_classifier", "relu"),),
        default_head_rate=0.2,
        drops_attended=False,
    ),
}
"""By the model_type of config.json."""


def family_of(data: Mapping[str, Any], folder: Path) -> Family:
    """The family that a config.json says.

    Raises
    ------
    ModelFormatError
        For any other.
    """
    kind = data.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ModelFormatError(
            f"{folder}: config.json says model_type {kind!r}, expected {' or '.join(map(repr, FAMILIES))}",
            f"This loader knows {', '.join(each.name for each in FAMILIES.values())}. Presets of keras-hub (kerashub:) "
            "and Keras files (keras:) may have any architecture; docs/models.md tells how.",
        )
    return family
