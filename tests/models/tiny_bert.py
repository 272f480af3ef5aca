"""A tiny random BERT as a Hugging Face folder, and BERT's forward pass in plain numpy to compare with.

The reference reads Hugging Face's own tensors, pads, runs in float64 and knows nothing of the fast runner; only the
masks it drops by are those of `masks.keep`, at the sites and in the shapes that a spec documents.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from embedsvc import masks
from embedsvc.models.wordpiece import load_tokenizer
from embedsvc.types import DropoutSite, Pass

WORDS = (
    "the",
    "a",
    "film",
    "was",
    "good",
    "bad",
    "very",
    "plot",
    "café",
    "日",
    "本",
    "!",
    "?",
    ".",
    "##s",
    "un",
    "und",
)
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
CONFIG: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": len(VOCABULARY),
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 10,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    # Three different rates, so that none can stand for another.
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.3,
    "classifier_dropout": None,
}
Tensors = dict[str, NDArray[Any]]


def make_tensors(
    config: dict[str, Any] = CONFIG, seed: int = 0, *, pooler: bool = True, n_classes: int | None = None
) -> Tensors:
    """Random tensors of a BertModel, or of a BertForSequenceClassification where there are classes."""
    rng = np.random.default_rng(seed)
    d, f = config["hidden_size"], config["intermediate_size"]

    def normal(*shape: int, scale: float) -> NDArray[np.float32]:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    def dense(name: str, n_in: int, n_out: int) -> Tensors:
        return {f"{name}.weight": normal(n_out, n_in, scale=n_in**-0.5), f"{name}.bias": normal(n_out, scale=0.3)}

    def norm(name: str) -> Tensors:
        return {f"{name}.weight": 1 + normal(d, scale=0.2), f"{name}.bias": normal(d, scale=0.2)}

    body = {
        "embeddings.word_embeddings.weight": normal(config["vocab_size"], d, scale=1.0),
        "embeddings.position_embeddings.weight": normal(config["max_position_embeddings"], d, scale=0.5),
        "embeddings.token_type_embeddings.weight": normal(config["type_vocab_size"], d, scale=0.5),
    } | norm("embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            body |= dense(f"{layer}.attention.self.{part}", d, d)
        body |= dense(f"{layer}.attention.output.dense", d, d) | norm(f"{layer}.attention.output.LayerNorm")
        body |= dense(f"{layer}.intermediate.dense", d, f)
        body |= dense(f"{layer}.output.dense", f, d) | norm(f"{layer}.output.LayerNorm")
    if pooler:
        body |= dense("pooler.dense", d, d)
    if n_classes is None:
        return body
    return {f"bert.{name}": value for name, value in body.items()} | dense("classifier", d, n_classes)


def write_folder(
    folder: Path,
    tensors: Tensors,
    config: dict[str, Any] = CONFIG,
    vocabulary: Sequence[str] = VOCABULARY,
) -> Path:
    """config.json, model.safetensors and vocab.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@dataclass(frozen=True)
class Draw:
    """What decides the masks of a training pass."""

    keys: NDArray[np.uint64]
    pass_: Pass
    sites: Sequence[DropoutSite]


