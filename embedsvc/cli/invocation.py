"""How this program was called: commands that are suggested can be pasted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["program"]


def program() -> str:
    """``embedsvc`` where typing it runs this very program, else its path."""
    called, found = sys.argv[0], shutil.which("embedsvc")
    # Compared without following links: an environment's program may be a link to one that lacks its packages.
    if Path(called).suffix == ".py" or (found and os.path.abspath(found) == os.path.abspath(called)):
        return "embedsvc"
    path = os.path.relpath(called)
    return shlex.quote(called if path.startswith("..") else path)
