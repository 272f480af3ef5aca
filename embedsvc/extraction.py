"""From texts to blocks of vectors, and from files to a stored set."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from embedsvc import batching, plots
from embedsvc.machine import processors, version_of
from embedsvc.manifest import Manifest
from embedsvc.occupancy import Occupancy
from embedsvc.results import Columns, Result
from embedsvc.settings import Settings
from embedsvc.storage import Place, place
from embedsvc.streaming import Known, Progress, stream
from embedsvc.types import Block, ModelSpec, Pass, Text, Variant

if TYPE_CHECKING:
    from embedsvc.head import Head
    from embedsvc.models import Encoder
    from embedsvc.models.base import LoadOptions
    from embedsvc.texts import ReadOptions

__all__ = [
    "Settings",
    "Summary",
    "describe",
    "extract",
    "extract_files",
    "manifest_of",
    "stored_passes",
]

_DEFAULT_TAPS = ("pre_dropout", "post_dropout", "logits")


@dataclass(frozen=True, slots=True, repr=False)
class Summary(Result):
    """What a run did.

    Attributes
    ----------
    path : Place
        Of the set.
    manifest : Manifest
        Complete.
    new_rows, new_tokens : int
        Encoded by this run; the rest was there already.
    seconds : float
        From the first batch to the last part on disk, without loading the model.
    load_seconds : float
    waiting : float or None
        Share of the encoding workers' time without a batch to encode (`Occupancy.waiting`); None if nothing was
        encoded.
    rejected_path : Place or None
        Where skipped rows are listed.
    """

    path: Place
    manifest: Manifest
    new_rows: int
    new_tokens: int
    seconds: float
    load_seconds: float
    waiting: float | None
    rejected_path: Place | None

    def _facts(self) -> dict[str, object]:
        manifest = self.manifest
        facts: dict[str, object] = {
            "set": self.path,
            "texts": manifest.rows,
            "new": self.new_rows,
            "tokens": manifest.tokens,
        }
        facts |= {"truncated": manifest.truncated, "skipped": manifest.rejected, "model": manifest.model.uri}
        return facts | {"seconds": self.seconds}

    def _table(self) -> Columns:
        """A row for each variant: whether it is stored, and what it is where it is not."""
        manifest = self.manifest
        kinds = dict.fromkeys(manifest.stored, "stored")
        kinds |= {name: f"is {other}, bit for bit" for name, other in manifest.identical.items()}
        kinds |= dict.fromkeys(manifest.virtual, "drawn when read")
        return {"variant": manifest.variants, "how": [kinds[name] for name in manifest.variants]}

    def plot(self, *, figure: plots.MplFigure = None) -> plots.MplFigure:
        """What there is of each tap: how many passes are stored, the same as others, or drawn when read.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; by default a new one, which shows itself in a notebook.
        """
        manifest = self.manifest
        kept = {
            "stored": manifest.stored,
            "the same as another": manifest.identical,
            "drawn when read": manifest.virtual,
        }
        tallies = {how: Counter(Variant.parse(name).kind for name in names) for how, names in kept.items()}
        kinds = list(dict.fromkeys(Variant.parse(name).kind for name in manifest.variants))
        figure = plots.canvas((7.0, 1.1 + 0.3 * len(kinds)), figure)
        counts = {how: [tally[kind] for kind in kinds] for how, tally in tallies.items()}
        plots.stacked(figure, kinds, counts, label="variants")
        return figure


def describe(encoder: Encoder, settings: Settings, sources: Iterable[dict[str, object]] = ()) -> Manifest:
    """The manifest of a run that has not begun.

    Raises
    ------
    UnknownTapError
        For a tap that the model lacks.
    SettingsError
        For settings that contradict each other or the model.
    """
    return manifest_of(
        *(encoder.spec, encoder.head, settings, sources),
        engine=getattr(encoder, "engine", "tensorflow"),
        precision=str(getattr(encoder, "precision", "float32")),
    )


def manifest_of(
    spec: ModelSpec,
    head: Head,
    settings: Settings,
    sources: Iterable[dict[str, object]] = (),
    *,
    engine: str,
    precision: str,
) -> Manifest:
    """As `describe`, of a model that is known by what it says of itself and need not be loaded."""
    from embedsvc.models.base import check_taps

    check_taps(spec, settings.taps)
    batching.check_max_tokens(spec, settings.max_tokens)
    return Manifest(
        model=spec,
        head=head,
        taps=settings.taps or tuple(tap for tap in _DEFAULT_TAPS if tap in spec.taps),
        modes=settings.modes,
        passes=settings.passes,
        seed=settings.seed,
        max_tokens=settings.max_tokens,
        on_long=settings.on_long,
        precision=precision,
        token_budget=settings.token_budget,
        rows_per_part=settings.rows_per_part,
        engine=engine,
        sources=tuple(sources),
        versions=_versions(engine),
    )


def extract(
    texts: Iterable[Text],
    encoder: Encoder,
    settings: Settings,
    *,
    skip: Collection[int] = (),
    known: Known | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    occupancy: Occupancy | None = None,
) -> Iterator[Block]:
    """Stream blocks of vectors, in the order of the texts.

    Parameters
    ----------
    texts : iterable of Text
        Consumed as needed.
    encoder : Encoder
    settings : Settings
    skip : collection of int
        Numbers of blocks that need not be computed; their texts are read and left out.
    known : callable, optional
        Says which rows of a block are encoded already; only the others are.
    workers : int, optional
        Batches under way at once; by default one for each processor that this process may use.
    progress : callable, optional
        See `Progress`.
    occupancy : Occupancy, optional
        A new one, to be filled.

    Returns
    -------
    iterator of Block
        With one array for each *stored* variant; identical and virtual ones are made by readers.
    """
    manifest = describe(encoder, settings)
    return stream(
        texts,
        encoder,
        settings,
        stored_passes(manifest),
        skip=skip,
        known=known,
        workers=workers or processors(),
        progress=progress,
        occupancy=occupancy or Occupancy(),
    )


def extract_files(
    sources: Sequence[str],
    out: str | Place,
    *,
    format_: str | None = None,
    model: str = "minilm-l6-sentiment",
    settings: Settings | None = None,
    read_options: ReadOptions | None = None,
    load_options: LoadOptions | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    started: Callable[[int, Manifest], Progress] | None = None,
) -> Summary:
    """Extract from files into a stored set; go on where a killed run stopped.

    The inputs are checked whole before the model is loaded.

    Parameters
    ----------
    sources : sequence of str
        Files, globs, folders, or ``-`` for standard input.
    out : str or Path
        A folder, or a file ending in .parquet, .npz, .csv or .jsonl.
    format_ : str, optional
        A name out of `formats.FORMATS`; None goes by the ending of `out`.
    model : str
        See `load_model`.
    settings : Settings, optional
    read_options : ReadOptions, optional
    load_options : LoadOptions, optional
    overwrite : bool
        Replace a set that is there under other settings.
    workers : int, optional
        See `extract`.
    started : callable, optional
        Called once with the rows there are in all and the manifest, returns the `Progress` to tell.

    Raises
    ------
    InputError
        For bad input, before any model is loaded where it can be known.
    ModelError, FetchError
        If the model cannot be loaded.
    StoreError
        If the output cannot be written, or holds something else.
    """
    from embedsvc import texts
    from embedsvc.formats import FORMATS
    from embedsvc.models import load_model
    from embedsvc.store import open_store

    settings = settings or Settings()
    format_ = _format(place(out), format_)
    export = None if format_ == "parquet" else FORMATS[format_]
    with tempfile.TemporaryDirectory(prefix="embedsvc-") as spool:
        scan = texts.scan(sources, read_options, spool=Path(spool))
        began = time.perf_counter()
        encoder = load_model(model, load_options)
        load_seconds = time.perf_counter() - began
        manifest = describe(encoder, settings, [asdict(source) for source in scan.sources])
        began = time.perf_counter()
        occupancy = Occupancy()
        with open_store(out, manifest, export=export, overwrite=overwrite) as store:
            rows_before, tokens_before = store.rows, store.tokens
            if not store.complete:
                progress = started(scan.rows, manifest) if started else None
                if progress and rows_before:
                    progress(rows_before, tokens_before)
                blocks = extract(
                    texts.read(scan),
                    encoder,
                    settings,
                    skip=store.done,
                    workers=workers,
                    progress=progress,
                    occupancy=occupancy,
                )
                for block in blocks:
                    store.write(block)
                store.finish(rows=scan.rows, rejected=[asdict(row) for row in scan.rejected])
            done = store.manifest
        return Summary(
            path=place(out),
            manifest=done,
            new_rows=(done.rows or 0) - rows_before,
            new_tokens=(done.tokens or 0) - tokens_before,
            seconds=time.perf_counter() - began,
            load_seconds=load_seconds,
            waiting=occupancy.waiting,
            rejected_path=_rejected_path(place(out), format_) if scan.rejected else None,
        )


def _format(path: Place, name: str | None) -> str:
    """Name of the output format: as asked, else by the ending of the path, else the store's own."""
    from embedsvc.formats import FORMATS

    suffix = path.suffix.removeprefix(".")
    name = name or (suffix if suffix in FORMATS else "parquet")
    FORMATS[name]  # an unknown name is an error before anything costly begins
    return name


