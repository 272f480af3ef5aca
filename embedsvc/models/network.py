"""What a classifier needs to be trained, and which kinds of encoder can be.

A `Network` is to training what an `Encoder` is to extraction. `NETWORKS` maps a scheme of ``--encoder`` to the
function that builds one: that is the place to add another kind of encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import ModelFormatError
from embedsvc.models.base import Encoder
from embedsvc.models.quiet import import_tensorflow
from embedsvc.registry import Registry
from embedsvc.types import Pass, Text, Vectors

__all__ = ["NETWORKS", "Cached", "Network", "Request", "Rows", "build_network"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a network is to be built for.

    Attributes
    ----------
    texts : sequence of Text
        Of the training part, for kinds that make their vocabulary from them.
    classes : tuple of str
    multi_label : bool
    rate : float
        Of the head's dropout.
    freeze : bool
        Train the head alone.
    train_pooler : bool or None
        With `freeze`; None trains the pooler if it is untrained.
    max_tokens : int or None
    precision : {"float32", "bfloat16"}
        Of the matrix products.
    seed : int
        Of the first weights.
    name : str or None
        What the encoder was asked for by, if that is a name of the catalogue.
    head_file : Path or None
        See `LoadOptions`.
    """

    texts: Sequence[Text]
    classes: tuple[str, ...]
    multi_label: bool
    rate: float
    freeze: bool
    train_pooler: bool | None
    max_tokens: int | None
    precision: str
    seed: int
    name: str | None = None
    head_file: Path | None = None


class Rows(Protocol):
    """Texts made ready for a network.

    `lengths` (n,) int64 are their tokens, as they cost time; `truncated` (n,) bool says which were cut.
    """

    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    def inputs(self, rows: NDArray[np.intp], pass_: Pass) -> tuple[NDArray[Any], ...]:
        """Arrays for `Network.logits`: with masks in a training pass, without in an inference pass.

        Called from another thread than the one that trains.
        """


@dataclass(frozen=True, slots=True)
class Cached:
    """A part that is not trained: its vectors are computed once, by `encoder`, at `tap`."""

    encoder: Encoder
    tap: str


class Network(Protocol):
    """A classifier whose weights can be trained: any encoder, then dropout, then a dense layer that gives logits.

    Attributes
    ----------
    weights : mapping of str to keras.Variable
        All that is trained. Biases and norms end in ``bias``, ``beta`` or ``gamma``: they have no weight decay.
    cached : Cached or None
    notes : tuple of str
        Plain sentences that the user should see.
    """

    weights: Mapping[str, Any]
    cached: Cached | None
    notes: tuple[str, ...]

    def prepare(self, texts: Sequence[Text], vectors: Vectors | None) -> Rows:
        """Texts as rows; `vectors` are those of `cached`, where there is one."""

    def signature(self, training: bool) -> list[Any]:
        """A tf.TensorSpec for each of `Rows.inputs`."""

    def logits(self, inputs: Sequence[Any], training: bool) -> Any:
        """Logits (n, n_classes) as a graph, differentiable by `weights`."""

    def export(self, folder: Path) -> Mapping[str, str]:
        """Write the model in every format there is for it.

        Returns
        -------
        mapping of str to str
            Format to the path below `folder`; the one that `extract` is to take stands first.
        """


NETWORKS: Registry[Callable[[str, Request], Network]] = Registry(
    "network",
    {"hf": "embedsvc.models.bert_network:build", "recurrent": "embedsvc.models.recurrent.network:build"},
)


def build_network(uri: str, request: Request) -> Network:
    """The network for an encoder, by a name of the catalogue, a scheme out of `NETWORKS`, or a path.

    Raises
    ------
    ModelFormatError
        If the encoder cannot be loaded, or is of a kind that cannot be trained here.
    """
    from dataclasses import replace

    from embedsvc import catalog, fetching
    from embedsvc.models.load import LOADERS, recognise

    if uri in catalog.MODELS:
        named = catalog.MODELS[uri]
        location, scheme = str(fetching.fetch(named)), named.loader
        request = replace(request, name=uri, head_file=named.head_file)
    else:
        scheme, colon, location = uri.partition(":")
        if not colon or Path(uri).exists() or (scheme not in NETWORKS and scheme not in LOADERS):
            scheme, location = recognise(Path(uri)), uri
    if scheme not in NETWORKS:
        raise ModelFormatError(
            f"{uri} is loaded by {scheme}:, and such an encoder cannot be trained here",
            f"Kinds that can be: {', '.join(f'{kind}:' for kind in NETWORKS)}, or a name: {', '.join(catalog.MODELS)}.",
        )
    import_tensorflow()
    return NETWORKS[scheme](location, request)
