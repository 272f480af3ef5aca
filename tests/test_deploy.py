"""What deploy/ holds must fit the command and the checkout: neither systemd nor a container engine is needed to say."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from embedsvc.cli.serve import serve

ROOT = Path(__file__).parent.parent
UNIT, IMAGE = ROOT / "deploy" / "embedsvc.service", ROOT / "deploy" / "Containerfile"
OPTIONS = {name for parameter in serve.params for name in parameter.opts}


def test_the_unit_calls_the_command_with_options_it_has():
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[method-assign]
    unit.read(UNIT)
    command = shlex.split(unit["Service"]["ExecStart"])
    assert command[0].endswith("/embedsvc")
    assert command[1] == "serve"
    line = next(line for line in UNIT.read_text().splitlines() if "EMBEDSVC_OPTIONS=" in line)
    given = re.findall(r"--[a-z-]+", " ".join(command) + line)
    assert {"--api-keys", "--model", "--port"} <= set(given) <= OPTIONS
    # systemd must not kill what still drains.
    drain = next(parameter for parameter in serve.params if parameter.name == "drain_seconds")
    assert float(unit["Service"]["TimeoutStopSec"]) > float(drain.default)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_knows_every_line_of_the_unit(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/embedsvc/bin/embedsvc", "/bin/true"))  # which must be there
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    # It says what it makes of units of the machine as well.
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []
    assert done.returncode == 0


def test_the_image_copies_what_is_there_and_calls_options_that_are():
    text = IMAGE.read_text()
    for line in re.findall(r"^COPY (?!--)(.+)$", text, re.MULTILINE):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), name
    assert "run.lock" in text
    assert (ROOT / "requirements" / "run.lock").exists()
    commands = " ".join(re.findall(r"^(?:ENTRYPOINT|CMD) (.+)$", text, re.MULTILINE))
    assert set(re.findall(r'"(--[a-z-]+)"', commands)) <= OPTIONS
    assert "--api-keys" in commands
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)
