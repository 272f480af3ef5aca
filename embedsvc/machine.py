"""What this machine has: processors, memory, graphics cards, and the packages installed on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["cards", "instructions", "memory", "processors", "version_of"]


def processors() -> int:
    """How many this process may use."""
    # Only Linux tells; elsewhere it is all there are.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version_of(*distributions: str) -> str | None:
    """Version of the first of these distributions that is installed; several may bring one and the same library."""
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def instructions() -> list[str]:
    """The processor's instruction sets that decide the speed of matrix products, where that can be told."""
    flags = _read(Path("/proc/cpuinfo"), lambda text: next((s for s in text.splitlines() if s.startswith("flags")), ""))
    return [name for name in ("avx2", "avx512f", "avx512_vnni", "amx_tile") if name in (flags or "").split()]


def memory() -> tuple[int | None, int | None]:
    """Bytes of memory in all and available, within the limit of the container if there is one."""

    def parse(text: str) -> dict[str, int]:
        rows = (line.split() for line in text.splitlines())
        return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) > 1 and row[1].isdecimal()}

    values = _read(Path("/proc/meminfo"), parse) or {}
    total, available = values.get("MemTotal"), values.get("MemAvailable")
    limit = _read(Path("/sys/fs/cgroup/memory.max"), lambda text: int(text) if text.strip().isdecimal() else None)
    used = _read(Path("/sys/fs/cgroup/memory.current"), int)
    if limit is not None and used is not None and total is not None and available is not None and limit < total:
        return limit, min(available, limit - used)
    return total, available


def cards() -> list[str]:
    """NVIDIA cards by name, as their driver lists them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, encoding="utf-8", timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _read(path: Path, parse: Callable[[str], Any]) -> Any:  # noqa: ANN401 - whatever `parse` gives
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError:
        return None
