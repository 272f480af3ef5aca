"""The fast BERT runner: no padding outside attention, keyed masks, and an engine (`engines`) that multiplies.

Three things make it fast. Rows are packed end to end, so every matrix product works on real tokens only; queries,
keys and values come from one product; and where nothing but [CLS] is tapped, the last layer is computed for [CLS]
alone. Masks are drawn outside the engine by `masks`, in the thread that prepares the batch, so that they are the
same bits in every engine, in the head and in a reader of the store.

References
----------
Devlin et al. (2019), "BERT", arXiv:1810.04805. Rows packed without padding: Zhai et al. (2022), "ByteTransformer",
arXiv:2210.03052.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.head import Head
from embedsvc.losses import Ending
from embedsvc.models import engines
from embedsvc.models.engines import Batch, Masks, Precision
from embedsvc.models.observation import OBSERVED_TEXT, Observation, Seen, observe
from embedsvc.models.wordpiece import WordPiece
from embedsvc.types import DropoutSite, Mode, ModelSpec, Pass, Tokens, Vectors

__all__ = ["BertConfig", "BertEncoder", "BertRunner", "Weights", "draw_masks", "fold", "pack"]

Weights = Mapping[str, NDArray[np.float32]]

_MASKED = np.float32(-1e9)  # added to the scores of keys that are padding: their softmax is exactly 0 in float32


@dataclass(frozen=True, slots=True)
class BertConfig:
    """Shape and rates of a BERT encoder."""

    n_layers: int
    n_heads: int
    width: int
    intermediate: int
    max_positions: int
    norm_epsilon: float = 1e-12
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    hidden_rate: float = 0.1
    attention_rate: float = 0.1

    def sites(self, head_rate: float) -> tuple[DropoutSite, ...]:
        """Every dropout site; a site's place in the tuple is its number in the keys of its masks."""
        encoder = [DropoutSite("embeddings/dropout", self.hidden_rate)]
        for layer in range(self.n_layers):
            encoder += [
                DropoutSite(f"layer.{layer}/attention/probabilities/dropout", self.attention_rate, kind="attention"),
                DropoutSite(f"layer.{layer}/attention/output/dropout", self.hidden_rate),
                DropoutSite(f"layer.{layer}/output/dropout", self.hidden_rate),
            ]
        live = tuple(site if site.rate else replace(site, modes=()) for site in encoder)
        return (DropoutSite("head/dropout", head_rate, (Mode.TRAINING, Mode.HEAD)), *live)


