"""BERT as an OpenVINO graph: the fast engine on processors, and it needs no TensorFlow.

Products run through oneDNN and MLAS with weights packed once, bias and GELU inside the product; attention is one fused
kernel. Every worker thread has a stream of its own, so that nothing is synchronised inside a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import SettingsError
from embedsvc.machine import processors
from embedsvc.models.bert import BertConfig
from embedsvc.models.engines import Batch, Masks, Precision
from embedsvc.models.quiet import import_openvino
from embedsvc.types import Vectors

__all__ = ["OpenVinoEngine"]

ov = import_openvino()
ops = ov.opset13

_GROUP = 128  # activations that share a scale in int8; 32 was slower and hardly nearer, a whole row much less exact
# Kernels kept, the least lately used go: of every layer and shape by default, and shapes of batches hardly ever end.
_KERNELS = 64
_HINT = {Precision.FLOAT32: "f32", Precision.BFLOAT16: "bf16", Precision.INT8: "f32"}

Weights = Mapping[str, NDArray[np.float32]]


class OpenVinoEngine:
    """One compiled graph for each set of taps. See `Engine`.

    Raises
    ------
    SettingsError
        For bfloat16 on a processor that has no instructions for it: it would be slower than float32.
    """

    def __init__(self, config: BertConfig, weights: Weights, precision: Precision) -> None:
        self._core = ov.Core()
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision is Precision.BFLOAT16 and "BF16" not in able:
            raise SettingsError(
                "precision bfloat16 needs a processor with instructions for it (AVX512_BF16 or AMX), and this one has "
                "none",
                "Leave out --precision, or try int8.",
            )
        self._config = config
        self._weights = weights
        self._precision = precision
        self._graphs: dict[tuple[tuple[str, ...], bool], _Graph] = {}
        self._lock = threading.Lock()

    def run(self, batch: Batch, masks: Masks | None, taps: Sequence[str]) -> dict[str, Vectors]:
        """See `Engine`."""
        wanted = tuple(sorted(set(taps)))
        with self._lock:  # or every worker would compile it
            graph = self._graphs.get((wanted, masks is not None))
            if graph is None:
                graph = self._graphs[wanted, masks is not None] = self._compile(wanted, training=masks is not None)
        return graph.run(batch, masks, taps)

    def _compile(self, taps: tuple[str, ...], *, training: bool) -> _Graph:
        builder = _Builder(self._config, self._weights, self._precision, training=training)
        streams = processors()
        settings = {
            "INFERENCE_PRECISION_HINT": _HINT[self._precision],
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(streams),
            # Pinned, the streams of two processes would sit on the same core.
            "ENABLE_CPU_PINNING": "NO",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(_GROUP if self._precision is Precision.INT8 else 0),
            "CPU_RUNTIME_CACHE_CAPACITY": str(_KERNELS),
        }
        return _Graph(self._core.compile_model(builder.model(taps), "CPU", settings), builder.masked, taps)


class _Graph:
    """A compiled graph, and requests that threads take in turn."""

    def __init__(self, compiled: Any, masked: Callable[[Masks], list[Any]], taps: tuple[str, ...]) -> None:
        self._compiled = compiled
        self._masked = masked
        self._outputs = {tap: at for at, tap in enumerate(taps)}
        self._requests: SimpleQueue[Any] = SimpleQueue()

    def run(self, batch: Batch, masks: Masks | None, taps: Sequence[str]) -> dict[str, Vectors]:
        try:
            request = self._requests.get_nowait()
        except Empty:
            request = self._compiled.create_infer_request()
        drawn = [] if masks is None else self._masked(masks)
        inputs = [batch.ids, batch.positions, batch.starts, batch.to_grid, batch.from_grid, batch.padding, *drawn]
        out = request.infer(inputs, share_inputs=True, share_outputs=True)
        lengths = np.diff(batch.starts, append=np.int32(len(batch.ids))).astype(np.float32)
        vectors: dict[str, Vectors] = {}
        for tap in taps:
            value = out[self._outputs[tap]]
            if tap == "mean" or tap.startswith("layer."):
                # (N, d) of tokens; the rest is (B, d) already.
                vectors[tap] = np.divide(
                    np.add.reduceat(value, batch.starts, axis=0), lengths[:, None], dtype=np.float32
                )
            else:
                vectors[tap] = value.copy()  # the next batch overwrites it
        self._requests.put(request)
        return vectors


class _Builder:
    """The graph of `tensorflow.forward_graph`, in OpenVINO's operations."""

    def __init__(self, config: BertConfig, weights: Weights, precision: Precision, *, training: bool) -> None:
        self._config = config
        self._weights = weights
        self._precision = precision
        self._training = training
        self._masks: list[tuple[Any, str, int]] = []  # parameter, field of Masks, row of it

    def model(self, taps: tuple[str, ...]) -> Any:
        """A model that takes a batch without its rows, then the masks, and gives the taps in their order."""
        config = self._config
        ids, positions, starts, to_grid, from_grid = (ops.parameter([-1], np.int32, name) for name in "abcde")
        padding = ops.parameter([-1, 1, 1, -1], np.float32)
        cls_only = not {"mean", f"layer.{config.n_layers - 1}"} & set(taps)
        # (B, T, …)
        grid = ops.concat([ops.gather(ops.shape_of(padding, "i64"), _int(0, 3), _scalar(0)), _int(-1)], 0)

        word = ops.gather(self._weight("word"), ids, _scalar(0))
        x = self._norm(ops.add(word, ops.gather(self._weight("position"), positions, _scalar(0))), "embedding_norm")
        x = self._dropped(x, config.hidden_rate, "hidden", 0)
        found = {}
        for layer in range(config.n_layers):
            name = f"layer.{layer}"
            only = starts if cls_only and layer == config.n_layers - 1 else None
            if only is None:
                query, key, value = (
                    ops.reshape(ops.gather(part, from_grid, _scalar(0)), grid, False) for part in self._qkv(x, name)
                )
                context = ops.gather(self._attention(layer, query, key, value, padding), to_grid, _scalar(0))
            else:
                tokens = ops.reshape(ops.gather(x, from_grid, _scalar(0)), grid, False)
                x = ops.gather(x, only, _scalar(0))
                context = self._attention_of_first(layer, x, tokens, padding)
            attended = self._dense(context, f"{name}.attention_out")
            attended = self._dropped(attended, config.attended_rate, "hidden", 1 + 2 * layer, only)
            x = self._norm(ops.add(attended, x), f"{name}.attention_norm")
            inner = _ACTIVATIONS[config.activation](self._dense(x, f"{name}.ffn_in"))
            fed = self._dropped(
                self._dense(inner, f"{name}.ffn_out"), config.hidden_rate, "hidden", 2 + 2 * layer, only
            )
            x = self._norm(ops.add(fed, x), f"{name}.ffn_norm")
            found[name] = x
        found["mean"] = x
        found["cls"] = x if cls_only else ops.gather(x, starts, _scalar(0))
        if "pooled_output" in taps:
            seen = self._dropped(found["cls"], config.pooler_rate or 0.0, "hidden", 1 + 2 * config.n_layers, starts)
            found["pooled_output"] = _ACTIVATIONS[config.pooler_activation](self._dense(seen, "pooler"))
        results = [ops.result(found[tap]) for tap in taps]
        batch = [ids, positions, starts, to_grid, from_grid, padding]
        return ov.Model(results, [*batch, *(parameter for parameter, _, _ in self._masks)], "bert")

    def _qkv(self, x: Any, name: str) -> list[Any]:
        """Queries, keys and values of every token, each (N, d).

        As three products, since splitting the result of one costs more than one product gains over three.
        """
        kernels, biases = (np.split(self._weights[f"{name}.qkv.{part}"], 3, axis=-1) for part in ("kernel", "bias"))
        return [self._product(x, kernel, bias) for kernel, bias in zip(kernels, biases, strict=True)]

    def _attention(self, layer: int, query: Any, key: Any, value: Any, padding: Any) -> Any:
        """Context of every cell of the grid, (B * T, d), from its queries, keys and values, (B, T, d) each."""
        heads, width = self._config.n_heads, self._config.width
        # Transposing is fused into the kernel of attention, save for the keys.
        query, key, value = (
            ops.transpose(ops.reshape(part, _int(0, 0, heads, width // heads), True), _int(0, 2, 1, 3))
            for part in (query, key, value)
        )
        probabilities = ops.softmax(ops.add(ops.matmul(query, key, False, True), padding), -1)
        probabilities = self._dropped(probabilities, self._config.attention_rate, "attention", layer)
        context = ops.transpose(ops.matmul(probabilities, value, False, False), _int(0, 2, 1, 3))
        return ops.reshape(context, _int(-1, width), False)

    def _attention_of_first(self, layer: int, first: Any, tokens: Any, padding: Any) -> Any:
        """Context of [CLS] alone, (B, d), from its vectors, (B, d), and those of all tokens, (B, T, d).

        With one query a row, the kernels of keys and values move to its side: q (x K)' = (q K') x' and
        p (x V) = (p x) V, so that no token needs a key or a value. The keys' bias adds the same to every score of a
        query, which softmax takes away; the values' bias counts for as much probability as dropout has left.
        """
        heads, width = self._config.n_heads, self._config.width
        kernel, bias = (self._weights[f"layer.{layer}.qkv.{part}"] for part in ("kernel", "bias"))
        of_query, of_key, of_value = np.split(kernel, 3, axis=1)
        of_key, of_value = (of.reshape(width, heads, -1).swapaxes(0, 1) for of in (of_key, of_value))

        def by_head(x: Any, kernels: NDArray[np.float32], transposed: bool) -> Any:  # (B, heads, m) -> (B, heads, n)
            product = ops.matmul(ops.transpose(x, _int(1, 0, 2)), _constant(kernels), False, transposed)
            return ops.transpose(product, _int(1, 0, 2))

        query = ops.add(ops.matmul(first, _constant(of_query), False, False), _constant(bias[:width]))
        query = by_head(ops.reshape(query, _int(-1, heads, width // heads), False), of_key, True)
        scores = ops.add(ops.matmul(query, tokens, False, True), ops.squeeze(padding, _int(2)))
        probabilities = self._dropped(
            ops.softmax(scores, -1), self._config.attention_rate, "attention", layer, first_query=True
        )
        context = by_head(ops.matmul(probabilities, tokens, False, False), of_value, False)
        left = ops.reduce_sum(probabilities, _int(-1), True)
        context = ops.add(context, ops.multiply(left, _constant(bias[2 * width :].reshape(1, heads, -1))))
        return ops.reshape(context, _int(-1, width), False)

    def masked(self, masks: Masks) -> list[NDArray[np.bool_]]:
        """The masks as the model takes them."""
        return [getattr(masks, field)[row] for _, field, row in self._masks]

    def _dropped(
        self, x: Any, rate: float, field: str, row: int, only: Any = None, *, first_query: bool = False
    ) -> Any:
        if not self._training or not rate:
            return x
        kept = ops.parameter([-1, -1] if field == "hidden" else [-1, -1, -1, -1], np.bool_)
        self._masks.append((kept, field, row))
        if only is not None:
            kept = ops.gather(kept, only, _scalar(0))
        if first_query:
            kept = ops.gather(kept, _scalar(0), _scalar(2))  # (B, heads, T)
        scaled = ops.multiply(x, ops.constant(np.float32(1.0 / (1.0 - rate))))
        return ops.select(kept, scaled, ops.constant(np.float32(0)))

    def _weight(self, name: str) -> Any:
        return _constant(self._weights[name])

    def _dense(self, x: Any, name: str) -> Any:
        return self._product(x, self._weights[f"{name}.kernel"], self._weights[f"{name}.bias"])

    def _product(self, x: Any, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> Any:
        # Transposed, output by input: the layout that is packed without a copy, and that int8 kernels ask for.
        kernel = np.ascontiguousarray(kernel.T, dtype=np.float32)
        if self._precision is Precision.INT8:
            scale = np.maximum(np.abs(kernel).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
            rounded = np.round(kernel / scale).astype(np.int8)
            weight = ops.multiply(ops.convert(ops.constant(rounded), np.float32), ops.constant(scale))
        else:
            weight = ops.constant(kernel)
        return ops.add(ops.matmul(x, weight, False, True), _constant(bias))

    def _norm(self, x: Any, name: str) -> Any:
        normed = ops.mvn(x, _int(-1), True, self._config.norm_epsilon, "inside_sqrt")
        return ops.add(ops.multiply(normed, self._weight(f"{name}.gamma")), self._weight(f"{name}.beta"))


_ACTIVATIONS: dict[str, Any] = {
    "gelu": lambda x: ops.gelu(x, "erf"),
    "gelu_tanh": lambda x: ops.gelu(x, "tanh"),
    "relu": ops.relu,
    "tanh": ops.tanh,
}


def _constant(value: NDArray[np.float32]) -> Any:
    return ops.constant(np.ascontiguousarray(value, dtype=np.float32))


def _int(*values: int) -> Any:
    return ops.constant(np.array(values, dtype=np.int64))


def _scalar(value: int) -> Any:
    return ops.constant(np.int64(value))
