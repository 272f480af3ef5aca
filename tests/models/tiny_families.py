"""Tiny random models of BERT's families: the tensors of `tiny_bert` under the names that transformers gives them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.models import tiny_bert
from tests.models.tiny_bert import VOCABULARY, Tensors

__all__ = ["TINY", "Tiny"]

_POSITIONS = 32


@dataclass(frozen=True)
class Tiny:
    """A family's tiny classifier of three classes.

    `names` are pieces of BERT's names and what stands there instead, "" for tensors that the family lacks; they are
    replaced in this order.
    """

    config: Mapping[str, Any]
    names: Mapping[str, str]

    def tensors(self, seed: int = 0, n_words: int = len(VOCABULARY)) -> Tensors:
        """As a classifier's folder has them."""
        config = tiny_bert.CONFIG | {"max_position_embeddings": _POSITIONS, "vocab_size": n_words}
        drawn = tiny_bert.make_tensors(config, seed, n_classes=3)
        return {name: value for old, value in drawn.items() if (name := self._renamed(old))}

    def write(
        self,
        folder: Path,
        changes: Mapping[str, Any] | None = None,
        seed: int = 0,
        vocabulary: Sequence[str] = VOCABULARY,
    ) -> Path:
        """The folder; `changes` are made to its config.json only."""
        config = {**self.config, "vocab_size": len(vocabulary), **(changes or {})}
        return tiny_bert.write_folder(folder, self.tensors(seed, len(vocabulary)), config, vocabulary)

    def _renamed(self, name: str) -> str:
        for old, new in self.names.items():
            if old in name:
                if not new:
                    return ""
                name = name.replace(old, new)
        return name


TINY = {
    "distilbert": Tiny(
        config={
            "architectures": ["DistilBertForSequenceClassification"],
            "model_type": "distilbert",
            "dim": 24,
            "n_layers": 2,
            "n_heads": 3,
            "hidden_dim": 40,
            "max_position_embeddings": _POSITIONS,
            "activation": "gelu",
            # Three different rates, so that none can stand for another.
            "dropout": 0.2,
            "attention_dropout": 0.3,
            "seq_classif_dropout": 0.4,
            "id2label": {"0": "bad", "1": "fair", "2": "good"},
            "label2id": {"bad": 0, "fair": 1, "good": 2},
        },
        names={
            "token_type_embeddings": "",
            "bert.pooler.dense": "pre_classifier",
            "bert.encoder": "distilbert.transformer",
            "bert.embeddings": "distilbert.embeddings",
            "attention.self.query": "attention.q_lin",
            "attention.self.key": "attention.k_lin",
            "attention.self.value": "attention.v_lin",
            "attention.output.dense": "attention.out_lin",
            "attention.output.LayerNorm": "sa_layer_norm",
            "intermediate.dense": "ffn.lin1",
            "output.dense": "ffn.lin2",
            "output.LayerNorm": "output_layer_norm",
        },
    ),
}
