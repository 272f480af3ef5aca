import json
import logging
import os
import re
import subprocess
import sys

import pytest

from embedsvc.errors import SettingsError
from embedsvc.service import logs
from embedsvc.service.logs import LogFormat
from tests.service.conftest import local, serving


@pytest.fixture
def configured():
    """Calls `logs.configure`; takes back what it did."""
    loggers = [logging.getLogger(name) for name in ("embedsvc", "uvicorn", "uvicorn.error")]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    yield logs.configure
    for each, handlers, level, propagate in before:
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)


@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.TEXT])
def test_an_exception_is_logged_by_kind_and_place_only(held, configured, capsys, log_format):
    configured(log_format)
    held.gate.set()
    with serving(local()) as running:
        answer = running.post("/v1/embeddings", {"input": "poison secret"})
    assert (answer.status, answer.error["type"]) == (500, "server_error")
    assert "secret" not in answer.content.decode()
    lines = capsys.readouterr().err
    assert "secret" not in lines
    (line,) = [line for line in lines.splitlines() if "ValueError" in line]
    assert answer.headers["x-request-id"] in line
    assert re.search(r"batcher\.py:\d+ _encode", lines)


def test_a_request_is_one_line_that_a_person_can_read(configured, capsys):
    configured(LogFormat.TEXT)
    logs.access(request_id="abc", method="POST", route="/embed", status=200, seconds=0.01234, texts=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  POST /embed 200  12\.3 ms  request_id=abc  texts=2", line)


def test_no_field_ends_a_line_or_speaks_to_the_terminal(configured, capsys):
    configured(LogFormat.TEXT)
    logs.LOGGER.warning("one\ntwo", extra={"fields": {"model": "\x1b[31mred\u2028"}})
    (line,) = capsys.readouterr().err.split("\n")[:-1]
    assert line.endswith(r"WARNING one\ntwo  model=\x1b[31mred\u2028")


def listening(*arguments):
    """The first line of a service whose stderr is a terminal."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "embedsvc", "serve", "-m", "fake:8", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=theirs) as process:
        os.close(theirs)
        try:
            with open(ours, encoding="utf-8") as lines:
                return next(line for line in lines if "listening" in line)
        finally:
            process.terminate()


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_lines_are_text_on_a_terminal_unless_told_otherwise():
    assert re.fullmatch(r"\d\d:\d\d:\d\d  listening  address=http://127\.0\.0\.1:\d+\n", listening())
    assert json.loads(listening("--log-format", "json"))["message"] == "listening"


def test_an_unknown_format_is_refused():
    with pytest.raises(SettingsError, match="no log format is called 'xml'"):
        LogFormat("xml")
