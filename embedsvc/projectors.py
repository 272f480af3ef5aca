"""What a way to draw several variants of the same texts on one plane is asked, and what it answers.

A projector fits a map once, on the reference variant, and says where every other variant lies on it. The contract
tests hold every registered one to that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedsvc.embeddings import EmbeddingSet
from embedsvc.knn import NeighborGraph
from embedsvc.types import Vectors

__all__ = ["Layout", "Method", "Projector", "Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """What to draw.

    Attributes
    ----------
    embeddings : EmbeddingSet
    reference : str
        The variant the map is fitted on.
    others : tuple of str
        Variants to place on it, none of them equal to the reference bit for bit, all in its space.
    seed : int
    n_neighbors : int
        Size of a neighbourhood where the method has one, the text itself included, as UMAP counts.
    graph : NeighborGraph or None
        Of the reference, by cosine, with `n_neighbors` - 1 neighbours or more, if it has been computed already.
    parameters : mapping
        Options of the library behind the method, as it names them.
    """

    embeddings: EmbeddingSet
    reference: str
    others: tuple[str, ...]
    seed: int
    n_neighbors: int
    graph: NeighborGraph | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the texts lie.

    Attributes
    ----------
    coordinates : mapping of str to ndarray of shape (n, 2), float32
        The reference first, then the others in their order.
    parameters : mapping
        Everything that decides the map and is not in the request, JSON values.
    sentence : str
        What was done, for reports.
    noise : ndarray of shape (n, 2, 2), float32, or None
        Covariance of each text's place under the head's mask, where the method gives it exactly.
    control : ndarray of shape (n,), float64, or None
        How far each text moves that went the way of the others without being another vector. Below, a displacement
        says nothing.
    """

    coordinates: Mapping[str, Vectors]
    parameters: Mapping[str, Any]
    sentence: str
    noise: NDArray[np.float32] | None = None
    control: NDArray[np.float64] | None = None


class Projector(Protocol):
    """One way to project."""

    def __call__(self, request: Request, /) -> Layout:
        """Fit on the reference, place the others.

        Raises
        ------
        DegenerateInputError
            For vectors it has no map for.
        SettingsError
            For parameters it does not know, or too few texts.
        """


@dataclass(frozen=True, slots=True)
class Method:
    """A projector, and what it declares.

    Attributes
    ----------
    project : Projector
    metric : {"euclidean", "cosine"}
        Distance between vectors that it wants to keep.
    fewest_texts : int
    neighborhoods : bool
        Whether `Request.n_neighbors` and `Request.graph` matter to it.
    independent : bool
        Whether a variant lies in the same place whatever other variants are drawn.
    """

    project: Projector
    metric: str
    fewest_texts: int
    neighborhoods: bool
    independent: bool
