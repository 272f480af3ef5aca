"""A real Ray cluster of several nodes on this machine's loopback, each node a process group of its own to be killed."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_PATIENCE = 150.0  # seconds for a node to come up on a busy machine


@dataclass
class Cluster:
    """The address to give to --address, the environment to run in, and the nodes by name."""

    address: str
    environment: dict[str, str]
    nodes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def start(self, name: str, *options: str) -> None:
        """Start one node and wait until it says that it runs."""
        # Not `ray`, the script: it may be another environment's.
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--object-store-memory=100000000"]
        log = Path(self.environment["HOME"]) / f"{name}.log"
        with log.open("wb") as output:
            self.nodes[name] = subprocess.Popen(
                [*command, *options], env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
        until = time.monotonic() + _PATIENCE
        while "Ray runtime started" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            assert self.nodes[name].poll() is None, log.read_text()
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        """End a whole node at once, as a power cut would: every process of its group, with signal 9."""
        process = self.nodes.pop(name)
        for pid in family(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def workers(self, name: str) -> list[int]:
        """Process ids of the actors that encode on a node."""
        return [pid for pid in family(self.nodes[name].pid) if b"_Encode" in _file(pid, "cmdline")]


@contextmanager
def cluster(*names: str, gpus: Collection[str] = ()) -> Iterator[Cluster]:
    """A head that does no work itself, and a worker node of one processor for each name.

    Nodes in `gpus` say that they have a graphics card. Ray believes them, and hands out what it believes.
    """
    home = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: paths of sockets are limited
    port = _free_port()
    environment = os.environ | {
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A lost node is known by its silence; the default of several such periods is longer than this test.
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "4",
        "RAY_health_check_initial_delay_ms": "500",
        "RAY_health_check_timeout_ms": "2000",
    }
    # 127.0.0.1 would be replaced by the network's address; the other addresses of the loopback are kept.
    made = Cluster(f"127.0.0.2:{port}", environment)
    try:
        made.start(
            *("head", "--head", "--node-ip-address=127.0.0.2", f"--port={port}", "--num-cpus=0"),
            *("--include-dashboard=false", f"--temp-dir={home / 't'}"),
        )
        for number, name in enumerate(names, 3):
            made.start(
                *(name, f"--address={made.address}", f"--node-ip-address=127.0.0.{number}", "--num-cpus=1"),
                f"--num-gpus={int(name in gpus)}",
            )
        yield made
    finally:
        for name in list(made.nodes):
            made.kill(name)
        shutil.rmtree(home, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.2", 0))
        return found.getsockname()[1]


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _file(int(entry.name), "stat").rpartition(b")")[2].split()):
            parents[int(entry.name)] = int(fields[1])
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


def _file(pid: int, name: str) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""
