"""Objects in a store like S3, as paths that work like those of a disk as far as we need them to.

All traffic goes through fsspec, one call a method, so that every way in which a store can fail is met here. Folders
do not exist by themselves: a name with a slash makes one, and an empty one is none. An object is put whole or not at
all, and what was put is seen by whoever reads or lists next (S3 since 2020, Google's store always).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from embedsvc.errors import MissingExtraError, SettingsError, StorageError, UnreachableError

__all__ = ["SCHEMES", "ObjectPath", "is_address"]

# Scheme: the package that speaks it, and the extra that brings it.
SCHEMES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs"), "memory": ("fsspec", "s3")}
_CREDENTIALS = {
    "s3": "Give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE) or the machine's role.",
    "gs": "Give a key file as GOOGLE_APPLICATION_CREDENTIALS, or run: gcloud auth application-default login",
}
_ENDPOINTS = {"s3": ", and AWS_ENDPOINT_URL for a store that is not Amazon's"}
# Libraries below fsspec, whose errors are not all OSErrors.
_CLIENTS = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests", "s3fs")


def is_address(source: str) -> bool:
    """Whether this is no path on a disk.

    >>> is_address("s3://bucket/reviews.csv"), is_address("reviews.csv")
    (True, False)
    """
    return "://" in source


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """An address such as ``s3://bucket/folder/name``.

    Attributes
    ----------
    address : str
        Without a slash at its end.

    Raises
    ------
    SettingsError
        For a scheme that is not known, or an address without a bucket.
    MissingExtraError
        Without the package that speaks it.
    """

    address: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", self.address.rstrip("/"))
        scheme, _, rest = self.address.partition("://")
        if scheme not in SCHEMES:
            raise SettingsError(f"{self.address}: the scheme {scheme!r} is not known", "Known: s3://, gs://")
        if not rest.strip("/") or rest.startswith("/"):
            raise SettingsError(f"{self.address} names no bucket", f"The form is {scheme}://bucket/folder.")
        _need(scheme)

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(f"{self.address}/{name}")

    @property
    def scheme(self) -> str:
        """``s3`` or ``gs``."""
        return self.address.partition("://")[0]

    @property
    def name(self) -> str:
        """What stands after the last slash."""
        return self.address.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Ending of the name, with its dot."""
        return Path(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return Path(self.name).stem

    @property
    def parent(self) -> ObjectPath:
        """The folder it is in."""
        return ObjectPath(self.address.rpartition("/")[0])

    def with_name(self, name: str) -> ObjectPath:
        """Another name in the same folder."""
        return self.parent / name

    def absolute(self) -> ObjectPath:
        """Itself."""
        return self

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: what is put into a folder makes it."""

    def rmdir(self) -> None:
        """Nothing: an empty folder is none."""

    def exists(self) -> bool:
        """Whether an object has this name, or names begin with it and a slash."""
        return self._kind() is not None

    def is_file(self) -> bool:
        """Whether an object has this name."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether there are objects in it."""
        return next(self.iterdir(), None) is not None

    def iterdir(self) -> Iterator[ObjectPath]:
        """What lies in it; nothing where it does not exist."""
        try:
            with self._errors():
                found = self._system.ls(self.address, detail=False)
        except FileNotFoundError:
            return
        own = self._own(self.address)
        # Some tools leave an object with the name of the folder; and a listing of an object gives the object.
        yield from (self._of(name) for name in sorted(found) if name.rstrip("/") != own)

    def glob(self) -> Iterator[ObjectPath]:
        """Objects that match the address as a pattern, sorted; ``**`` goes into folders."""
        with self._errors():
            found = self._system.glob(self.address, detail=True)
        yield from (self._of(name) for name in sorted(found) if found[name]["type"] == "file")

    @property
    def size(self) -> int:
        """Bytes of the object."""
        with self._errors():
            return int(self._system.info(self.address)["size"])

    @property
    def modified(self) -> datetime:
        """When it was put, by the clock of the store."""
        with self._errors():
            when: datetime = self._system.modified(self.address)
            return when

    def read_bytes(self) -> bytes:
        """All of it."""
        with self._errors():
            content: bytes = self._system.cat_file(self.address)
            return content

    def read_range(self, start: int, end: int) -> bytes:
        """Bytes from `start` to before `end`."""
        with self._errors():
            content: bytes = self._system.cat_file(self.address, start=start, end=end)
            return content

    def open(self) -> Ranges:
        """A stream for reading; it seeks without reading."""
        return Ranges(self)

    def put(self, content: bytes) -> None:
        """Write it, whole or not at all."""
        with self._writes():
            self._system.pipe_file(self.address, content)

    def put_file(self, file: Path) -> None:
        """Upload a file, whole or not at all."""
        with self._writes():
            self._system.put_file(str(file), self.address)

    def copy_from(self, sources: list[ObjectPath]) -> None:
        """Copy objects into it under their own names; the store does it, nothing comes by here."""
        if sources:
            with self._writes():
                pairs = ([each.address for each in sources], [f"{self.address}/{each.name}" for each in sources])
                self._system.copy(*pairs, on_error="raise")

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            with self._errors():
                self._system.rm_file(self.address)
        except FileNotFoundError:
            if not missing_ok:
                raise

    @property
    def _system(self) -> Any:  # noqa: ANN401 - fsspec has no types
        import fsspec

        # One for each process and scheme, kept by fsspec. Others write as well, so that no listing may be kept.
        return fsspec.filesystem(self.scheme, use_listings_cache=False)

    def _kind(self) -> str | None:
        """``file``, ``directory`` or None. (fsspec's own questions take every error for a no.)"""
        try:
            with self._errors():
                kind: str = self._system.info(self.address)["type"]
                return kind
        except FileNotFoundError:
            return None

    def _own(self, address: str) -> str:
        stripped: str = self._system._strip_protocol(address)
        return stripped

    def _of(self, name: str) -> ObjectPath:
        return ObjectPath(f"{self.scheme}://{name.lstrip('/')}")

    @contextmanager
    def _writes(self) -> Iterator[None]:
        try:
            with self._errors():
                yield
        except FileNotFoundError as error:
            bucket = self.address.partition("://")[2].partition("/")[0]
            raise StorageError(
                f"cannot write {self}: there is no bucket {bucket!r}", "Make it, or choose another."
            ) from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What goes wrong on the way to the store, as an error that names the address and what to do.

        None of them is an OSError or a StoreError: no network is a sign that a part is torn.
        """
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            own = type(error).__module__.partition(".")[0]
            if not isinstance(error, OSError) and own not in _CLIENTS:
                raise
            kind, said = type(error).__name__, (str(error).strip() or type(error).__name__).splitlines()[0]
            if "Credential" in kind:
                raise StorageError(
                    f"no credentials for {self}: {said}", _CREDENTIALS.get(self.scheme, "Give credentials.")
                ) from error
            if isinstance(error, PermissionError):
                raise StorageError(
                    f"{self}: access refused: {said}",
                    "Check whose credentials are used; they must allow listing and reading, and where a job writes, "
                    "putting and deleting.",
                ) from error
            raise UnreachableError(
                f"{self}: the store does not answer as it should: {said}",
                f"Check the network{_ENDPOINTS.get(self.scheme, '')}. "
                "Then run the same command again: finished parts are kept.",
            ) from error


@cache
def _need(scheme: str) -> None:
    package, extra = SCHEMES[scheme]
    if find_spec(package) is None:
        raise MissingExtraError.of(package, extra)


class Ranges(io.RawIOBase):
    """The bytes of an object, each stretch fetched as it is asked for.

    Attributes
    ----------
    path : ObjectPath
    """

    def __init__(self, path: ObjectPath) -> None:
        self.path = path
        self._size = path.size
        self._at = 0

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def seekable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def tell(self) -> int:
        """See `io.RawIOBase`."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.RawIOBase`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """See `io.RawIOBase`."""
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        content = self.path.read_range(self._at, end)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