class BertRunner:
    """A BERT encoder on rows of token ids.

    Parameters
    ----------
    config : BertConfig
    weights : mapping of str to ndarray, float32
        ``word (V, d)``, ``position (P, d)``, ``type (2, d)``, ``embedding_norm.{gamma,beta} (d,)``, and for each layer
        i ``layer.{i}.qkv.kernel (d, 3d)``, ``.bias (3d,)`` (query, key, value side by side),
        ``layer.{i}.attention_out.kernel (d, d)``, ``layer.{i}.attention_norm.{gamma,beta}``,
        ``layer.{i}.ffn_in.kernel (d, f)``, ``layer.{i}.ffn_out.kernel (f, d)``, ``layer.{i}.ffn_norm.{gamma,beta}``;
        ``pooler.kernel (d, d)`` and ``pooler.bias (d,)`` where there is a pooler.
    engine : str
        Out of `engines.ENGINES`; by default the fastest that is installed.
    precision : Precision

    Raises
    ------
    SettingsError, MissingExtraError
        See `engines.choose`.
    """

    def __init__(
        self,
        config: BertConfig,
        weights: Weights,
        *,
        engine: str = engines.AUTO,
        precision: Precision = Precision.FLOAT32,
    ) -> None:
        self.config = config
        self.digest = _digest(config, weights)
        self.has_pooler = "pooler.kernel" in weights
        self.engine = engines.choose(engine, precision)
        self.precision = precision
        self._engine = engines.make(self.engine, config, fold(config, weights), precision)

    @cached_property
    def taps(self) -> tuple[str, ...]:
        """What `run` can hand out; all of the encoder's width.

        ``layer.<k>`` is the mean of layer k's output (k from 0) over the tokens of the text, [CLS] and [SEP]
        included; ``mean`` is that of the last layer; ``cls`` its [CLS] vector.
        """
        layers = tuple(f"layer.{layer}" for layer in range(self.config.n_layers))
        return (*(("pooled_output",) if self.has_pooler else ()), "cls", "mean", *layers)

    def run(
        self, ids: Sequence[NDArray[np.int32]], *, keys: NDArray[np.uint64], taps: Sequence[str], pass_: Pass
    ) -> dict[str, Vectors]:
        """One pass over one batch.

        Parameters
        ----------
        ids : sequence of ndarray of shape (n_i,), int32
            Token ids with special tokens, at most ``config.max_positions`` a row.
        keys : ndarray of shape (n,), uint64
        taps : sequence of str
            Out of `taps`.
        pass_ : Pass
            In inference or training mode.

        Returns
        -------
        mapping of str to ndarray of shape (n, width), float32
        """
        if not ids:
            return {tap: np.empty((0, self.config.width), dtype=np.float32) for tap in taps}
        lengths = np.fromiter((len(row) for row in ids), dtype=np.int32, count=len(ids))
        drawn = draw_masks(self.config, lengths, keys, pass_) if pass_.mode is Mode.TRAINING else None
        return self._engine.run(pack(ids, lengths), drawn, taps)

    def observe(self, ids: NDArray[np.int32]) -> list[Observation]:
        """See `Observable`: each site's mask is put in alone, and what comes out is compared.

        Parameters
        ----------
        ids : ndarray of shape (n,), int32
            One row with special tokens.
        """
        lengths, keys = np.array([len(ids)], dtype=np.int32), np.ones(1, dtype=np.uint64)
        batch = pack([ids], lengths)
        names = [site.path for site in self.config.sites(0.0)[1:]]
        how = "the output under this site's mask alone"

        def run(mode: Mode, number: int) -> dict[str, Seen]:
            if not mode.stochastic:  # the graph of inference has no masks
                return {name: Seen(False, None, False, how) for name in names}
            hidden, attention = draw_masks(self.config, lengths, keys, Pass(mode, number, 0))
            all_kept = Masks(np.ones_like(hidden), np.ones_like(attention))
            still = self._engine.run(batch, all_kept, ("mean",))["mean"]
            found = {}
            for at, name in enumerate(names):
                layer, part = divmod(at - 1, 3)
                alone = [array.copy() for array in all_kept]
                if at and part == 0:
                    alone[1][layer] = attention[layer]
                    mask = attention[layer, 0].swapaxes(0, 1)  # (steps, heads, steps)
                else:
                    row = 0 if at == 0 else 2 * layer + part
                    alone[0][row] = mask = hidden[row]  # (steps, width)
                changed = not np.array_equal(self._engine.run(batch, Masks(*alone), ("mean",))["mean"], still)
                found[name] = Seen(changed, mask.reshape(len(mask), 1, -1).astype(np.float32), True, how)
            return found

        return observe(run)


class BertEncoder:
    """A BERT classifier on texts: WordPiece, `BertRunner`, head. See `models.base.Encoder`.

    Attributes
    ----------
    inference_by_tokens : bool
        Inference vectors are a function of the tokens alone, so that repeated texts can share them.
    """

    inference_by_tokens = True

    def __init__(
        self,
        runner: BertRunner,
        tokenizer: WordPiece,
        head: Head,
        *,
        uri: str,
        pre_dropout: str = "pooled_output",
        notes: tuple[str, ...] = (),
        ending: Ending | None = None,
    ) -> None:
        self.head = head
        self.ending = ending or Ending()
        self.engine, self.precision = runner.engine, runner.precision
        self._runner = runner
        self._tokenizer = tokenizer
        self._pre_dropout = pre_dropout
        width = runner.config.width
        taps = {"pre_dropout": width, "post_dropout": width}
        if head.n_classes is not None:
            taps["logits"] = head.n_classes
        self.spec = ModelSpec(
            uri=uri,
            digest=hashlib.sha256(f"{runner.digest} {head.digest()} {pre_dropout}".encode()).hexdigest(),
            vocab_digest=tokenizer.digest,
            max_tokens=runner.config.max_positions,
            taps=taps | dict.fromkeys(runner.taps, width),
            sites=runner.config.sites(head.rate),
            special_tokens=2,
            notes=notes,
        )

    @property
    def vocabulary(self) -> int:
        """One more than the highest token id."""
        return self._tokenizer.size

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """See `Encoder`."""
        return self._tokenizer.tokenize(texts)

    def observe(self) -> list[Observation]:
        """See `Observable`."""
        assert (ids := self.tokenize([OBSERVED_TEXT]).ids) is not None
        return self._runner.observe(self._tokenizer.with_special(ids[0][: self._runner.config.max_positions - 2]))

    def encode(
        self, tokens: Tokens, *, keys: NDArray[np.uint64], taps: Sequence[str], pass_: Pass
    ) -> Mapping[str, Vectors]:
        """See `Encoder`."""
        assert tokens.ids is not None
        rows = [self._tokenizer.with_special(ids) for ids in tokens.ids]
        inner = {tap: self._pre_dropout if tap == "pre_dropout" else tap for tap in taps}
        vectors = self._runner.run(rows, keys=keys, taps=tuple(inner.values()), pass_=pass_)
        return {tap: vectors[name] for tap, name in inner.items()}


