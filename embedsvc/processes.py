"""Which process is this, and does another one still live?"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["Process", "start_of"]


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told from every other one.

    Attributes
    ----------
    host : str
    space : str
        The boot of its kernel and its namespace of process ids: two containers may share a name and a kernel.
    id, start : int
        Its number, and when it began in clock ticks, which tells it from a later one of that number.
    """

    host: str
    space: str
    id: int
    start: int

    @classmethod
    def this(cls) -> Self:
        """The process that asks."""
        return cls(socket.gethostname(), _space(), os.getpid(), start_of(os.getpid()))

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended; of one elsewhere nothing is known."""
        return self.space == _space() != "" and start_of(self.id) != self.start


def start_of(process: int) -> int:
    """When a process began, in clock ticks since boot; 0 where it does not exist or the system cannot tell."""
    try:
        # The second field is a name in brackets, which may hold anything.
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
