"""What a run tells: JSON lines as it goes, and a Prometheus text file at its end. Texts are never in either."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from embedsvc.jobs.records import Run
from embedsvc.storage import ObjectPath, Place, atomic_file, disk_errors

__all__ = ["Log", "Meter", "prometheus_text", "write_prometheus"]

Listener = Callable[[dict[str, Any]], object]

_SECONDS = 10.0  # between lines about rows, and between uploads


class Log:
    """A file of JSON lines, one an event: ``{"time", "run", "event", …}``; also told to listeners.

    An object cannot grow: there the whole log is put again, at most every ten seconds and at its end.

    Parameters
    ----------
    path : Place
    run : str
    listeners : callables
        Given each event as a dict.
    """

    def __init__(self, path: Place, run: str, *listeners: Listener) -> None:
        self._run = run
        self._listeners = listeners
        self._lock = threading.Lock()
        self._path = path
        self._put = 0.0
        self._file: IO[str]
        with disk_errors(path):
            self._file = (
                tempfile.TemporaryFile("w+", encoding="utf-8", prefix="embedsvc-")  # noqa: SIM115 - closed by `close`
                if isinstance(path, ObjectPath)
                else path.open("a", encoding="utf-8")
            )

    def __call__(self, event: str, **facts: Any) -> None:  # noqa: ANN401 - JSON values
        """Write one line."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
        line = {"time": stamp, "run": self._run, "event": event} | facts
        with self._lock:
            with disk_errors(self._path):
                self._file.write(json.dumps(line, ensure_ascii=True, default=str) + "\n")
                self._file.flush()
            if time.monotonic() - self._put >= _SECONDS:
                self._upload()
            for listener in self._listeners:
                listener(line)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._upload()
            self._file.close()

    def _upload(self) -> None:
        if isinstance(self._path, ObjectPath):
            self._file.seek(0)
            self._path.put(self._file.read().encode())
            self._put = time.monotonic()


class Meter:
    """A `streaming.Progress` that logs rows and rates now and then.

    Parameters
    ----------
    log : Log
    step : str
    rows : int
        There are in all.
    done : int
        On disk already.
    """

    def __init__(self, log: Log, step: str, rows: int, done: int) -> None:
        self._log = log
        self._step = step
        self._total = rows
        self._before = done
        self._rows = self._tokens = 0
        self._began = self._last = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, rows: int, tokens: int) -> None:
        """See `streaming.Progress`."""
        with self._lock:
            self._rows += rows
            self._tokens += tokens
            now = time.monotonic()
            at_end = self._before + self._rows >= self._total
            if now - self._last < _SECONDS and not at_end:
                return
            self._last = now
            seconds = max(now - self._began, 1e-9)
            rate = self._rows / seconds
            self._log(
                "rows",
                step=self._step,
                rows=self._before + self._rows,
                of=self._total,
                rows_per_second=round(rate, 1),
                tokens_per_second=round(self._tokens / seconds, 1),
                seconds_left=round((self._total - self._before - self._rows) / max(rate, 1e-9), 1),
            )


_HELP = {
    "success": "Whether the last run did all it should (1) or not (0).",
    "start_time_seconds": "Start of the last run, in seconds since 1970.",
    "end_time_seconds": "End of the last run, in seconds since 1970.",
    "duration_seconds": "Duration of the last run.",
    "step_duration_seconds": "Duration of each step in the last run; 0 where it was done before.",
    "rows": "Rows in the set.",
    "encoded_rows": "Rows that the last run encoded.",
    "encoded_tokens": "Tokens that the last run encoded.",
    "rejected_rows": "Rows that were skipped.",
    "truncated_rows": "Rows that were cut short.",
}


def prometheus_text(run: Run) -> str:
    """The last run as Prometheus metrics, in the text format 0.0.4 that node_exporter's textfile collector reads."""
    job = {"job_name": run.job}
    values: dict[str, list[tuple[dict[str, str], float]]] = {
        "success": [(job, float(run.state == "done"))],
        "start_time_seconds": [(job, run.started)],
        "end_time_seconds": [] if run.ended is None else [(job, run.ended)],
        "duration_seconds": [(job, run.seconds)],
        "step_duration_seconds": [(job | {"step": step.name}, step.seconds) for step in run.steps],
    }
    counts = {"rows": "rows", "encoded_rows": "encoded", "encoded_tokens": "tokens", "rejected_rows": "rejected"}
    for metric, name in (counts | {"truncated_rows": "truncated"}).items():
        numbers = ((step.name, getattr(step, name)) for step in run.steps)
        values[metric] = [(job | {"step": step}, float(number)) for step, number in numbers if number is not None]
    lines = []
    for metric, samples in values.items():
        if samples:
            lines += [f"# HELP embedsvc_job_{metric} {_HELP[metric]}", f"# TYPE embedsvc_job_{metric} gauge"]
        for labels, value in samples:
            inner = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            lines.append(f"embedsvc_job_{metric}{{{inner}}} {value!r}")
    return "\n".join(lines) + "\n"


def write_prometheus(run: Run, path: Path) -> None:
    """Write `prometheus_text`; whoever collects it never sees half a file."""
    with atomic_file(path) as file:
        file.write(prometheus_text(run).encode())


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
