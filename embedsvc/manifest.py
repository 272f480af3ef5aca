"""What a set of embeddings is: its model, settings, sources and variants, and what came of the run.

The manifest has two halves. Its *identity* says everything that decides the vectors: two runs with one identity give
the same bytes. Its *results* (rows, tokens, parts …) are known at the end. Neither holds a time stamp or a duration,
so the files of two equal runs are equal byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Self

from embedsvc import masks
from embedsvc.errors import EmbedsvcError, SettingsError, StoreError
from embedsvc.head import Head
from embedsvc.schema import FORMAT, LISTED, SCHEMA, damaged, read
from embedsvc.types import DropoutSite, Mode, ModelSpec, Variant, check_seed

__all__ = ["SCHEMA", "Manifest", "Part", "summarise"]

_PRE, _POST, _LOGITS = "pre_dropout", "post_dropout", "logits"
_RESULTS = ("complete", "rows", "tokens", "truncated", "rejected", "parts")


@dataclass(frozen=True, slots=True)
class Part:
    """One finished block of rows: a file of a directory, or a row group of a single file.

    Attributes
    ----------
    name : str
        ``part-00000.parquet``, the file it is, or was before it became row group 0.
    rows : int
    sha256 : str
        Over the content of its rows, whatever the file format (see `arrow.digest`).
    """

    name: str
    rows: int
    sha256: str

    def __post_init__(self) -> None:
        # A manifest may come from anywhere; a name must never lead out of its folder.
        if not re.fullmatch(r"part-\d{5,}\.parquet", self.name):
            raise SettingsError(f"{self.name!r} is no name of a part, expected for example part-00000.parquet")


@dataclass(frozen=True, eq=False)
class Manifest:
    """Provenance of one set of embeddings.

    Attributes
    ----------
    model : ModelSpec
    head : Head
        With its weights: readers draw virtual variants from it.
    taps : tuple of str
        The taps asked for, in the order of their columns.
    modes : tuple of Mode
        Kept in the order inference, training, head, whatever order they come in.
    passes : int
        Passes of each stochastic mode; 0 without one.
    seed : int or None
        None without a stochastic mode.
    max_tokens : int or None
        Limit asked for; None for the model's own.
    on_long : str
        A value of `batching.OnLong`.
    precision : str
        Of the computation; vectors are float32 always.
    token_budget : int
        Tokens a batch.
    rows_per_part : int
        Part k holds the rows from ``k * rows_per_part`` on; only the last one may hold fewer.
    engine : str
        What ran the encoder.
    sources : tuple of mapping
        ``{"name", "sha256", "rows", "rejected"}`` of each input, JSON values only.
    versions : mapping of str to str
        Versions of the libraries that decide the vectors.
    mask_version : int
        `masks.MASK_VERSION` of the run.
    complete : bool
        Whether the run is finished. Only then are the next five known.
    rows, tokens, truncated, rejected : int or None
        Rows stored; tokens the model read (where it can tell); rows cut short; rows skipped.
    parts : tuple of Part

    Raises
    ------
    SettingsError
        For settings that contradict each other.
    """

    model: ModelSpec
    head: Head
    taps: tuple[str, ...]
    modes: tuple[Mode, ...]
    passes: int
    seed: int | None
    max_tokens: int | None
    on_long: str
    precision: str
    token_budget: int
    rows_per_part: int
    engine: str
    sources: tuple[Mapping[str, Any], ...]
    versions: Mapping[str, str]
    mask_version: int = masks.MASK_VERSION
    complete: bool = False
    rows: int | None = None
    tokens: int | None = None
    truncated: int | None = None
    rejected: int | None = None
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("taps", self.taps), ("modes", self.modes)):
            if not value:
                raise SettingsError(f"{name} is empty, expected at least one")
            if len(set(value)) < len(value):
                raise SettingsError(f"{name} names something twice: {', '.join(value)}")
        modes = tuple(mode for mode in Mode if mode in {Mode(mode) for mode in self.modes})
        object.__setattr__(self, "modes", modes)  # frozen, so this is the one way to put them in order
        for tap in self.taps:
            if tap not in self.model.taps:
                raise SettingsError(f"{self.model.uri} has no tap {tap!r}", f"It has: {', '.join(self.model.taps)}")
        if any(mode.stochastic for mode in modes):
            if self.passes < 1 or self.seed is None:
                raise SettingsError(
                    f"{' and '.join(mode for mode in modes if mode.stochastic)} mode needs passes and a seed, "
                    f"got passes {self.passes} and seed {self.seed}",
                    "Give both, for example 8 passes and seed 7.",
                )
            check_seed(self.seed)
        elif self.passes or self.seed is not None:
            raise SettingsError(
                "inference draws nothing, so it takes no passes and no seed; got "
                + " and ".join(
                    [f"{self.passes} passes"] * bool(self.passes) + [f"seed {self.seed}"] * (self.seed is not None)
                ),
                "Leave them out, or ask for training or head mode as well.",
            )
        if self.rows_per_part < 1:
            raise SettingsError(f"rows_per_part is {self.rows_per_part}, expected 1 or more")

    @cached_property
    def stored(self) -> tuple[str, ...]:
        """Names of the variants that have a column, in the order of the columns."""
        return tuple(
            name for name in self.variants if name not in self.identical and Variant.parse(name).mode is not Mode.HEAD
        )

    @cached_property
    def identical(self) -> Mapping[str, str]:
        """Variants equal bit for bit to a stored one, and that one: dropout does nothing in inference mode."""
        if Mode.INFERENCE not in self.modes or _POST not in self.taps:
            return {}
        return {f"{_POST}.{Mode.INFERENCE}": f"{_PRE}.{Mode.INFERENCE}"}

    @cached_property
    def virtual(self) -> tuple[str, ...]:
        """Variants that are not stored: readers draw them from `pre_dropout.inference` and the seed."""
        return tuple(name for name in self.variants if Variant.parse(name).mode is Mode.HEAD)

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """Every variant asked for and the `pre_dropout.inference` that head passes need: by mode, tap and pass."""
        taps = {
            Mode.INFERENCE: self.taps,
            Mode.TRAINING: self.taps,
            # The encoder does not draw in head mode: its taps are those of inference.
            Mode.HEAD: tuple(t for t in self.taps if t == _POST or (t == _LOGITS and self.head.kernel is not None)),
        }
        names = [
            str(Variant(tap, mode, index))
            for mode in self.modes
            for tap in taps[mode]
            for index in (range(self.passes) if mode.stochastic else (None,))
        ]
        base = f"{_PRE}.{Mode.INFERENCE}"
        if base not in names and (Mode.HEAD in self.modes or f"{_POST}.{Mode.INFERENCE}" in names):
            names.insert(0, base)
        return tuple(names)

    def width(self, variant: str) -> int:
        """Width of a variant's vectors."""
        return self.model.taps[Variant.parse(variant).tap]

    @cached_property
    def identity(self) -> str:
        """SHA-256 (hex) over everything but the results: equal for runs that give the same vectors."""
        return hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode()).hexdigest()

    def unfinished(self) -> Self:
        """The same identity without results: the manifest as the run began."""
        return replace(self, complete=False, rows=None, tokens=None, truncated=None, rejected=None, parts=())

    def differences(self, stored: Manifest) -> list[str]:
        """One sentence for each difference between this run's identity and a stored one; empty if there is none.

        For example ``seed: this run has 7, the stored one 8``.
        """
        ours, theirs = (dict(_leaves(manifest._identity())) for manifest in (self, stored))
        found = [
            f"{path}: this run has {ours.get(path, 'none')}, the stored one {theirs.get(path, 'none')}"
            for path in dict.fromkeys([*ours, *theirs])
            if ours.get(path) != theirs.get(path)
        ]
        if not found and self.identity != stored.identity:
            found.append(f"identity: this run has {self.identity[:12]}, the stored one {stored.identity[:12]}")
        return found

    def __eq__(self, other: object) -> bool:
        # Heads hold arrays, which have no truth value of equality; their JSON is lossless.
        return isinstance(other, Manifest) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def to_json(self) -> str:
        """The manifest as JSON text, the same for equal manifests."""
        results = {name: getattr(self, name) for name in _RESULTS} | {"parts": [asdict(part) for part in self.parts]}
        listed = {"columns": list(self.stored), "identical": dict(self.identical)}
        data = {"format": FORMAT, "schema": SCHEMA, **self._identity(), **listed, **results}
        # Escaped, because a source may be a file whose name is no valid UTF-8.
        return json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, origin: str = "the manifest") -> Self:
        """The manifest that `to_json` wrote.

        Parameters
        ----------
        text : str or bytes
        origin : str
            Where it was read, for messages.

        Raises
        ------
        StoreError
            If it is torn, foreign, of a newer schema, or holds something this schema does not know.
        """
        data = read(text, origin)
        try:
            return cls._from_fields(data, origin)
        except StoreError:
            raise
        except (EmbedsvcError, ValueError, TypeError, KeyError) as error:
            raise damaged(f"{origin}: {error}") from error

    @classmethod
    def _from_fields(cls, data: dict[str, Any], origin: str) -> Self:
        sites = tuple(
            DropoutSite(**(site | {"modes": tuple(map(Mode, site["modes"]))})) for site in data["model"]["sites"]
        )
        model = ModelSpec(**(data["model"] | {"sites": sites, "notes": tuple(data["model"]["notes"])}))
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        for name in LISTED:
            del values[name]
        values |= {
            "model": model,
            "head": Head.from_json(data["head"]),
            "modes": tuple(map(Mode, data["modes"])),
            "parts": tuple(Part(**part) for part in data["parts"]),
        }
        manifest = cls(**values)
        if data["columns"] != list(manifest.stored) or data["identical"] != manifest.identical:
            raise damaged(f"{origin}: its columns do not follow from its taps, modes and passes")
        return manifest

    def _identity(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _RESULTS}
        return values | {
            "model": asdict(replace(self.model, taps=dict(self.model.taps))),
            "head": self.head.to_json(),
            "sources": [dict(source) for source in self.sources],
            "versions": dict(sorted(self.versions.items())),
        }


