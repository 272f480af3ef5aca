"""The report's maps as an output of a notebook: live where it runs, a picture where it is only read."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path

from embedsvc.errors import SettingsError
from embedsvc.reporting.page import maps_page
from embedsvc.reporting.panels import explored
from embedsvc.reporting.report import Report

__all__ = ["MapFrame"]


class MapFrame:
    """Two linked maps to select on, zoom and search, in a frame of its own that needs no network.

    A notebook shows the frame. What only reads stored outputs (a repository's page, an export to PDF) finds the picture
    that stands beside it.

    Parameters
    ----------
    report : Report
    height : int
        Of the frame, in pixels.

    Raises
    ------
    SettingsError
        If the report has no map.
    """

    def __init__(self, report: Report, height: int) -> None:
        if explored(report) is None:
            raise SettingsError("the report has no map", "; ".join(report.absent.values()))
        self.html = maps_page(report)
        self.height = height
        self._report = report

    def write(self, path: str | Path) -> None:
        """Write the maps as one HTML file."""
        Path(path).write_text(self.html, encoding="utf-8")

    def __repr__(self) -> str:
        return f"<MapFrame of {self._report.n:,} texts>"

    def _repr_html_(self) -> str:
        # Scripts run, but in an origin of their own: nothing in a text can reach the notebook.
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts" title="Maps of the variants" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self._report.plot("maps").savefig(file, format="png", dpi=72, facecolor="white")
        return file.getvalue()
