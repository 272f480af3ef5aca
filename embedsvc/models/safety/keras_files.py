"""Keras files: `.keras` archives and HDF5, read only as far as it takes to know what loading them would do."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from embedsvc.errors import ModelFormatError, UnsafeModelError
from embedsvc.models.safety.keras_config import TRUST_HINT, check_config_text

__all__ = ["check_keras_archive", "check_keras_h5", "check_keras_weights"]

_MAX_MEMBERS = 10_000
_MAX_CONFIG = 64 << 20
# A member may not grow without bound while it is unpacked. Weights hardly compress; all zeros do, up to 1,030 times.
_FREE_SIZE, _MAX_RATIO = 64 << 20, 100
_PICKLES = {".npz", ".npy", ".pkl", ".pickle", ".pt", ".pth", ".bin"}
_TORN_HINT = "The file may be torn; copy or download it again."


def check_keras_archive(path: Path, *, trust: bool = False) -> None:
    """Check a `.keras` archive before Keras opens it (``load_model(path, compile=False)``).

    Parameters
    ----------
    path : Path
    trust : bool
        Skip what asks whether the model runs code; sizes, paths and whole files are checked all the same.

    Raises
    ------
    ModelFormatError
        If it is torn, foreign, climbs out of itself or unpacks to absurd sizes.
    UnsafeModelError
        If it holds Lambda layers, custom classes or pickles, or its weights lie in other files.
    """
    with _reading(path):
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                found = file.read(8)
            raise ModelFormatError(
                f"{path} is no whole .keras archive (a zip file): {path.stat().st_size:,} bytes that begin {found!r}",
                _TORN_HINT,
            )
        with zipfile.ZipFile(path) as archive:
            members = _check_members(path, archive)
            if "config.json" not in members:
                raise ModelFormatError(
                    f"{path} is no .keras archive: it has no config.json, found {', '.join(sorted(members)[:12])}"
                )
            if not trust:
                check_config_text(_config_of(path, archive), f"{path}, config.json")
            for name in members:
                if PurePosixPath(name).suffix in {".h5", ".hdf5"}:
                    with tempfile.TemporaryFile() as weights:
                        with archive.open(name) as packed:
                            shutil.copyfileobj(packed, weights, 1 << 20)
                        _check_hdf5(weights, f"{path}, {name}", trust=trust)
                elif PurePosixPath(name).suffix in _PICKLES and not trust:
                    raise UnsafeModelError(f"{path} holds {name}, which may be a pickle", TRUST_HINT)


def check_keras_h5(path: Path, *, trust: bool = False) -> None:
    """Check a Keras model in HDF5 before Keras opens it. Parameters and errors as in `check_keras_archive`."""
    with _reading(path), path.open("rb") as file:
        config = _check_hdf5(file, str(path), trust=trust)
        if config is None:
            raise ModelFormatError(
                f"{path} holds no model: the attribute model_config is missing",
                "It may hold weights only. Save the whole model: model.save(...).",
            )
        if not trust:
            check_config_text(config, f"{path}, model_config")


def check_keras_weights(path: Path, *, trust: bool = False) -> None:
    """Check an HDF5 file of weights alone, as presets have it. Parameters and errors as in `check_keras_archive`."""
    with _reading(path), path.open("rb") as file:
        _check_hdf5(file, str(path), trust=trust)


def _check_members(path: Path, archive: zipfile.ZipFile) -> set[str]:
    infos = archive.infolist()
    names = {info.filename for info in infos}
    if len(infos) > _MAX_MEMBERS:
        raise ModelFormatError(f"{path} has {len(infos):,} members, expected at most {_MAX_MEMBERS:,}")
    if len(names) < len(infos):
        raise ModelFormatError(f"{path} holds two members of the same name: readers differ on which one counts")
    for info in infos:
        name = PurePosixPath(info.filename)
        is_link = info.external_attr >> 28 == 0o12
        if name.is_absolute() or ".." in name.parts or "\\" in info.filename or ":" in name.parts[0] or is_link:
            raise ModelFormatError(f"{path}: the member {info.filename!r} points out of the archive")
        if info.file_size > _FREE_SIZE and info.file_size > _MAX_RATIO * info.compress_size:
            raise ModelFormatError(
                f"{path}: the member {info.filename!r} unpacks from {info.compress_size:,} to {info.file_size:,} "
                f"bytes, expected at most {_MAX_RATIO} times"
            )
    if sum(info.compress_size for info in infos) > path.stat().st_size:
        raise ModelFormatError(f"{path}: its members overlap: together they are larger than the file")
    return names


def _config_of(path: Path, archive: zipfile.ZipFile) -> bytes:
    size = archive.getinfo("config.json").file_size
    if size > _MAX_CONFIG:
        raise ModelFormatError(f"{path}: config.json has {size:,} bytes, expected at most {_MAX_CONFIG:,}")
    return archive.read("config.json")


def _check_hdf5(file: IO[bytes], where: str, *, trust: bool) -> str | bytes | None:
    """Refuse HDF5 that reaches into other files; give its model_config, if it has one."""
    import h5py

    with h5py.File(file, "r") as root:
        for name, thing in _walk(root):
            if isinstance(thing, str) and not trust:
                raise UnsafeModelError(f"{where}: {name!r} is {thing}", TRUST_HINT)
            # A dataset may keep its numbers in any file of this machine, or be put together from several.
            if isinstance(thing, h5py.Dataset) and (thing.external or thing.is_virtual) and not trust:
                raise UnsafeModelError(f"{where}: the numbers of {name!r} are read from another file", TRUST_HINT)
        config = root.attrs.get("model_config")
    return config if isinstance(config, str | bytes | None) else str(config)


def _walk(root: Any) -> Iterator[tuple[str, Any]]:
    """Every object once, by hard links only; a link that leaves the file comes as a description of itself."""
    import h5py

    todo, seen = [("", root)], set()
    while todo:
        prefix, group = todo.pop()
        for name in group:
            path = f"{prefix}/{name}"
            # h5py names user-defined links, whose meaning a plug-in decides, by a TypeError.
            try:
                link = group.get(name, getlink=True)
            except TypeError:
                yield path, "a link of unknown kind"
                continue
            if isinstance(link, h5py.ExternalLink):
                yield path, f"a link to {link.path!r} in the file {link.filename!r}"
            # A soft link stays in this file, and what it names is reached by its own hard link or an external one.
            if not isinstance(link, h5py.HardLink):
                continue
            thing = group[name]
            address = h5py.h5o.get_info(thing.id).addr
            if address in seen:  # hard links may form a ring
                continue
            seen.add(address)
            yield path, thing
            if isinstance(thing, h5py.Group):
                todo.append((path, thing))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what zip and HDF5 readers say about damaged files into one error."""
    try:
        yield
    # RuntimeError: encrypted members, and HDF5's own complaints; KeyError: missing HDF5 objects.
    except (OSError, zipfile.BadZipFile, EOFError, KeyError, RuntimeError, ValueError, NotImplementedError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise ModelFormatError(
            f"{path} cannot be read as a Keras model ({size:,} bytes): {str(error).splitlines()[0][:200] or error!r}",
            _TORN_HINT,
        ) from error
