"""One line an event on stderr, for people or as JSON, never with a text, a key or a query string in it."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from enum import StrEnum
from typing import Any

from embedsvc.errors import SettingsError

__all__ = ["ACCESS", "LOGGER", "LogFormat", "access", "configure"]

LOGGER = logging.getLogger("embedsvc.service")
ACCESS = logging.getLogger("embedsvc.access")


class LogFormat(StrEnum):
    """How lines are written."""

    AUTO = "auto"  # text on a terminal, JSON elsewhere
    JSON = "json"
    TEXT = "text"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise SettingsError(f"no log format is called {value!r}", f"Known: {', '.join(cls)}")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(fields | _fields(record), ensure_ascii=True)


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        level = "" if record.levelno <= logging.INFO else f"{record.levelname} "
        words = [time.strftime("%H:%M:%S", time.localtime(record.created)), level + record.getMessage()]
        if record.name == ACCESS.name:
            words[1] = "{method} {route} {status}".format(**fields)
            words.append(f"{1e3 * fields['seconds']:.1f} ms")
            fields = {name: value for name, value in fields.items() if name not in _SAID}
        words += [f"{name}={value}" for name, value in fields.items() if name != "at"]
        # One event, one line: what is not printable cannot end it, nor speak to the terminal.
        line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in "  ".join(words))
        return "\n".join([line, *(f"    {place}" for place in fields.get("at", ()))])


_SAID = frozenset({"method", "route", "status", "seconds"})


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = dict(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[0]:
        # What an exception says may quote its input; where it was raised does not.
        fields["exception"] = record.exc_info[0].__name__
        fields["at"] = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(record.exc_info[2])
        ]
    return fields


def configure(log_format: LogFormat = LogFormat.AUTO) -> None:
    """Send the service's lines and uvicorn's to stderr."""
    text = log_format is LogFormat.TEXT or (log_format is LogFormat.AUTO and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_TextLines() if text else _JsonLines())
    for name in ("embedsvc", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    # It reports garbage on the wire, which anybody can send at any rate.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


def access(**fields: Any) -> None:  # noqa: ANN401 - JSON values
    """The line of one answered request."""
    if ACCESS.isEnabledFor(logging.INFO):
        ACCESS.info("request", extra={"fields": fields})
