"""What a job remembers in its folder: which step was done under which key, and the runs there were.

``OUT/steps.json`` holds a key and the files of each finished step; it has no times, so that equal jobs leave equal
bytes. ``OUT/runs/RUN/`` holds ``run.json`` (state, times, counts) and ``log.jsonl`` of each run.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from embedsvc.errors import StoreError
from embedsvc.processes import Process, start_of
from embedsvc.storage import Place, atomic_file, entries

__all__ = ["Record", "Records", "Run", "StepResult", "known_outs", "remember_out", "runs_of", "state_folder"]


@dataclass(frozen=True, slots=True)
class Record:
    """A finished step.

    Attributes
    ----------
    key : str
        See `digests.step_key`.
    values : mapping
        Of the step, JSON values.
    inputs : mapping
        Likewise.
    files : mapping of str to str
        Name below the job's folder to SHA-256 (hex) of the bytes.
    """

    key: str
    values: Mapping[str, Any]
    inputs: Mapping[str, Any]
    files: Mapping[str, str]


class Records:
    """Finished steps of one job's folder, by name; written through at each change."""

    def __init__(self, out: Place) -> None:
        self._path = out / "steps.json"
        self._steps: dict[str, Record] = {}
        self.pending: dict[str, str] = {}
        if self._path.exists():
            try:
                data = json.loads(self._path.read_bytes())
                self._steps = {name: Record(**record) for name, record in data["steps"].items()}
                self.pending = dict(data["pending"])
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise StoreError(
                    f"{self._path} is damaged: {error}",
                    "Delete it: every step is then looked at anew, and nothing is encoded twice.",
                ) from error

    def get(self, name: str) -> Record | None:
        """What is known of a step."""
        return self._steps.get(name)

    def begin(self, name: str, key: str) -> None:
        """Note that a step is being run; a killed run is known by it."""
        self.pending[name] = key
        self._write()

    def finish(self, name: str, record: Record) -> None:
        """Note that a step is done."""
        self._steps[name] = record
        self.pending.pop(name, None)
        self._write()

    def _write(self) -> None:
        data = {
            "steps": {name: asdict(record) for name, record in sorted(self._steps.items())},
            "pending": dict(sorted(self.pending.items())),
        }
        with atomic_file(self._path) as file:
            file.write(json.dumps(data, indent=2, ensure_ascii=True, sort_keys=True).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of one step in one run.

    Attributes
    ----------
    name : str
    state : str
        ``done`` (by this run), ``kept`` (was there already), ``failed``, ``waiting``.
    seconds : float
    rows, encoded, rejected, truncated : int or None
        Of an extraction: rows of the set, those this run encoded, rows skipped, rows cut short.
    tokens : int or None
        Encoded by this run.
    """

    name: str
    state: str = "waiting"
    seconds: float = 0.0
    rows: int | None = None
    encoded: int | None = None
    rejected: int | None = None
    truncated: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job.

    Attributes
    ----------
    id : str
        Start in UTC, and four random letters in case two begin at once; sorts by time.
    job, out, engine : str
    state : str
        ``running``, ``done``, ``failed`` or ``interrupted`` as written; ``killed`` for one that says it is running
        but is not.
    started, ended : float or None
        Seconds since 1970.
    host : str
    process : tuple of int
        Process id and start time: see `processes.Process`.
    steps : tuple of StepResult
    error : str
    """

    id: str
    job: str
    out: str
    engine: str
    state: str = "running"
    started: float = 0.0
    ended: float | None = None
    host: str = ""
    process: tuple[int, int] = (0, 0)
    steps: tuple[StepResult, ...] = ()
    error: str = ""

    @classmethod
    def begin(cls, job: str, out: str, engine: str) -> Self:
        """A run that begins now in this process."""
        now, this = time.time(), Process.this()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
        return cls(
            id=f"{stamp}-{secrets.token_hex(2)}",
            job=job,
            out=out,
            engine=engine,
            started=now,
            host=this.host,
            process=(this.id, this.start),
        )

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return (time.time() if self.ended is None else self.ended) - self.started

    def write(self, folder: Place) -> None:
        """Write it to ``run.json`` in a folder."""
        with atomic_file(folder / "run.json") as file:
            file.write(json.dumps(asdict(self), indent=2, ensure_ascii=True).encode() + b"\n")

    @classmethod
    def read(cls, folder: Place) -> Self:
        """The run of a folder, with its true state as far as it can be told from here."""
        data = json.loads((folder / "run.json").read_bytes())
        steps = tuple(StepResult(**step) for step in data["steps"])
        run = cls(**(data | {"steps": steps, "process": tuple(data["process"])}))
        here = run.host == Process.this().host
        if run.state == "running" and here and start_of(run.process[0]) != run.process[1]:
            return replace(run, state="killed")
        return run


def runs_of(out: Place) -> Iterator[Run]:
    """All runs of a job's folder, oldest first; damaged records are passed over."""
    folder = out / "runs"
    for entry in entries(folder) if folder.is_dir() else ():
        with suppress(OSError, ValueError, TypeError, KeyError):
            yield Run.read(entry)


def state_folder() -> Path:
    """``EMBEDSVC_STATE``, or the platform's state folder for embedsvc. Not created by asking."""
    if chosen := os.environ.get("EMBEDSVC_STATE"):
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_state_dir("embedsvc"))


def remember_out(out: str) -> None:
    """Let `known_outs` know of a job's folder. A home that cannot be written is no reason to stop a job."""
    folder = state_folder() / "outs"
    with suppress(OSError, StoreError):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / hashlib.sha256(out.encode("utf-8", "surrogateescape")).hexdigest()[:16]) as file:
            file.write(out.encode("utf-8", "surrogateescape"))


def known_outs() -> list[str]:
    """Folders of all jobs that ran under this user, in order of name."""
    folder = state_folder() / "outs"
    if not folder.is_dir():
        return []
    return sorted(
        entry.read_bytes().decode("utf-8", "surrogateescape") for entry in folder.iterdir() if entry.is_file()
    )
