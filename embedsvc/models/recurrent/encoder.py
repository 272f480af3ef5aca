"""``recurrent:`` a classifier out of its folder, under its own dropout policy or another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedsvc.errors import ModelError
from embedsvc.head import Head
from embedsvc.losses import Ending
from embedsvc.models.base import LoadOptions
from embedsvc.models.observation import OBSERVED_TEXT, Observation, Seen, observe
from embedsvc.models.recurrent.drawing import draw_masks, live_sites
from embedsvc.models.recurrent.folder import Recurrent, read_folder
from embedsvc.models.recurrent.graph import forward_graph, signature, taps
from embedsvc.models.recurrent.policy import parse_policy
from embedsvc.types import Mode, ModelSpec, Pass, Tokens, Vectors

__all__ = ["RecurrentEncoder", "load"]


def load(location: str, options: LoadOptions) -> RecurrentEncoder:
    """``recurrent:FOLDER``, or ``recurrent:FOLDER#POLICY`` for the same weights under another policy.

    ``recurrent:model#gal=0.25``, ``recurrent:model#input=0.2,output=0.5``, ``recurrent:model#none``: see `policy`.

    Raises
    ------
    ModelFormatError
        If the folder is torn, foreign or of a newer version.
    SettingsError
        If the policy is none, or does not go with the cell.
    """
    path, mark, policy = location, "", ""
    if not Path(location).exists():
        path, mark, policy = location.rpartition("#") if "#" in location else (location, "", "")
    model = read_folder(Path(path))
    if mark:
        model = replace(model, config=replace(model.config, dropout=parse_policy(policy)))
    if options.rate is not None:
        model = replace(model, head=replace(model.head, rate=options.rate))
    if options.dropout_layer not in {None, "head/dropout"}:
        raise ModelError(
            f"{path} has one dropout before its last layer, head/dropout, and none called {options.dropout_layer!r}"
        )
    return RecurrentEncoder(model, uri=options.name or f"recurrent:{location}")


class RecurrentEncoder:
    """See `Encoder`. Masks are keyed by text, site, pass, and by step where they are drawn for each."""

    def __init__(self, model: Recurrent, *, uri: str) -> None:
        self.head: Head = model.head
        n_classes = model.head.n_classes
        self.ending = Ending("linear", n_classes) if n_classes else Ending()
        self._config = model.config
        self._vocabulary = model.vocabulary
        self._weights = {name: tf.constant(value) for name, value in model.weights.items()}
        self._graphs: dict[tuple[tuple[str, ...], bool], Any] = {}
        config = model.config
        widths = {"pre_dropout": config.width, "post_dropout": config.width}
        notes = (
            () if n_classes else ("The model has no trained classifier behind its dropout, so there are no logits.",)
        )
        self.spec = ModelSpec(
            uri=uri,
            digest=_digest(model),
            vocab_digest=model.vocabulary.digest,
            max_tokens=config.max_tokens,
            taps=widths | ({"logits": n_classes} if n_classes else {}) | dict.fromkeys(taps(config), config.width),
            sites=config.sites(model.head.rate),
            notes=notes,
        )

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """See `Encoder`."""
        return self._vocabulary.tokenize(texts)

    def encode(
        self, tokens: Tokens, *, keys: NDArray[np.uint64], taps: Sequence[str], pass_: Pass
    ) -> Mapping[str, Vectors]:
        """See `Encoder`."""
        if not len(tokens):
            return {tap: np.empty((0, self.spec.taps[tap]), dtype=np.float32) for tap in taps}
        ids, lengths = pad(tokens)
        training = pass_.mode is Mode.TRAINING and bool(live_sites(self._config))
        kept = draw_masks(self._config, lengths, keys, pass_) if training else ()
        out = self._graph(tuple(sorted(set(taps))), training)(ids, lengths, *kept)
        return {tap: out[tap].numpy() for tap in taps}

    def observe(self) -> list[Observation]:
        """See `Observable`: each site's mask is put in alone, and what comes out is compared."""
        tokens, keys = self.tokenize([OBSERVED_TEXT]), np.ones(1, dtype=np.uint64)
        ids, lengths = pad(tokens)
        sites = live_sites(self._config)
        names = [site.path for site in self.spec.sites[1:]]
        how = "the output under this site's mask alone"

        def run(mode: Mode, number: int) -> dict[str, Seen]:
            found = dict.fromkeys(names, Seen(False, None, False, how))
            if not mode.stochastic or not sites:
                return found
            drawn = draw_masks(self._config, lengths, keys, Pass(mode, number, 0))
            whole = [np.ones_like(kept) for kept in drawn]
            graph = self._graph(("mean",), True)
            still = graph(ids, lengths, *whole)["mean"].numpy()
            for at, (name, kind, _, _) in enumerate(sites):
                alone = [*whole[:at], drawn[at], *whole[at + 1 :]]
                changed = not np.array_equal(graph(ids, lengths, *alone)["mean"].numpy(), still)
                # A mask for all steps is handed in once.
                steps = np.broadcast_to(drawn[at][0], (int(lengths[0]), *drawn[at].shape[2:]))
                found[f"{name}/{kind}"] = Seen(changed, steps.astype(np.float32), True, how)
            return found

        return observe(run)

    def _graph(self, taps: tuple[str, ...], training: bool) -> Any:
        if (taps, training) not in self._graphs:

            def run(ids: Any, lengths: Any, *kept: Any) -> dict[str, Any]:
                out = forward_graph(self._config, self._weights, ids, lengths, kept)
                return {tap: out[tap] for tap in taps}

            graph = tf.function(run, signature(self._config, training=training), autograph=False)
            self._graphs[taps, training] = graph.get_concrete_function()
        return self._graphs[taps, training]


def pad(tokens: Tokens) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Word numbers (n, longest) and lengths (n,); a text without words is the unknown word."""
    assert tokens.ids is not None
    rows = [ids if len(ids) else np.ones(1, dtype=np.int32) for ids in tokens.ids]
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    ids = np.zeros((len(rows), int(lengths.max())), dtype=np.int32)
    for row, given in enumerate(rows):
        ids[row, : len(given)] = given
    return ids, lengths


def _digest(model: Recurrent) -> str:
    digest = hashlib.sha256(f"{model.config} {model.head.digest()} {model.vocabulary.digest}".encode())
    for name in sorted(model.weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(model.weights[name], dtype="<f4").tobytes())
    return digest.hexdigest()
