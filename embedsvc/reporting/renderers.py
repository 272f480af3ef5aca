"""Ways to write a report, by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from embedsvc.errors import SettingsError, StoreError
from embedsvc.registry import Registry
from embedsvc.reporting.report import Report

__all__ = ["RENDERERS", "Renderer", "render", "write_json"]

_SUFFIXES = {".html": "html", ".htm": "html", ".md": "markdown", ".json": "json", ".png": "png"}
_ENDINGS = {"html": ".html", "markdown": ".md", "json": ".json", "png": ".png"}


class Renderer(Protocol):
    """One way to write a report."""

    def __call__(self, report: Report, path: Path, /) -> list[Path]:
        """Write the report to that file, or to files of that stem; give what was written."""


def write_json(report: Report, path: Path) -> list[Path]:
    """Write `Report.to_json`."""
    path.write_text(
        json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    return [path]


RENDERERS: Registry[Renderer] = Registry(
    "renderer",
    {
        "html": "embedsvc.reporting.page:write_html",
        "json": write_json,
        "markdown": "embedsvc.reporting.markdown:write_markdown",
        "png": "embedsvc.reporting.drawings:write_png",
    },
)


def render(report: Report, path: str | Path, *, also: Sequence[str] = ()) -> list[Path]:
    """Write a report as its path's ending says, and in other forms next to it, under the same stem.

    Parameters
    ----------
    report : Report
    path : str or Path
        Ends in .html, .md, .json or .png; folders are made.
    also : sequence of str
        More names out of `RENDERERS`.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    SettingsError
        For an ending that is not known.
    UnknownNameError
        If there is no such renderer.
    StoreError
        If the disk refuses.
    """
    path = Path(path)
    first = _SUFFIXES.get(path.suffix.lower())
    if first is None:
        raise SettingsError(f"{path} ends in {path.suffix!r}", f"Expected one of: {', '.join(_SUFFIXES)}")
    wanted = {
        name: path if name == first else path.with_suffix(_ENDINGS.get(name, f".{name}")) for name in (first, *also)
    }
    writers = {name: RENDERERS[name] for name in wanted}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return [file for name, write in writers.items() for file in write(report, wanted[name])]
    except OSError as error:
        raise StoreError(f"the report cannot be written: {error}", "Choose another path.") from error