def summarise(variants: Iterable[str]) -> str:
    """Names of variants on one line, runs of passes drawn together.

    >>> summarise(["cls.inference", "cls.training.0", "cls.training.1", "cls.training.2"])
    'cls.inference, cls.training.0 … 2'
    """
    parsed = map(Variant.parse, variants)
    # Within a run of consecutive passes, index minus position stays the same.
    runs = groupby(enumerate(parsed), lambda item: (item[1].tap, item[1].mode, (item[1].index or 0) - item[0]))
    words = []
    for _, run in runs:
        names = [variant for _, variant in run]
        words.append(f"{names[0]}" + (f" … {names[-1].index}" if len(names) > 1 else ""))
    return ", ".join(words)


def _leaves(data: Any, path: str = "") -> Iterable[tuple[str, str]]:  # noqa: ANN401 - any JSON value
    """Dotted paths and values of a JSON tree, digests and weights shortened, a source on one line."""
    if path == "sources":
        for source in data:
            words = [f"{key} {text}" for key, text in _leaves(source) if key != "name"]
            yield f"source {source.get('name')}", ", ".join(words)
    elif isinstance(data, Mapping) and "float32" in data:
        yield path, f"weights {hashlib.sha256(json.dumps(data).encode()).hexdigest()[:12]}"
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(data, (list, tuple)) and any(isinstance(item, Mapping) for item in data):
        for at, item in enumerate(data):
            yield from _leaves(item, f"{path}[{at}]")
    elif isinstance(data, (list, tuple)):
        yield path, ", ".join(map(str, data)) or "none"
    else:
        digest = isinstance(data, str) and re.fullmatch("[0-9a-f]{64}", data)
        yield path, "none" if data is None else str(data)[:12] if digest else str(data)