def _rejected_path(path: Place, format_: str) -> Place:
    """Where the store lists skipped rows."""
    is_folder = format_ == "parquet" and path.suffix != ".parquet"
    return path / "rejected.jsonl" if is_folder else path.with_name(f"{path.stem}.rejected.jsonl")


def stored_passes(manifest: Manifest) -> dict[Pass, tuple[str, ...]]:
    """The forward passes behind the stored variants, and the taps of each: one pass gives all its taps."""
    passes: dict[Pass, tuple[str, ...]] = {}
    for variant in map(Variant.parse, manifest.stored):
        seed = manifest.seed if variant.mode.stochastic else None
        pass_ = Pass(variant.mode, variant.index, seed)
        passes[pass_] = (*passes.get(pass_, ()), variant.tap)
    return passes


def _versions(engine: str) -> dict[str, str]:
    """Versions of what decides the vectors and their bytes."""
    names: dict[str, tuple[str, ...]] = {name: (name,) for name in ("embedsvc", "numpy", "pyarrow")}
    if engine == "tensorflow":
        names |= {"tensorflow": ("tensorflow", "tensorflow-cpu"), "tokenizers": ("tokenizers",)}
    elif engine == "openvino":
        names |= {"openvino": ("openvino",), "tokenizers": ("tokenizers",)}
    return {name: _version(*distributions) for name, distributions in names.items()}


@cache
def _version(*distributions: str) -> str:
    return version_of(*distributions) or "unknown"
