"""Standard BERT weights out of a SavedModel, for the fast runner.

Nothing here trusts the names: what was lifted counts only after `hub` has seen it agree with the graph it came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.models.draws import GraphSite

__all__ = ["lift"]

# Variable names of Google's exporters and of tf-models, without any prefix, to ours.
_LAYER = r"layer_(?P<i>\d+)/"
_NAMES = {
    r"word_embeddings/embeddings": "word",
    r"position_embeddings?/embeddings": "position",
    r"(type|segment)_embeddings/embeddings": "type",
    r"embeddings/layer_norm/(?P<leaf>gamma|beta)": "embedding_norm.{leaf}",
    _LAYER + r"self_attention/(?P<part>query|key|value)/(?P<leaf>kernel|bias)": "layer.{i}.{part}.{leaf}",
    _LAYER + r"self_attention(/attention)?_output/(?P<leaf>kernel|bias)": "layer.{i}.attention_out.{leaf}",
    _LAYER + r"self_attention/attention_output/(?P<leaf>kernel|bias)": "layer.{i}.attention_out.{leaf}",
    _LAYER + r"self_attention_layer_norm/(?P<leaf>gamma|beta)": "layer.{i}.attention_norm.{leaf}",
    _LAYER + r"intermediate/(?P<leaf>kernel|bias)": "layer.{i}.ffn_in.{leaf}",
    _LAYER + r"output/(?P<leaf>kernel|bias)": "layer.{i}.ffn_out.{leaf}",
    _LAYER + r"output_layer_norm/(?P<leaf>gamma|beta)": "layer.{i}.ffn_norm.{leaf}",
    r"pooler(_transform)?/(?P<leaf>kernel|bias)": "pooler.{leaf}",
}
_NORM_EPSILON = 1e-12  # BERT's own; google-research/bert, modeling.py: layer_norm


def lift(
    variables: Mapping[str, NDArray[Any]],
    graph: Any,
    live: Sequence[tuple[GraphSite, int]],
) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]] | None:
    """Configuration (but for the activation) and weights of a standard BERT encoder, or None if it is none.

    Parameters
    ----------
    variables : mapping of str to ndarray
        Name to value, as the SavedModel has them.
    graph : SavedModel message
        For the epsilon of the layer norms.
    live : sequence of (GraphSite, int)
        Dropouts that a training pass asked for, and the rank of what they drop.

    Returns
    -------
    (dict, dict) or None
        Fields of `bert.BertConfig` without ``activation``, and float32 arrays under the names of `bert.BertRunner`.
    """
    named: dict[str, NDArray[np.float32]] = {}
    for name, value in variables.items():
        if not np.issubdtype(value.dtype, np.floating):
            continue  # the exporter's do_lower_case and kin
        ours = _rename(name)
        if ours is None or ours in named:
            return None
        named[ours] = np.asarray(value, dtype=np.float32)
    n_layers = sum(name.endswith("query.kernel") for name in named)
    rates = _rates(live, n_layers)
    if rates is None or not n_layers or "word" not in named or "position" not in named:
        return None
    try:
        n_heads = named["layer.0.query.kernel"].shape[1]
        weights = dict(_weights(named, n_layers, width=named["word"].shape[1]))
        intermediate = weights["layer.0.ffn_in.kernel"].shape[1]
    except (KeyError, ValueError, IndexError):
        return None
    if named:  # something stands in this model that BERT does not have
        return None
    config = {
        "n_layers": n_layers,
        "n_heads": n_heads,
        "width": weights["word"].shape[1],
        "intermediate": intermediate,
        "norm_epsilon": _epsilon(graph),
        "hidden_rate": rates[0],
        "attention_rate": rates[1],
        "max_positions": weights["position"].shape[0],
    }
    return config, weights


def _rename(name: str) -> str | None:
    for pattern, ours in _NAMES.items():
        match = re.fullmatch(rf"(?:.*/)?{pattern}(?::0)?", name)
        if match:
            return ours.format(**match.groupdict())
    return None


def _weights(
    named: dict[str, NDArray[np.float32]], n_layers: int, width: int
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Takes from `named` what BERT has, per-head axes flattened; a wrong shape raises ValueError."""

    def take(name: str, *shape: int) -> NDArray[np.float32]:
        return np.ascontiguousarray(named.pop(name).reshape(shape))

    yield "word", take("word", -1, width)
    yield "position", take("position", -1, width)
    yield "type", take("type", -1, width)
    for leaf in ("gamma", "beta"):
        yield f"embedding_norm.{leaf}", take(f"embedding_norm.{leaf}", width)
    for i in range(n_layers):
        at = f"layer.{i}."
        parts = ("query", "key", "value")
        yield (
            f"{at}qkv.kernel",
            np.concatenate([take(f"{at}{part}.kernel", width, width) for part in parts], axis=1),
        )
        yield f"{at}qkv.bias", np.concatenate([take(f"{at}{part}.bias", width) for part in parts])
        yield f"{at}attention_out.kernel", take(f"{at}attention_out.kernel", width, width)
        yield f"{at}attention_out.bias", take(f"{at}attention_out.bias", width)
        yield f"{at}ffn_in.kernel", take(f"{at}ffn_in.kernel", width, -1)
        yield f"{at}ffn_in.bias", take(f"{at}ffn_in.bias", -1)
        yield f"{at}ffn_out.kernel", take(f"{at}ffn_out.kernel", -1, width)
        yield f"{at}ffn_out.bias", take(f"{at}ffn_out.bias", width)
        for norm in ("attention_norm", "ffn_norm"):
            for leaf in ("gamma", "beta"):
                yield f"{at}{norm}.{leaf}", take(f"{at}{norm}.{leaf}", width)
    yield "pooler.kernel", take("pooler.kernel", width, width)
    yield "pooler.bias", take("pooler.bias", width)


def _rates(live: Sequence[tuple[GraphSite, int]], n_layers: int) -> tuple[float, float] | None:
    """Hidden and attention rate if the dropouts stand where BERT has them: one, and three a layer."""
    if not live:
        return 0.0, 0.0
    attention = {site.rate for site, rank in live if rank == 4}
    hidden = {site.rate for site, rank in live if rank == 3}
    n_attention = sum(rank == 4 for _, rank in live)
    n_hidden = sum(rank == 3 for _, rank in live)
    if n_attention not in {0, n_layers} or n_hidden not in {0, 1 + 2 * n_layers}:
        return None
    if n_attention + n_hidden != len(live) or len(attention) > 1 or len(hidden) > 1:
        return None
    rates = hidden.pop() if hidden else 0.0, attention.pop() if attention else 0.0
    return None if None in rates else rates  # type: ignore[return-value]


def _epsilon(graph: Any) -> float:
    """Epsilon of the layer norms, as the graph adds it to the variance."""
    from tensorflow import make_ndarray

    found = {
        float(str(make_ndarray(node.attr["value"].tensor)))
        for function in graph.meta_graphs[0].graph_def.library.function
        for node in function.node_def
        if node.op == "Const" and re.search(r"layer_norm/batchnorm/add/y$", node.name)
    }
    return found.pop() if len(found) == 1 else _NORM_EPSILON
