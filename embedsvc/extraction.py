"""Texts through a model to blocks of vectors, and from files to a stored set.

Tokenising and writing happen in the caller's thread while a few workers encode, so that the encoder never waits for
either; at most two blocks are in memory.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import batching, masks
from embedsvc.errors import SettingsError
from embedsvc.machine import processors, version_of
from embedsvc.manifest import Manifest
from embedsvc.occupancy import Occupancy
from embedsvc.results import Columns, Result
from embedsvc.storage import Place, place
from embedsvc.types import Block, Mode, Pass, Text, Variant, Vectors, named_fields

if TYPE_CHECKING:
    from embedsvc.models import Encoder
    from embedsvc.models.base import LoadOptions
    from embedsvc.texts import ReadOptions

__all__ = [
    "Known",
    "Progress",
    "Recalled",
    "Settings",
    "Summary",
    "describe",
    "extract",
    "extract_files",
    "stored_passes",
]

_DEFAULT_TAPS = ("pre_dropout", "post_dropout", "logits")

Progress = Callable[[int, int], None]
"""Told after each batch how many texts and tokens it held; may be called from several threads."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """Rows of a block whose vectors are known already, all or some.

    Attributes
    ----------
    rows : ndarray of shape (m,), intp
        Positions in the block, ascending.
    vectors : mapping of str to ndarray of shape (m, width), float32
        Of the stored variants that all of these rows have; a pass of which one is lacking is encoded.
    n_tokens, truncated : ndarray of shape (m,)
        See `Forward`.
    """

    rows: NDArray[np.intp]
    vectors: Mapping[str, Vectors]
    n_tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]


Known = Callable[[Sequence[Text]], Recalled | None]
"""Asked for the rows of each block of which something need not be encoded; None if there is none."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to extract, and how.

    Attributes
    ----------
    taps : tuple of str
        Empty takes `pre_dropout`, `post_dropout` and, where the head is trained, `logits`.
    modes : tuple of Mode
    passes : int
        Passes of each stochastic mode; 0 without one.
    seed : int or None
        Of the masks; required by stochastic modes, refused without them.
    max_tokens : int or None
        Longest text in tokens, special ones included; None takes the model's limit.
    on_long : batching.OnLong
        What happens to longer texts.
    token_budget : int
        Tokens a batch. It changes speed, and the last bit of a vector at most; never a mask.
    rows_per_part : int
        Rows of a block, and of a part on disk: the unit of work that a kill can cost.
    """

    taps: tuple[str, ...] = ()
    modes: tuple[Mode, ...] = (Mode.INFERENCE,)
    passes: int = 0
    seed: int | None = None
    max_tokens: int | None = None
    on_long: batching.OnLong = batching.OnLong.TRUNCATE
    token_budget: int = 1024
    rows_per_part: int = 4096

    def __post_init__(self) -> None:
        object.__setattr__(self, "on_long", batching.OnLong(self.on_long))  # a plain "chunk-mean" is accepted
        for name in ("token_budget", "rows_per_part"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}, expected 1 or more")

    @classmethod
    def asked(cls, values: Mapping[str, Any]) -> Settings:
        """Settings out of what a command or a job was told, by the names of the fields; other names are left to others.

        Passes and seed may be None: where something is drawn they become 1 and 0.
        """
        drawn = any(mode.stochastic for mode in values["modes"])
        # Where nothing is drawn, a pass or a seed that was given is an error.
        passes = values["passes"] or (1 if drawn else 0)
        seed = 0 if values["seed"] is None and drawn else values["seed"]
        return cls(**named_fields(cls, values) | {"passes": passes, "seed": seed})


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


def describe(encoder: Encoder, settings: Settings, sources: Iterable[dict[str, object]] = ()) -> Manifest:
    """The manifest of a run that has not begun.

    Raises
    ------
    UnknownTapError
        For a tap that the model lacks.
    SettingsError
        For settings that contradict each other or the model.
    """
    from embedsvc.models.base import check_taps

    spec = encoder.spec
    check_taps(spec, settings.taps)
    batching.check_max_tokens(spec, settings.max_tokens)
    engine = getattr(encoder, "engine", "tensorflow")
    return Manifest(
        model=spec,
        head=encoder.head,
        taps=settings.taps or tuple(tap for tap in _DEFAULT_TAPS if tap in spec.taps),
        modes=settings.modes,
        passes=settings.passes,
        seed=settings.seed,
        max_tokens=settings.max_tokens,
        on_long=settings.on_long,
        precision=str(getattr(encoder, "precision", "float32")),
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

    Yields
    ------
    Block
        With one array for each *stored* variant; identical and virtual ones are made by readers.
    """
    manifest = describe(encoder, settings)
    workers = workers or processors()
    occupancy = occupancy or Occupancy()
    job = _Job(encoder, settings, stored_passes(manifest), known, progress, occupancy)
    stream = iter(texts)
    running: deque[_Running] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="embedsvc-encode")
    occupancy.begin(workers)
    try:
        index = 0
        while rows := tuple(islice(stream, settings.rows_per_part)):
            if index not in skip:
                running.append(job.start(index, rows, pool))
                if len(running) > 1:
                    yield job.finish(running.popleft())
            index += 1
        while running:
            yield job.finish(running.popleft())
    finally:
        # On an error or Ctrl-C: drop what has not begun, wait for what has (a batch is a fraction of a second).
        pool.shutdown(wait=True, cancel_futures=True)


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


