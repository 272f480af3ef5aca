"""Reading a set of embeddings: every variant by its name, be it stored, identical to a stored one, or drawn."""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks, plots
from embedsvc.colors import BLUE, RED
from embedsvc.columns import Arrays, Held, Parquet, Source
from embedsvc.errors import SettingsError, StoreError, UnknownVariantError, did_you_mean
from embedsvc.manifest import Manifest, summarise
from embedsvc.results import Columns, Result, pandas_frame, polars_frame
from embedsvc.storage import Place, place
from embedsvc.stored import pieces_of
from embedsvc.types import Block, Mode, Pass, Text, Variant, Vectors

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["EmbeddingSet", "SetOrPath", "as_set"]

_BASE = "pre_dropout.inference"
# Of a data frame, as in the files.
_COLUMNS = {"id": "ids", "text": "texts", "label": "labels", "n_tokens": "n_tokens", "truncated": "truncated"}


class EmbeddingSet(Result):
    """The embeddings of one run, read column by column when asked for.

    ``set["post_dropout.head.3"]`` gives an array of shape (n_texts, width), float32, C-contiguous. Head passes are
    drawn from the stored `pre_dropout` and the seed, any number of them, those beyond the manifest's too. What is in
    the vectors is passed on as it is, NaN included. Make one with `EmbeddingSet.read`.

    Attributes
    ----------
    manifest : Manifest
    path : Path
        Where it was read.
    """

    def __init__(self, path: Place, manifest: Manifest, source: Source) -> None:
        self.path = path
        self.manifest = manifest
        self._source = source
        self._kept: dict[str, Vectors] | None = None

    @classmethod
    def read(cls, path: str | Place, *, allow_partial: bool = False) -> Self:
        """Open a set; vectors are read when asked for.

        Parameters
        ----------
        path : str or Place
            A directory or single Parquet file that `extract` wrote, on a disk or an address such as
            ``s3://bucket/out``; or an ``.npz`` made from one, on a disk.
        allow_partial : bool
            Read the finished parts of an unfinished set, instead of raising.

        Raises
        ------
        StoreError
            If there is no set, or it is unfinished, torn or of a newer version.
        """
        path = place(path)
        if isinstance(path, Path) and path.is_file() and zipfile.is_zipfile(path):
            arrays = Arrays(path)
            return cls(path, arrays.manifest, arrays)
        if path.suffix in (".csv", ".jsonl", ".tsv", ".txt") and path.is_file():
            raise StoreError(
                f"{path} is no set of embeddings: it holds texts, or an export for other programs",
                f"Of texts make a set first: embedsvc extract {shlex.quote(str(path))} -o {path.stem}.parquet. Of a "
                "set that was exported read the folder, .parquet or .npz.",
            )
        manifest, pieces = pieces_of(path, allow_partial=allow_partial)
        return cls(path, manifest, Parquet(manifest, pieces))

    @classmethod
    def hold(cls, manifest: Manifest, blocks: Iterable[Block], *, name: str = "memory") -> Self:
        """A set of blocks in memory, such as `extract` yields; nothing is written.

        Parameters
        ----------
        manifest : Manifest
            See `extraction.describe`.
        blocks : iterable of Block
            With the stored variants of the manifest.
        name : str
            What messages call it, in place of a path.
        """
        return cls(Path(name), manifest, Held(manifest, blocks))

    def __len__(self) -> int:
        return sum(self._source.sizes)

    def __repr__(self) -> str:
        state = "" if self.manifest.complete else ", unfinished"
        return f"<EmbeddingSet {str(self.path)!r}: {len(self)} texts{state}; {summarise(self.variants)}>"

    def to_pandas(self, variants: Sequence[str] = ()) -> pd.DataFrame:
        """A row for each text, and a column of vectors for each variant that is named, as a pandas data frame.

        Parameters
        ----------
        variants : sequence of str
            Any that ``set[name]`` gives; none by default.

        Raises
        ------
        UnknownVariantError
        MissingExtraError
            If pandas is not installed.
        """
        return pandas_frame({**self._table(), **{name: self[name] for name in variants}})

    def to_polars(self, variants: Sequence[str] = ()) -> pl.DataFrame:
        """The same as a polars data frame; vectors are of type Array."""
        return polars_frame({**self._table(), **{name: self[name] for name in variants}})

    def plot(self, *, figure: plots.MplFigure = None) -> plots.MplFigure:
        """What is in the set: lengths of the texts, and how many have which label. For maps see `project`.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; by default a new one, which shows itself in a notebook.
        """
        figure = plots.canvas((10, 3.2), figure)
        left, right = figure.subplots(1, 2)
        edges = np.histogram_bin_edges(self.n_tokens, bins=min(40, max(int(np.ptp(self.n_tokens)), 1)))
        lengths = [self.n_tokens[~self.truncated], self.n_tokens[self.truncated]]
        left.hist(lengths, edges, stacked=True, color=[BLUE, RED], label=["whole", "cut short"])
        left.set(xlabel="tokens", ylabel="texts")
        left.legend(fontsize=8, frameon=False)
        labels, counts = np.unique(
            ["no label" if label is None else label for label in self.labels], return_counts=True
        )
        largest = np.argsort(counts)[-12:]
        right.barh(labels[largest], counts[largest], color=BLUE)
        right.set_xlabel("texts")
        for axes in (left, right):
            plots.clean(axes)
        return figure

    def _facts(self) -> dict[str, object]:
        seed = {} if self.manifest.seed is None else {"seed": self.manifest.seed}
        return {"path": self.path, "texts": len(self), "model": self.manifest.model.uri, **seed}

    def _table(self) -> Columns:
        return {name: getattr(self, attribute) for name, attribute in _COLUMNS.items()}

    def _summary(self) -> Columns:
        """A row for each variant."""
        kept = {
            **dict.fromkeys(self.manifest.virtual, "drawn when read"),
            **dict.fromkeys(self.manifest.stored, "stored"),
        }
        kept |= {name: f"is {same}" for name, same in self.manifest.identical.items()}
        passes: dict[str, list[str]] = {}
        for name in self.variants:
            passes.setdefault(Variant.parse(name).kind, []).append(name)
        return {
            "variant": [summarise(names) for names in passes.values()],
            "width": [self.manifest.width(names[0]) for names in passes.values()],
            "kept as": [kept.get(names[0], "") for names in passes.values()],
        }

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants that the run was asked for."""
        return self.manifest.variants

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Id of each text."""
        return tuple(self._values("id"))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The texts."""
        return tuple(self._values("text"))

    @cached_property
    def labels(self) -> tuple[str | None, ...]:
        """Label of each text, None where it has none."""
        return tuple(self._values("label"))

    @cached_property
    def n_tokens(self) -> NDArray[np.int64]:
        """Tokens the model read of each text, special ones included; -1 where it could not tell. Shape (n,)."""
        return np.fromiter(self._values("n_tokens"), np.int64, len(self))

    @cached_property
    def truncated(self) -> NDArray[np.bool_]:
        """Whether each text was cut short. Shape (n,)."""
        return np.fromiter(self._values("truncated"), np.bool_, len(self))

    def __getitem__(self, variant: str) -> Vectors:
        if self._kept is None:
            return self._read(variant)
        variant = self.manifest.identical.get(variant, variant)
        if variant not in self._kept:
            self._kept[variant] = self._read(variant)
            self._kept[variant].flags.writeable = False
        return self._kept[variant]

    def keeping(self) -> Self:
        """The same set, which keeps the vectors it once gave: read-only, for several analyses of the same variants."""
        made = type(self)(self.path, self.manifest, self._source)
        made._kept = {}
        return made

    def _read(self, variant: str) -> Vectors:
        recipe = self._recipe(variant)
        vectors = np.empty((len(self), self.manifest.width(variant)), dtype=np.float32)
        start = 0
        for part in self._parts:
            stop = start + self._source.sizes[part]
            columns = self._source.part(part, recipe.columns)
            vectors[start:stop] = recipe.make(columns)
            start = stop
        return vectors

    def __contains__(self, variant: object) -> bool:
        try:
            self._recipe(str(variant))
        except UnknownVariantError:
            return False
        return True

    def reseeded(self, seed: int) -> Self:
        """The same set with its head passes drawn under another seed; itself if it has none, and so no such passes.

        Raises
        ------
        SettingsError
            For a seed out of range.
        """
        if self.manifest.seed is None:
            return self
        return type(self)(self.path, replace(self.manifest, seed=seed), self._source)

    def iter_blocks(self, variants: Sequence[str] | None = None, *, rows: int | None = None) -> Iterator[Block]:
        """The set in pieces, in order, holding one part in memory at a time.

        Parameters
        ----------
        variants : sequence of str, optional
            All by default.
        rows : int, optional
            At most so many rows a block; blocks end where parts end. By default a block is a part.

        Raises
        ------
        UnknownVariantError
            At once, not at the first block.
        SettingsError
            If `rows` is less than 1.
        """
        if rows is not None and rows < 1:
            raise SettingsError(f"rows is {rows}, expected 1 or more")
        names = self.variants if variants is None else tuple(variants)
        return self._blocks({name: self._recipe(name) for name in names}, rows)

    def _blocks(self, recipes: dict[str, _Recipe], rows: int | None) -> Iterator[Block]:
        plain = ["id", "text", "label", "n_tokens", "truncated"]
        columns = list(dict.fromkeys([*plain, *(c for recipe in recipes.values() for c in recipe.columns)]))
        index = offset = 0
        for part in self._parts:
            values = self._source.part(part, columns)
            texts = tuple(map(Text, values["id"], values["text"], values["label"]))
            vectors = {name: recipe.make(values) for name, recipe in recipes.items()}
            step = rows or max(len(texts), 1)
            for start in range(0, len(texts), step):
                cut = slice(start, start + step)
                yield Block(
                    index,
                    offset,
                    texts[cut],
                    values["n_tokens"][cut],
                    values["truncated"][cut],
                    {name: vector[cut] for name, vector in vectors.items()},
                )
                index += 1
                offset += len(texts[cut])

    @property
    def _parts(self) -> range:
        return range(len(self._source.sizes))

    def _values(self, column: str) -> Iterator[Any]:
        for part in self._parts:
            yield from self._source.part(part, [column])[column]

    def _recipe(self, name: str) -> _Recipe:
        """How a variant is made of columns: its own, but for head passes, which follow the seed of the manifest."""
        if name in self._source.columns and name not in self.manifest.virtual:
            return _Recipe([name], lambda columns: columns[name])
        try:
            variant = Variant.parse(name)
        except SettingsError:
            raise self._unknown(name) from None
        head, seed = self.manifest.head, self.manifest.seed
        drawn = variant.tap == "post_dropout" or (variant.tap == "logits" and head.kernel is not None)
        if _BASE not in self._source.columns or not drawn:
            raise self._unknown(name)
        if variant == Variant("post_dropout", Mode.INFERENCE):
            return _Recipe([_BASE], lambda columns: columns[_BASE])
        if variant.mode is Mode.HEAD and seed is not None:
            pass_ = Pass(Mode.HEAD, variant.index, seed)

            def draw(columns: dict[str, Any]) -> Vectors:
                post = head.post(columns[_BASE], masks.row_keys(columns["id"]), pass_)
                return post if variant.tap == "post_dropout" else head.logits(post)

            return _Recipe([_BASE, "id"], draw)
        raise self._unknown(name)

    def _unknown(self, name: str) -> UnknownVariantError:
        tap, _, rest = name.rpartition(".head.")
        near = [each for each in self.variants if each.startswith(f"{name}.")]  # a tap, or a mode without its pass
        if rest.isdecimal() and f"{tap}.inference" in self and tap != "logits" and tap != "post_dropout":
            guess = f"Head mode leaves the encoder as it is: take {tap}.inference. "
        elif rest.isdecimal() and tap in ("post_dropout", "logits") and self.manifest.seed is None:
            guess = "Head passes need a seed, and this run had none: extract with --modes inference,head --seed 0. "
        else:
            guess = did_you_mean(name, near[:1] or self.variants, cutoff=0 if near else 0.8)
        return UnknownVariantError(
            f"{self.path} holds no variant {name!r}", f"{guess}It holds: {summarise(self.variants)}"
        )


SetOrPath: TypeAlias = EmbeddingSet | str | Place
"""What an analysis takes: a set, or where `EmbeddingSet.read` finds one."""


def as_set(embeddings: SetOrPath) -> EmbeddingSet:
    """The set itself, or the one at a path.

    Raises
    ------
    StoreError
        If there is none, see `EmbeddingSet.read`.
    SettingsError
        If it is neither.
    """
    if isinstance(embeddings, EmbeddingSet):
        return embeddings
    if isinstance(embeddings, (str, Place)):
        return EmbeddingSet.read(embeddings)
    raise SettingsError(
        f"got {type(embeddings).__name__}, expected an embedding set or its path",
        "Give what `extract` wrote or EmbeddingSet.read returns.",
    )


@dataclass(frozen=True, slots=True)
class _Recipe:
    columns: list[str]
    make: Callable[[dict[str, Any]], Vectors]
