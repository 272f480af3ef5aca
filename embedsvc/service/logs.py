"""One JSON object a line on stderr, never with a text, a key or a query string in it."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

__all__ = ["ACCESS", "LOGGER", "access", "configure"]

LOGGER = logging.getLogger("embedsvc.service")
ACCESS = logging.getLogger("embedsvc.access")


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0]:
            # What an exception says may quote its input; where it was raised does not.
            fields["exception"] = record.exc_info[0].__name__
            fields["at"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(record.exc_info[2])
            ]
        return json.dumps(fields, ensure_ascii=True)


def configure() -> None:
    """Send the service's lines and uvicorn's to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
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
