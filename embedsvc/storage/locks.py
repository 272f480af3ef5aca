"""One writer at a time: a lock on a folder.

On a disk it is a lock of the system on the file ``.lock``, which ends with its process. An object store has no such
thing: there it is a lease, an object ``.lock.<token>`` that its holder puts again every few seconds. Whoever wants the
folder puts an object of its own, lists, and gives way if there is another that is alive. Since what was put is seen by
whoever lists later, of two that come at once at least one sees the other. A lease is dead when its process is known to
be, or when it was not renewed for a minute by the clock of the store.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from embedsvc.errors import EmbedsvcError, LockedError, StorageError
from embedsvc.processes import Process
from embedsvc.storage.disk import disk_errors
from embedsvc.storage.objects import ObjectPath
from embedsvc.storage.places import Place

__all__ = ["is_lock", "locked"]

_NAME = ".lock"
_LEASE = 60.0  # seconds without a sign of life until a lease is dead
_RENEWAL = 15.0


def is_lock(name: str) -> bool:
    """Whether a file of that name is a lock of ours."""
    return name == _NAME or name.startswith(f"{_NAME}.")


@contextmanager
def locked(
    folder: Place,
    problem: str,
    hint: str,
    *,
    timeout: float = 0.0,
    temporary: bool = False,
    named: Place | None = None,
) -> Iterator[None]:
    """Hold a folder, made if it is not there, alone among all that ask.

    Parameters
    ----------
    folder : Place
    problem, hint : str
        Of the error when somebody else holds it; what holds it is added.
    timeout : float
        Seconds to wait for it.
    temporary : bool
        Remove the folder at the end if it is empty, even if it was there before.
    named : Place, optional
        What an error of the disk calls it; the folder itself by default.

    Raises
    ------
    LockedError
        If another process holds it.
    StoreError, StorageError
        If it cannot be made.
    """
    if isinstance(folder, Path):
        with _file(folder, problem, hint, timeout, temporary, named or folder):
            yield
    else:
        with _lease(folder, problem, hint, timeout):
            yield


@contextmanager
def _file(folder: Path, problem: str, hint: str, timeout: float, temporary: bool, named: Place) -> Iterator[None]:
    from filelock import FileLock, Timeout

    new = not folder.exists()
    lock = FileLock(str(folder / _NAME), timeout=timeout)
    with disk_errors(named):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise LockedError(f"{problem} (it holds {lock.lock_file})", hint) from None
    try:
        yield
    finally:
        # Removed while still held, so that the folder looks as if nobody had been here; a process that was waiting
        # on this very file finds it gone and takes a new one.
        with suppress(OSError):
            (folder / _NAME).unlink()
        lock.release()
        if new or temporary:
            with suppress(OSError):  # not empty
                folder.rmdir()


@contextmanager
def _lease(folder: ObjectPath, problem: str, hint: str, timeout: float) -> Iterator[None]:
    mine = folder / f"{_NAME}.{secrets.token_hex(6)}"
    content = json.dumps(asdict(Process.this())).encode()
    until = time.monotonic() + timeout
    while (holder := _taken(folder, mine, content)) is not None:
        if time.monotonic() >= until:
            raise LockedError(
                f"{problem} (it holds {holder})",
                f"{hint} One that was killed elsewhere loses its lock after {_LEASE:.0f} s.",
            )
        time.sleep(0.5)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(mine, content, ended), daemon=True, name="embedsvc-lease")
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        with suppress(StorageError):  # it ends by itself
            mine.unlink(missing_ok=True)


def _taken(folder: ObjectPath, mine: ObjectPath, content: bytes) -> ObjectPath | None:
    """Put a lease; give it up again if another one is alive, and say which."""
    mine.put(content)
    try:
        now = mine.modified
        for entry in folder.iterdir():
            if entry == mine or not is_lock(entry.name):
                continue
            try:
                dead = (now - entry.modified).total_seconds() > _LEASE or _holder(entry).is_gone
            except FileNotFoundError:
                continue  # given up this moment
            if not dead:
                mine.unlink(missing_ok=True)
                return entry
            entry.unlink(missing_ok=True)
    except BaseException:
        with suppress(EmbedsvcError, OSError):
            mine.unlink(missing_ok=True)
        raise
    return None


def _holder(lease: ObjectPath) -> Process:
    try:
        return Process(**json.loads(lease.read_bytes()))
    except (ValueError, TypeError):
        return Process("", "", 0, 0)


def _renew(lease: ObjectPath, content: bytes, ended: threading.Event) -> None:
    while not ended.wait(_RENEWAL):
        with suppress(StorageError):  # tried again; the next one may come in time
            lease.put(content)