def reference(
    tensors: Tensors, config: dict[str, Any], rows: Sequence[Sequence[int]], draw: Draw | None = None
) -> dict[str, NDArray[np.float64]]:
    """Every tap of the encoder for rows of ids with their special tokens, shape (n, d), float64.

    Vaswani et al. (2017), arXiv:1706.03762; Devlin et al. (2019), arXiv:1810.04805.
    """
    named = {name.removeprefix("bert."): value.astype(np.float64) for name, value in tensors.items()}
    heads, n_rows, longest = config["num_attention_heads"], len(rows), max(map(len, rows))
    ids = np.zeros((n_rows, longest), dtype=np.int64)
    real = np.zeros((n_rows, longest), dtype=bool)
    for at, row in enumerate(rows):
        ids[at, : len(row)], real[at, : len(row)] = row, True

    def dense(x: NDArray[Any], name: str) -> NDArray[Any]:
        return x @ named[f"{name}.weight"].T + named[f"{name}.bias"]

    def norm(x: NDArray[Any], name: str) -> NDArray[Any]:
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return centred / deviation * named[f"{name}.weight"] + named[f"{name}.bias"]

    def dropout(x: NDArray[Any], path: str, rate: float) -> NDArray[Any]:
        """Of x (n_rows, longest, d) or (n_rows, heads, longest, longest): a row's mask covers its real tokens."""
        if draw is None or rate == 0:
            return x
        site = [site.path for site in draw.sites].index(path)
        assert draw.sites[site].rate == rate
        seed, index = draw.pass_.draw
        x = x.copy()
        for at, row in enumerate(rows):
            n = len(row)
            part = x[at, :n] if x.ndim == 3 else x[at, :, :n, :n]
            kept = masks.keep(
                draw.keys[at : at + 1], seed=seed, passes=[index], site=site, units=part.size, rate=rate
            ).reshape(part.shape)
            part *= kept / (1 - rate)
        return x

    def token_mean(x: NDArray[Any]) -> NDArray[Any]:
        return (x * real[:, :, None]).sum(1) / real.sum(1)[:, None]

    def split(x: NDArray[Any]) -> NDArray[Any]:
        return x.reshape(n_rows, longest, heads, -1).transpose(0, 2, 1, 3)

    hidden_rate, attention_rate = config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]
    x = named["embeddings.word_embeddings.weight"][ids]
    x = (
        x
        + named["embeddings.position_embeddings.weight"][:longest]
        + named["embeddings.token_type_embeddings.weight"][0]
    )
    x = dropout(norm(x, "embeddings.LayerNorm"), "embeddings/dropout", hidden_rate)
    taps = {}
    for i in range(config["num_hidden_layers"]):
        name, site = f"encoder.layer.{i}", f"layer.{i}"
        query, key, value = (split(dense(x, f"{name}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(query.shape[-1])
        scores = np.where(real[:, None, None, :], scores, -np.inf)
        odds = np.exp(scores - scores.max(-1, keepdims=True))
        attention = dropout(
            odds / odds.sum(-1, keepdims=True), f"{site}/attention/probabilities/dropout", attention_rate
        )
        context = (attention @ value).transpose(0, 2, 1, 3).reshape(x.shape)
        attended = dropout(
            dense(context, f"{name}.attention.output.dense"), f"{site}/attention/output/dropout", hidden_rate
        )
        x = norm(x + attended, f"{name}.attention.output.LayerNorm")
        inner = _ACTIVATIONS[config["hidden_act"]](dense(x, f"{name}.intermediate.dense"))
        fed = dropout(dense(inner, f"{name}.output.dense"), f"{site}/output/dropout", hidden_rate)
        x = norm(x + fed, f"{name}.output.LayerNorm")
        taps[f"layer.{i}"] = token_mean(x)
    taps |= {"mean": token_mean(x), "cls": x[:, 0]}
    if "pooler.dense.weight" in named:
        taps["pooled_output"] = np.tanh(dense(x[:, 0], "pooler.dense"))
    return taps


def call_plainly(folder: Path, tensors: Tensors, config: dict[str, Any], texts: Sequence[str]) -> NDArray[np.float64]:
    """What the folder's model gives in inference mode: logits where it is a classifier, else pooled_output."""
    tokenizer = load_tokenizer(folder)
    rows = [tokenizer.with_special(ids).tolist() for ids in tokenizer.encode_batch(texts)]
    pooled = reference(tensors, config, rows)["pooled_output"]
    if "classifier.weight" not in tensors:
        return pooled
    return pooled @ tensors["classifier.weight"].T + tensors["classifier.bias"]


def _gelu_tanh(x: NDArray[Any]) -> NDArray[Any]:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


# Hendrycks & Gimpel (2016), arXiv:1606.08415.
_ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
}
