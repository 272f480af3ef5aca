"""Progress of a training on stderr: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from embedsvc.cli import progress
from embedsvc.training import Watch
from embedsvc.training.loop import Epoch, Status

__all__ = ["watch"]

_PLAIN_SECONDS = 10.0  # between plain lines


@contextmanager
def watch(*, quiet: bool) -> Iterator[Watch]:
    """Whom `train` tells."""
    if quiet:
        yield Watch()
    elif sys.stderr.isatty():
        with _live() as found:
            yield found
    else:
        with progress.reporter(quiet=False) as caching:
            yield Watch(say=_say, caching=caching, progress=_Plain(), epoch=_tell_epoch)


def _say(line: str) -> None:
    print(f"embedsvc: {line}", file=sys.stderr, flush=True)


def _tell_epoch(epoch: Epoch) -> None:
    _say(_epoch_line(epoch))


def _epoch_line(epoch: Epoch) -> str:
    return (
        f"epoch {epoch.number + 1}: loss {epoch.loss:.4f}, validation loss {epoch.validation_loss:.4f}, "
        f"accuracy {epoch.validation_accuracy:.3f}, macro F1 {epoch.validation_macro_f1:.3f}"
    )


class _Plain:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, status: Status) -> None:
        now = time.monotonic()
        if now - self._last >= _PLAIN_SECONDS:
            self._last = now
            _say(f"epoch {status.epoch + 1} of {status.epochs}, {_line(status)}")


def _line(status: Status) -> str:
    return f"step {status.step:,} of at most {status.steps:,}, loss {status.loss:.4f}, {status.rate:,.0f} texts/s"


@contextmanager
def _live() -> Iterator[Watch]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def caching(rows: int, manifest: Any) -> Any:  # noqa: ANN401 - see progress.Started
            task = bar.add_task("encoding", total=rows, facts=escape(manifest.model.uri))

            def tell(texts: int, tokens: int) -> None:
                bar.advance(task, texts)

            return tell

        def step(status: Status) -> None:
            if "steps" not in tasks:
                tasks["steps"] = bar.add_task("training", total=status.steps, facts="")
            facts = f"epoch {status.epoch + 1}, loss {status.loss:.4f}, {status.rate:,.0f} texts/s"
            bar.update(tasks["steps"], completed=status.step, facts=facts)

        def say(line: str) -> None:
            bar.console.print(escape(line), highlight=False)

        yield Watch(say=say, caching=caching, progress=step, epoch=lambda epoch: say(_epoch_line(epoch)))
