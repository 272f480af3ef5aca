"""A real service in a process of its own, for the benchmarks that speak to one on loopback."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

__all__ = ["Process", "Server", "post"]


class Process:
    """A program that serves HTTP on loopback; ended by its own id."""

    def __init__(self, command: list[str], port: int = 0, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)
        self.port = port
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            if not self.port and '"address"' in line:
                self.port = int(json.loads(line)["address"].rpartition(":")[2])
            if len(self.lines) < 200 and '"request"' not in line:
                self.lines.append(line)

    def wait(self, path: str, seconds: float = 120) -> None:
        """Until a GET is answered with 200."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5):
                    return
            except (OSError, http.client.HTTPException):
                time.sleep(0.1)
        raise RuntimeError("the server did not start:\n" + "".join(self.lines[-20:]))

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def seconds(self) -> float:
        """Of a processor that it has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Server(Process):
    """``embedsvc serve`` on a free port, ready."""

    def __init__(self, *arguments: str) -> None:
        super().__init__([sys.executable, "-m", "embedsvc", "serve", "--port", "0", *arguments])
        self.wait("/ready")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as response:
            return json.loads(response.read())

    def resources(self) -> dict[str, int]:
        """What a leak would show in."""
        proc = Path(f"/proc/{self.process.pid}")
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as response:
            metrics = dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line[0] != "#")
        sockets = [link for link in proc.glob("fd/*") if os.path.islink(link) and "socket" in _target(link)]
        return {
            "threads": len(list(proc.glob("task/*"))),
            "files": len(list(proc.glob("fd/*"))) - len(sockets),
            "connections": max(0, len(sockets) - self._own_sockets()),
            "active": int(float(metrics["embedsvc_requests_active"])),
            "queued": int(float(metrics["embedsvc_queued_tokens"])),
        }

    def _own_sockets(self) -> int:
        """The listener, and the pair by which asyncio wakes itself."""
        return 3


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def post(server: Process, path: str, body: Any) -> tuple[int, Any]:
    """Status and JSON of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()
