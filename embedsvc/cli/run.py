"""``embedsvc run``."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from embedsvc.cli.parameters import Named
from embedsvc.cli.tables import print_pairs, print_table

if TYPE_CHECKING:
    from embedsvc.errors import EmbedsvcError
    from embedsvc.jobs import JobSummary, Plan

__all__ = ["run"]

_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_TERMINATED = 128 + signal.SIGTERM


@click.command(epilog="Example:  embedsvc run pipelines/reviews.toml --set extract.passes=8 --dry-run")
@click.argument("job_file", type=click.Path(), metavar="JOB.toml")
@click.option("--set", "settings", multiple=True, metavar="STEP.KEY=VALUE", help="Instead of what the file says.")
@click.option(
    "-o",
    "--out",
    type=click.Path(),
    metavar="PATH",
    help="Folder of all results. [default: as the file says, or its name]",
)
@click.option(
    "--engine",
    type=Named("embedsvc.jobs.engines:ENGINES"),
    metavar="NAME",
    help="local, or ray (extra: ray). [default: local]",
)
@click.option("--address", metavar="HOST:PORT", help="A running Ray cluster. [default: one is started here]")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Batches, or actors, at once.")
@click.option("--gpus", type=click.FloatRange(min=0), metavar="N", help="GPUs of each actor. [default: 0]")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--verify", is_flag=True, help="Compare all that is there with its digests first.")
@click.option("--prometheus", type=click.Path(), metavar="PATH", help="Write a metrics file at the end.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Of the log on stderr."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary, or the plan, as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No log on stderr.")
def run(job_file: str, **options: Any) -> None:  # noqa: ANN401 - click's own
    """Run a job: texts to embeddings to report, as one file says; only what is not done yet.

    Run it again after a stop, a change of settings or new files: finished work is kept, and only new texts are
    encoded. Values come from arguments, then the environment (EMBEDSVC_JOB__EXTRACT__PASSES=8), then the file, then
    the defaults of the commands.

    \b
    Exit codes:
      0    everything is done
      1    a step failed and said why; it will again until something is changed
      2    the command line or the job file is wrong
      75   may pass by itself: another run works there, the disk is full, a download failed
      130  interrupted, 143 terminated; run again to go on
    """  # noqa: D301 - \b is what click looks for, and a raw string would hold two characters
    from embedsvc.errors import EmbedsvcError
    from embedsvc.jobs.spec import load_job

    arguments = {name: options[name] for name in ("out", "engine", "address", "workers", "gpus")}
    try:
        job = load_job(job_file, settings=options["settings"], environment=os.environ, arguments=arguments)
    except EmbedsvcError as error:
        _fail(error, 2)
    from embedsvc.jobs import plan_job, run_job

    told = _silent if options["quiet"] else _json_line if options["log_format"] == "json" else _text_line
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if options["dry_run"]:
            what = (lambda what: None) if options["quiet"] else (lambda what: click.echo(f"{what} …", err=True))
            _print_plan(plan_job(job, verify=options["verify"], estimates=True, told=what), as_json=options["as_json"])
            return
        done = run_job(job, verify=options["verify"], prometheus=options["prometheus"], listener=told)
    except KeyboardInterrupt:
        click.echo("Interrupted. What is done is kept: give the same command again to go on.", err=True)
        raise click.exceptions.Exit(130) from None
    except EmbedsvcError as error:
        _fail(error, _TRY_AGAIN if _may_pass(error) else 1)
    if options["as_json"]:
        click.echo(json.dumps(done.to_json(), indent=2))
    else:
        _print_summary(done)


def _terminate(number: int, frame: object) -> NoReturn:
    # So that the run is noted as interrupted, and nothing half done is left.
    raise SystemExit(_TERMINATED)


def _fail(error: EmbedsvcError, code: int) -> NoReturn:
    from embedsvc.cli import show_error

    show_error(error)
    raise click.exceptions.Exit(code) from error


def _may_pass(error: EmbedsvcError) -> bool:
    """Whether the same command may work later though nobody changes anything."""
    from embedsvc.errors import FetchError, LockedError, UnreachableError

    full = isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or isinstance(error, (FetchError, LockedError, UnreachableError))


def _silent(event: dict[str, Any]) -> None:
    pass


def _json_line(event: dict[str, Any]) -> None:
    print(json.dumps(event, ensure_ascii=True, default=str), file=sys.stderr, flush=True)


def _text_line(event: dict[str, Any]) -> None:
    facts = {name: value for name, value in event.items() if name not in ("time", "run", "event", "key")}
    words = " ".join(f"{name}={value}" for name, value in facts.items())
    print(f"{event['time'][11:19]} {event['event']}: {words}", file=sys.stderr, flush=True)


def _print_plan(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(plan.to_json(), indent=2, ensure_ascii=False))
        return
    print_pairs([("job", plan.job.name), ("out", plan.job.out), ("engine", plan.job.engine)])
    click.echo()
    rows = []
    for each in plan.steps:
        guess = each.estimate
        rows.append(
            (
                each.step.name,
                "done" if each.done else "to do",
                f"{each.scan.rows:,}" if each.scan else "",
                "" if each.work is None else f"{each.work.rows:,}",
                _number(guess.tokens if guess else None),
                _time(guess.seconds) if guess else "",
                _size(guess.n_bytes if guess else None),
                each.why,
            )
        )
    print_table(("step", "state", "rows", "to encode", "tokens", "time", "bytes", "why"), rows)
    for each in plan.steps:
        if each.scan is not None:
            files = ", ".join(source.name for source in each.scan.sources[:5])
            more = len(each.scan.sources) - 5
            click.echo(f"\n{each.step.name} reads {files}" + (f" and {more} more" if more > 0 else ""))
            if each.work and each.work.partly:
                click.echo(
                    f"  {each.work.partly:,} of its rows have all but {each.work.lacking} of their "
                    f"{each.work.passes} passes; only what they lack is encoded"
                )
            if each.scan.rejected:
                click.echo(f"  {len(each.scan.rejected):,} rows cannot be read and would be skipped")
    if any(each.estimate and each.estimate.seconds is None for each in plan.steps):
        click.echo("\n?: nothing like it was timed on this machine yet")


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return ""
    return (
        f"{n_bytes / 1e3:.0f} kB"
        if n_bytes < 1e6
        else f"{n_bytes / 1e6:,.0f} MB"
        if n_bytes < 1e10
        else f"{n_bytes / 1e9:,.0f} GB"
    )


def _print_summary(done: JobSummary) -> None:
    from embedsvc.storage import place

    rows = []
    for step in done.run.steps:
        speed = f"{step.encoded / step.seconds:,.0f}" if step.encoded and step.seconds else ""
        counts = [_number(getattr(step, name)) for name in ("rows", "encoded", "rejected", "truncated")]
        rows.append((step.name, step.state, f"{step.seconds:.1f} s", *counts, speed))
    print_table(("step", "state", "time", "rows", "encoded", "skipped", "truncated", "rows/s"), rows)
    click.echo()
    pairs = [
        ("run", done.run.id),
        ("took", _time(done.run.seconds)),
        ("out", done.run.out),
        ("log", str(done.log_path)),
    ]
    reports = [f"{step.name}.html" for step in done.run.steps if step.name.partition(".")[0] == "report"]
    pairs += [("report", str(place(done.run.out) / name)) for name in reports]
    print_pairs(pairs)
