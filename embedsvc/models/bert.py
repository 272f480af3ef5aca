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
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.head import Head
from embedsvc.losses import Ending
from embedsvc.models import engines
from embedsvc.models.engines import Batch, Masks, Precision
from embedsvc.models.observation import Observation, Seen, observe, observed_tokens
from embedsvc.models.wordpiece import WordPiece
from embedsvc.types import DropoutSite, Mode, ModelSpec, Pass, Tokens, Vectors

__all__ = ["BertConfig", "BertEncoder", "BertRunner", "Weights", "draw_masks", "fold", "pack"]

Weights = Mapping[str, NDArray[np.float32]]

# Left out of a digest: a BERT had its digest, and sets were made with it, before others differed from it here.
_BERTS_OWN = [("drops_attended", True), ("pooler_activation", "tanh"), ("pooler_rate", None)]
_MASKED = np.float32(-1e9)  # added to the scores of keys that are padding: their softmax is exactly 0 in float32


class Place(NamedTuple):
    """A dropout site of the encoder, and where its masks are.

    Attributes
    ----------
    path, rate, kind
        See `DropoutSite`.
    row : int
        Of `Masks.attention` or `Masks.hidden`, as the kind says.
    first_only : bool
        Whether it drops units of a row's first token alone.
    """

    path: str
    rate: float
    row: int
    kind: Literal["unit", "attention"] = "unit"
    first_only: bool = False


@dataclass(frozen=True, slots=True)
class BertConfig:
    """Shape and rates of a BERT encoder, or of one that is BERT but for what is said here.

    Attributes
    ----------
    n_layers, n_heads, width, intermediate : int
    max_positions : int
        Longest row of tokens.
    norm_epsilon : float
    activation : {"gelu", "gelu_tanh", "relu"}
        Of the layers.
    hidden_rate, attention_rate : float
    drops_attended : bool
        Whether a layer drops units of its attention's output too (DistilBERT does not).
    pooler_activation : {"tanh", "relu"}
    pooler_rate : float or None
        Of a dropout before the pooler, where there is one (RoBERTa's classifiers).
    """

    n_layers: int
    n_heads: int
    width: int
    intermediate: int
    max_positions: int
    norm_epsilon: float = 1e-12
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    hidden_rate: float = 0.1
    attention_rate: float = 0.1
    drops_attended: bool = True
    pooler_activation: Literal["tanh", "relu"] = "tanh"
    pooler_rate: float | None = None

    @property
    def attended_rate(self) -> float:
        """Rate of the dropout of an attention's output; 0 where there is none."""
        return self.hidden_rate if self.drops_attended else 0.0

    @property
    def hidden_rows(self) -> int:
        """Rows of `Masks.hidden`."""
        return 1 + 2 * self.n_layers + (self.pooler_rate is not None)

    def places(self) -> list[Place]:
        """Every dropout site of the encoder; the k-th, from 1, has the number k in the keys of its masks."""
        found = [Place("embeddings/dropout", self.hidden_rate, 0)]
        for layer in range(self.n_layers):
            name, row = f"layer.{layer}", 1 + 2 * layer
            found.append(Place(f"{name}/attention/probabilities/dropout", self.attention_rate, layer, "attention"))
            if self.drops_attended:
                found.append(Place(f"{name}/attention/output/dropout", self.hidden_rate, row))
            found.append(Place(f"{name}/output/dropout", self.hidden_rate, row + 1))
        if self.pooler_rate is not None:
            found.append(Place("pooler/dropout", self.pooler_rate, 1 + 2 * self.n_layers, first_only=True))
        return found

    def sites(self, head_rate: float) -> tuple[DropoutSite, ...]:
        """Every dropout site; a site's place in the tuple is its number in the keys of its masks."""
        live = (Mode.TRAINING,)
        encoder = [DropoutSite(path, rate, live if rate else (), kind) for path, rate, _, kind, _ in self.places()]
        return (DropoutSite("head/dropout", head_rate, (Mode.TRAINING, Mode.HEAD)), *encoder)


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
        places = self.config.places()
        taps = ("pooled_output", "mean") if self.has_pooler else ("mean",)
        how = "the output under this site's mask alone"

        def run(mode: Mode, number: int) -> dict[str, Seen]:
            if not mode.stochastic:  # the graph of inference has no masks
                return {place.path: Seen(False, None, False, how) for place in places}
            hidden, attention = draw_masks(self.config, lengths, keys, Pass(mode, number, 0))
            all_kept = Masks(np.ones_like(hidden), np.ones_like(attention))
            still = self._engine.run(batch, all_kept, taps)
            found = {}
            for place in places:
                alone = Masks(*(array.copy() for array in all_kept))
                if place.kind == "attention":
                    alone.attention[place.row] = attention[place.row]
                    mask = attention[place.row, 0].swapaxes(0, 1)  # (steps, heads, steps)
                else:
                    alone.hidden[place.row] = hidden[place.row]
                    mask = hidden[place.row, : 1 if place.first_only else None]  # (steps, width)
                moved = self._engine.run(batch, alone, taps)
                changed = any(not np.array_equal(moved[tap], still[tap]) for tap in taps)
                found[place.path] = Seen(changed, mask.reshape(len(mask), 1, -1).astype(np.float32), True, how)
            return found

        return observe(run)


class BertEncoder:
    """A BERT classifier on texts: WordPiece, `BertRunner`, head. See `models.base.Encoder`.

    Attributes
    ----------
    family : str
        Whose encoder it is, as people write it: BERT, DistilBERT …
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
        family: str = "BERT",
    ) -> None:
        self.head = head
        self.family = family
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
        assert (ids := observed_tokens(self).pieces.ids) is not None
        return self._runner.observe(self._tokenizer.with_special(ids[0]))

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
    longest = int(lengths.max())
    hidden = np.empty((config.hidden_rows, int(lengths.sum()), config.width), dtype=np.bool_)
    attention = np.zeros((config.n_layers, len(lengths), config.n_heads, longest, longest), dtype=np.bool_)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    live = [(number, place) for number, place in enumerate(config.places(), 1) if place.rate]
    stream = masks.Stream(seed)
    for row, (key, start, n) in enumerate(zip(keys.tolist(), starts.tolist(), lengths.tolist(), strict=True)):
        for number, place in live:
            if place.kind == "attention":
                part = attention[place.row, row, :, :n, :n]
            else:
                part = hidden[place.row, start : start + (1 if place.first_only else n)]
            stream.keep_into(part, key=key, site=number, index=index, rate=place.rate)
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
    if "type" in folded:
        folded["position"] = folded["position"] + folded.pop("type")[0]
    scale = np.ones(3 * config.width, dtype=np.float32)
    scale[: config.width] = 1.0 / np.sqrt(config.width // config.n_heads)
    for layer in range(config.n_layers):
        for part in ("kernel", "bias"):
            folded[f"layer.{layer}.qkv.{part}"] = folded[f"layer.{layer}.qkv.{part}"] * scale
    return folded


def _digest(config: BertConfig, weights: Weights) -> str:
    """SHA-256 (hex) over shape, rates and weights."""
    said = [(name, value) for name, value in sorted(asdict(config).items()) if (name, value) not in _BERTS_OWN]
    digest = hashlib.sha256(repr(said).encode())
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].shape}".encode())
        digest.update(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
    return digest.hexdigest()