@dataclass(frozen=True, slots=True)
class _Encoding:
    """Some rows of a block on their way through some passes; what is fitted, in arrays and futures are these rows."""

    texts: tuple[Text, ...]
    passes: dict[Pass, tuple[str, ...]]
    fitted: batching.Fitted
    arrays: dict[tuple[Pass, str], Vectors]
    futures: tuple[Future[None], ...]


@dataclass(frozen=True, slots=True)
class _Running:
    """A block whose batches are with the workers.

    Passes that no row has yet go over the whole block, in the batches of a block of which nothing is known; passes
    that some rows have go over the others.
    """

    index: int
    texts: tuple[Text, ...]
    recalled: Recalled | None
    whole: _Encoding | None
    fresh: _Encoding | None


@dataclass(frozen=True, slots=True)
class _Job:
    encoder: Encoder
    settings: Settings
    passes: dict[Pass, tuple[str, ...]]
    known: Known | None
    progress: Progress | None
    occupancy: Occupancy

    def start(self, index: int, texts: tuple[Text, ...], pool: ThreadPoolExecutor) -> _Running:
        """Tokenise a block, plan its batches and hand them to the workers."""
        recalled = self.known(texts) if self.known else None
        if recalled is None:
            return _Running(index, texts, None, self._hand(texts, self.passes, self.progress, pool), None)
        had = {
            pass_: taps
            for pass_, taps in self.passes.items()
            if all(name in recalled.vectors for name in _names(pass_, taps))
        }
        lacking = {pass_: taps for pass_, taps in self.passes.items() if pass_ not in had}
        old = frozenset(recalled.rows.tolist())
        rest = tuple(text for row, text in enumerate(texts) if row not in old)
        if lacking:
            # Its rows are counted once, with the passes that all of them lack.
            whole = self._hand(texts, lacking, self.progress, pool)
            return _Running(index, texts, recalled, whole, self._hand(rest, had, None, pool) if had else None)
        if self.progress:
            self.progress(len(old), 0)
        return _Running(index, texts, recalled, None, self._hand(rest, had, self.progress, pool))

    def _hand(
        self,
        texts: tuple[Text, ...],
        passes: dict[Pass, tuple[str, ...]],
        progress: Progress | None,
        pool: ThreadPoolExecutor,
    ) -> _Encoding:
        from embedsvc.models.base import encoder_taps

        spec, settings = self.encoder.spec, self.settings
        with self.occupancy.tokenizer():
            tokens = self.encoder.tokenize([text.text for text in texts])
        ids = [text.id for text in texts]
        fitted = batching.fit(tokens, ids, spec, max_tokens=settings.max_tokens, on_long=settings.on_long)
        arrays = {
            (pass_, tap): np.empty((len(fitted.pieces), spec.taps[tap]), dtype=np.float32)
            for pass_, taps in passes.items()
            for tap in encoder_taps(taps)
        }
        plan = batching.plan(fitted.pieces, token_budget=settings.token_budget, special_tokens=spec.special_tokens)
        futures = tuple(pool.submit(self._encode, rows, fitted, arrays, passes, progress) for rows in plan)
        return _Encoding(texts, passes, fitted, arrays, futures)

    def _encode(
        self,
        rows: np.ndarray,
        fitted: batching.Fitted,
        arrays: dict[tuple[Pass, str], Vectors],
        passes: dict[Pass, tuple[str, ...]],
        progress: Progress | None,
    ) -> None:
        """One batch through every pass, into its rows of the arrays."""
        from embedsvc.models.base import encoder_taps

        batch = fitted.pieces.take(rows)
        with self.occupancy.batch():
            for pass_, taps in passes.items():
                vectors = self.encoder.encode(batch, keys=fitted.keys[rows], taps=encoder_taps(taps), pass_=pass_)
                for tap, value in vectors.items():
                    arrays[pass_, tap][rows] = value
        if progress:
            # A row of several pieces counts with its first.
            whole = (
                rows if len(fitted.rows) == len(fitted.n_tokens) else rows[np.diff(fitted.rows, prepend=-1)[rows] > 0]
            )
            progress(len(whole), int(np.maximum(batch.counts + self.encoder.spec.special_tokens, 0).sum()))

    def finish(self, block: _Running) -> Block:
        """Wait for a block's batches and put together what was known and what is new."""
        whole = self._vectors(block.whole) if block.whole else {}
        fresh = self._vectors(block.fresh) if block.fresh else {}
        if block.recalled is not None:
            old = block.recalled
            fresh = {name: _woven(old.rows, old.vectors[name], each) for name, each in fresh.items()}
        if block.whole is not None:
            n_tokens, truncated = block.whole.fitted.n_tokens, block.whole.fitted.truncated
        else:
            assert block.recalled is not None and block.fresh is not None
            n_tokens = _woven(old.rows, old.n_tokens, block.fresh.fitted.n_tokens)
            truncated = _woven(old.rows, old.truncated, block.fresh.fitted.truncated)
        return Block(
            index=block.index,
            offset=block.index * self.settings.rows_per_part,
            texts=block.texts,
            n_tokens=n_tokens,
            truncated=truncated,
            vectors=whole | fresh,
        )

    def _vectors(self, encoding: _Encoding) -> dict[str, Vectors]:
        """Wait for an encoding, and add the head's taps."""
        from embedsvc.models.base import head_vectors

        for future in encoding.futures:
            future.result()
        keys = masks.row_keys(text.id for text in encoding.texts)
        merged = {key: encoding.fitted.merge(value) for key, value in encoding.arrays.items()}
        vectors: dict[str, Vectors] = {}
        for pass_, taps in encoding.passes.items():
            made = {tap: merged[pass_, tap] for tap in taps if (pass_, tap) in merged}
            if (pass_, "pre_dropout") in merged:
                made |= head_vectors(self.encoder.head, merged[pass_, "pre_dropout"], keys, taps, pass_)
            vectors |= dict(zip(_names(pass_, taps), (made[tap] for tap in taps), strict=True))
        return vectors


def _names(pass_: Pass, taps: Iterable[str]) -> tuple[str, ...]:
    """The variants that a pass gives."""
    return tuple(str(Variant(tap, pass_.mode, pass_.index)) for tap in taps)


def _woven(rows: NDArray[np.intp], old: NDArray[Any], fresh: NDArray[Any]) -> NDArray[Any]:
    """One array of the rows known before, which go to `rows`, and the fresh ones, which take the places left."""
    every = np.empty((len(old) + len(fresh), *fresh.shape[1:]), dtype=fresh.dtype)
    places = np.ones(len(every), dtype=np.bool_)
    places[rows] = False
    every[rows] = old
    every[places] = fresh
    return every


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
