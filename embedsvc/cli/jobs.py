"""``embedsvc jobs``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import click

__all__ = ["jobs"]


@click.command(epilog="Example:  embedsvc jobs reviews/")
@click.argument("outs", nargs=-1, metavar="[OUT]...")
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="Newest runs."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def jobs(outs: tuple[str, ...], *, count: int, as_json: bool) -> None:
    """List runs of jobs with their state, newest first.

    OUT is the folder of a job; without one, all that ran under this user are looked through. States: running, done,
    failed, interrupted, and killed for a run that ended without a word.
    """
    from embedsvc.cli.tables import print_table
    from embedsvc.errors import StoreError
    from embedsvc.jobs.records import known_outs, runs_of
    from embedsvc.storage import place

    for out in outs:
        if not place(out).is_dir():
            raise StoreError(f"{out}: no such folder", "Give the folder of a job, or nothing for all jobs.")
    runs = [run for out in outs or known_outs() for run in runs_of(place(out))]
    runs = sorted(runs, key=lambda run: run.started, reverse=True)[:count]
    if as_json:
        click.echo(json.dumps([asdict(run) for run in runs], indent=2))
        return
    if not runs:
        click.echo("No job has run yet. Try: embedsvc run JOB.toml")
        return
    rows = []
    for run in runs:
        steps = [f"{step.name} {step.state}" for step in run.steps if step.state in ("failed", "waiting")]
        encoded = sum(step.encoded or 0 for step in run.steps)
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started))
        took = "" if run.state == "killed" else f"{run.seconds:,.1f} s"
        rows.append((run.id, run.job, run.state, started, took, f"{encoded:,}", run.out, run.error or ", ".join(steps)))
    print_table(("run", "job", "state", "started", "took", "encoded", "out", ""), rows)
