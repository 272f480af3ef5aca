"""Progress on stderr: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from embedsvc.manifest import Manifest
from embedsvc.streaming import Progress

__all__ = ["reporter", "steps"]

_PLAIN_SECONDS = 10.0  # between plain lines: a log of an hour's run stays readable

Started = Callable[[int, Manifest], Progress]


@contextmanager
def reporter(*, quiet: bool) -> Iterator[Started | None]:
    """What `extract_files` calls once it knows the rows; None if nothing shall be shown."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _live() as started:
            yield started
    else:
        yield _plain


def steps(*, quiet: bool) -> Callable[[str], object]:
    """What an analysis of several steps tells as each begins."""
    return (lambda step: None) if quiet else (lambda step: print(f"{step} …", file=sys.stderr, flush=True))


def _plain(rows: int, manifest: Manifest) -> Progress:
    began = last = time.monotonic()
    done_rows = done_tokens = 0
    lock = threading.Lock()
    print(f"embedsvc: {rows:,} texts through {manifest.model.uri}", file=sys.stderr)

    def tell(new_rows: int, new_tokens: int) -> None:
        nonlocal last, done_rows, done_tokens
        with lock:
            done_rows += new_rows
            done_tokens += new_tokens
            now = time.monotonic()
            if now - last < _PLAIN_SECONDS and done_rows < rows:
                return
            last = now
            seconds = max(now - began, 1e-9)
            left = (rows - done_rows) * seconds / max(done_rows, 1)
            print(
                f"embedsvc: {done_rows:,} of {rows:,} texts, {done_rows / seconds:,.0f} texts/s, "
                f"{done_tokens / seconds:,.0f} tokens/s, {left:,.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    return tell


@contextmanager
def _live() -> Iterator[Started]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:

        def started(rows: int, manifest: Manifest) -> Progress:
            task = bar.add_task(manifest.model.uri, total=rows, rate="")
            began = time.monotonic()
            done = [0, 0]
            lock = threading.Lock()

            def tell(new_rows: int, new_tokens: int) -> None:
                with lock:
                    done[0] += new_rows
                    done[1] += new_tokens
                    seconds = max(time.monotonic() - began, 1e-9)
                    rate = f"{done[0] / seconds:,.0f} texts/s, {done[1] / seconds:,.0f} tokens/s"
                    bar.update(task, completed=done[0], rate=rate)

            return tell

        yield started