def draw_masks(config: BertConfig, lengths: NDArray[np.int32], keys: NDArray[np.uint64], pass_: Pass) -> Masks:
    """Which units stay at every site of the encoder, for one batch."""
    seed, index = pass_.draw
    n_layers, n_heads, width = config.n_layers, config.n_heads, config.width
    longest = int(lengths.max())
    hidden = np.empty((1 + 2 * n_layers, int(lengths.sum()), width), dtype=np.bool_)
    attention = np.zeros((n_layers, len(lengths), n_heads, longest, longest), dtype=np.bool_)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    # In the order of BertConfig.sites: 1 the embeddings, then three a layer.
    stream = masks.Stream(seed)
    for row, (key, start, n) in enumerate(zip(keys.tolist(), starts.tolist(), lengths.tolist(), strict=True)):
        span = slice(start, start + n)
        keep = partial(stream.keep_into, key=key, index=index)
        if config.hidden_rate:
            keep(hidden[0, span], site=1, rate=config.hidden_rate)
            for layer in range(n_layers):
                keep(hidden[1 + 2 * layer, span], site=3 + 3 * layer, rate=config.hidden_rate)
                keep(hidden[2 + 2 * layer, span], site=4 + 3 * layer, rate=config.hidden_rate)
        if config.attention_rate:
            for layer in range(n_layers):
                keep(attention[layer, row, :, :n, :n], site=2 + 3 * layer, rate=config.attention_rate)
    return Masks(hidden, attention)


def pack(ids: Sequence[NDArray[np.int32]], lengths: NDArray[np.int32]) -> Batch:
    """Rows end to end, and where a token sits in the grid that attention needs."""
    n_rows, longest, n_tokens = len(ids), int(lengths.max()), int(lengths.sum())
    rows = np.repeat(np.arange(n_rows, dtype=np.int32), lengths)
    starts = np.cumsum(lengths, dtype=np.int32) - lengths
    positions = np.arange(n_tokens, dtype=np.int32) - starts[rows]
    to_grid = rows * np.int32(longest) + positions
    # Padding cells of the grid repeat token 0; as keys they are masked, as queries nobody reads them.
    from_grid = np.zeros(n_rows * longest, dtype=np.int32)
    from_grid[to_grid] = np.arange(n_tokens, dtype=np.int32)
    padding = np.where(np.arange(longest) < lengths[:, None], np.float32(0), _MASKED).astype(np.float32)
    return Batch(
        np.concatenate(ids),
        positions,
        rows,
        starts.astype(np.int32),
        to_grid,
        from_grid,
        padding[:, None, None, :],
    )


def fold(config: BertConfig, weights: Mapping[str, Any]) -> dict[str, Any]:
    """What engines take, of `BertRunner`'s weights as arrays or tensors: constants folded into them.

    Token type 0 goes into the positions, 1/sqrt(d) into the queries.
    """
    folded = dict(weights)
    folded["position"] = folded["position"] + folded.pop("type")[0]
    scale = np.ones(3 * config.width, dtype=np.float32)
    scale[: config.width] = 1.0 / np.sqrt(config.width // config.n_heads)
    for layer in range(config.n_layers):
        for part in ("kernel", "bias"):
            folded[f"layer.{layer}.qkv.{part}"] = folded[f"layer.{layer}.qkv.{part}"] * scale
    return folded


def _digest(config: BertConfig, weights: Weights) -> str:
    """SHA-256 (hex) over shape, rates and weights."""
    digest = hashlib.sha256(repr(sorted(asdict(config).items())).encode())
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].shape}".encode())
        digest.update(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
    return digest.hexdigest()
