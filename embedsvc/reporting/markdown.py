"""The report as Markdown: the verdict and every table, for a pull request or a notebook."""

from __future__ import annotations

import re
from pathlib import Path

from embedsvc.reporting.report import Report
from embedsvc.reporting.tables import Table, tables

__all__ = ["markdown", "write_markdown"]

_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


def write_markdown(report: Report, path: Path) -> list[Path]:
    """Write the Markdown file."""
    path.write_text(markdown(report), encoding="utf-8")
    return [path]


def markdown(report: Report) -> str:
    """The report as Markdown; texts are escaped, so that they are read as they are."""
    facts = report.facts
    lines = [f"# Embeddings before and after dropout: {_plain(facts.path)}", ""]
    lines += [
        f"{report.n:,} texts, model {_plain(facts.model)} ({facts.digest}), head dropout {facts.rate}, "
        f"seed {report.seed}.",
        "",
    ]
    if facts.about_copies:
        lines += [facts.about_copies, ""]
    lines += [f"**{_plain(report.verdict.headline)}**", ""]
    for finding in report.verdict.findings:
        lines += [f"## {finding.title} (effect: {finding.effect})", "", _plain(finding.sentences[0]), ""]
        lines += [f"- {_plain(sentence)}" for sentence in finding.sentences[1:]]
        if finding.basis:
            lines += ["", f"Rests on {_plain(finding.basis)}"]
        lines.append("")
    for table in tables(report).values():
        lines += [*_table(table), ""]
    if report.absent:
        lines += ["## What is not here", "", *(f"- {name}: {_plain(why)}" for name, why in report.absent.items()), ""]
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    rows = [f"| {' | '.join(map(_plain, row))} |" for row in (table.header, *table.rows)]
    return [f"## {table.title}", "", _plain(table.about), "", rows[0], "|" + " --- |" * len(table.header), *rows[1:]]


def _plain(text: str) -> str:
    """On one line, with what Markdown or HTML would take for marks escaped."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))
