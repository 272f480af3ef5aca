"""Run the notebooks from top to bottom and store what they show, small enough for a repository.

    python scripts/store_notebooks.py                  # all of them
    python scripts/store_notebooks.py notebooks/1-*    # some

A live output that brings megabytes of program along (a map to explore) is stored as the picture that comes with it.
Prints how long each took.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
_LARGE = 100_000  # characters of HTML


def store(path: Path) -> float:
    """Run and store one notebook; give the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    began = time.perf_counter()
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    seconds = time.perf_counter() - began
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell ran
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data and len(data.get("text/html", "")) > _LARGE:
                del data["text/html"]
    nbformat.write(notebook, path)
    return seconds


if __name__ == "__main__":
    for notebook in sorted(map(Path, sys.argv[1:])) or sorted(FOLDER.glob("*.ipynb")):
        print(f"{store(notebook):5.0f} s  {notebook.stat().st_size / 1e3:4.0f} kB  {notebook.name}", flush=True)
