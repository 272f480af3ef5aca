"""Running a job: plan, do what is not done, remember it; under a lock, with a log, and ready to be killed anywhere."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from embedsvc.errors import EmbedsvcError
from embedsvc.jobs.digests import file_digest, set_step
from embedsvc.jobs.engines import ENGINES, Order
from embedsvc.jobs.estimates import Profile, mean_characters, remember
from embedsvc.jobs.log import Listener, Log, Meter, write_prometheus
from embedsvc.jobs.plan import Plan, Planned, plan_job
from embedsvc.jobs.recall import Recall
from embedsvc.jobs.records import Record, Records, Run, StepResult, remember_out
from embedsvc.jobs.sets import Shelf
from embedsvc.jobs.spec import Job
from embedsvc.jobs.steps import analyse, extraction_options
from embedsvc.manifest import summarise
from embedsvc.storage import Place, disk_errors, folder_bytes, locked, place, put_into, staging

__all__ = ["JobSummary", "run_job"]


@dataclass(frozen=True, slots=True)
class JobSummary:
    """What a run of a job did.

    Attributes
    ----------
    run : Run
    plan : Plan
        As it was when the run began.
    log_path : Place
    """

    run: Run
    plan: Plan
    log_path: Place

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self.run) | {"seconds": round(self.run.seconds, 3), "log": str(self.log_path)}


def run_job(
    job: Job,
    *,
    verify: bool = False,
    prometheus: str | Path | None = None,
    listener: Listener = lambda event: None,
) -> JobSummary:
    """Do what of a job is not done.

    A run that was stopped, by whatever, is taken up by running the job again: finished steps and finished parts of a
    set are kept, and the end is the same to the byte.

    Parameters
    ----------
    job : Job
        See `load_job`.
    verify : bool
        See `plan_job`.
    prometheus : path, optional
        Where to write the run as Prometheus metrics at its end, be it good or bad.
    listener : callable
        Given each event of the log as a dict.

    Returns
    -------
    JobSummary

    Raises
    ------
    LockedError
        If another run works in the same folder.
    EmbedsvcError
        Whatever stopped a step; what was done before it is kept.
    """
    ENGINES[job.engine]  # an unknown name is an error before anything is made
    out = place(job.out)
    with locked(out, f"another run works in {out}", "Wait until it is done, or give another folder with --out."):
        running = _Running(job, out, verify, prometheus, listener)
        try:
            running.all_steps()
        except BaseException as error:
            running.stop(error)
            raise
        return running.stop(None)


class _Running:
    """One run: its record on disk is never behind by more than a step."""

    def __init__(self, job: Job, out: Place, verify: bool, prometheus: str | Path | None, listener: Listener) -> None:
        self._job = job
        self._out = out
        self._verify = verify
        self._prometheus = None if prometheus is None else Path(prometheus)
        self._run = Run.begin(job.name, str(out), job.engine)
        self._folder = out / "runs" / self._run.id
        with disk_errors(out):
            self._folder.mkdir(parents=True)
        self._log = Log(self._folder / "log.jsonl", self._run.id, listener)
        self._run.write(self._folder)
        self._began = time.perf_counter()
        self._plan: Plan | None = None
        self._at = ""

    def all_steps(self) -> None:
        """Plan, and do what is not done."""
        job, log = self._job, self._log
        remember_out(str(self._out.absolute()))
        log("run-started", job=job.name, out=str(self._out), engine=job.engine)
        for step in job.steps:
            if step.kind == "extract":
                Shelf(self._out, step.name).recover()
        self._plan = plan_job(job, verify=self._verify, told=lambda what: log("planning", what=what))
        records = Records(self._out)
        self._update(steps=tuple(StepResult(each.step.name) for each in self._plan.steps))
        for each in self._plan.steps:
            log("step-planned", step=each.step.name, done=each.done, why=each.why, key=each.key)
        for each in self._plan.steps:
            self._at = each.step.name
            began = time.perf_counter()
            if each.done:
                result = StepResult(each.step.name, "kept")
            else:
                log("step-started", step=each.step.name)
                records.begin(each.step.name, each.key)
                result = (self._extract if each.step.kind == "extract" else self._analyse)(each, records)
                result = replace(result, seconds=round(time.perf_counter() - began, 3))
            if each.step.kind == "extract":
                result = self._counted(result)
            self._note(result)
            log("step-finished", **{name: value for name, value in asdict(result).items() if value is not None})
        self._at = ""

    def stop(self, error: BaseException | None) -> JobSummary:
        """Write down how the run ended."""
        state = "done" if error is None else "failed" if isinstance(error, Exception) else "interrupted"
        facts: dict[str, Any] = {}
        if error is not None:
            # An unexpected error may quote a text; ours never do.
            facts["error"] = error.problem if isinstance(error, EmbedsvcError) else type(error).__name__
            if self._at:
                facts["step"] = self._at
                result = next(step for step in self._run.steps if step.name == self._at)
                self._run = replace(self._run, steps=self._with(replace(result, state="failed")))
        self._run = replace(self._run, state=state, ended=time.time(), error=facts.get("error", ""))
        try:
            self._run.write(self._folder)
            self._log("run-finished", state=state, seconds=round(time.perf_counter() - self._began, 3), **facts)
            if self._prometheus is not None:
                write_prometheus(self._run, self._prometheus)
        except EmbedsvcError:
            if error is None:
                raise
            # The disk that stopped the step may refuse this as well; the step's error says more.
        finally:
            with suppress(OSError):
                self._log.close()
        assert self._plan is not None or error is not None
        return JobSummary(self._run, self._plan or Plan(self._job, ()), self._folder / "log.jsonl")

    def _extract(self, planned: Planned, records: Records) -> StepResult:
        from embedsvc.extraction import describe
        from embedsvc.models import load_model
        from embedsvc.store import open_store

        step, scan = planned.step, planned.scan
        assert scan is not None
        log, shelf = self._log, Shelf(self._out, step.name)
        settings, _, load_options = extraction_options(step)
        began = time.perf_counter()
        encoder = load_model(step.values["model"], load_options)
        log("model-loaded", step=step.name, model=encoder.spec.uri, seconds=round(time.perf_counter() - began, 3))
        for source in scan.sources:
            if source.rejected:
                log("rejected", step=step.name, source=source.name, rows=source.rejected)
        manifest = describe(encoder, settings, [asdict(source) for source in scan.sources])
        earlier = shelf.begin(manifest)
        known = Recall.of(earlier, manifest, told=lambda why: log("nothing-to-take-over", step=step.name, why=why))
        if known is not None and known.names:
            log("taking-over", step=step.name, variants=summarise(known.names))
        # Whatever another run left there was set aside, or is not worth keeping.
        with open_store(shelf.next, manifest, overwrite=True) as store:
            for name in store.damaged:
                log("damaged-part", step=step.name, part=name, what="removed, and made again")
            before, tokens_before = store.rows, store.tokens
            began = time.perf_counter()
            if not store.complete:
                order = Order(
                    *(encoder, step.values["model"], load_options, settings, scan, store, known),
                    progress=Meter(log, step.name, scan.rows, before),
                    workers=self._job.workers,
                    address=self._job.address,
                    gpus=self._job.gpus,
                )
                ENGINES[self._job.engine](order)
                store.finish(rows=scan.rows, rejected=[asdict(row) for row in scan.rejected])
            seconds = time.perf_counter() - began
            tokens = store.tokens
        recalled, recalled_tokens = (0, 0) if known is None else (known.rows, known.tokens)
        for name in known.damaged if known else ():
            log("damaged-part", step=step.name, part=name, what="its rows were encoded again")
        encoded = scan.rows - before - recalled
        shelf.publish()
        files = {f"{step.name}/manifest.json": file_digest(shelf.finished / "manifest.json")}
        records.finish(step.name, Record(planned.key, step.values, planned.inputs, files))
        if encoded == scan.rows and (known is None or known.complete or not known.names):
            characters = mean_characters(scan) * scan.rows
            profile = Profile(seconds / scan.rows, folder_bytes(shelf.finished) / scan.rows, tokens / characters)
            remember(step, planned.inputs, profile)
        return StepResult(step.name, "done", encoded=encoded, tokens=tokens - tokens_before - recalled_tokens)

    def _analyse(self, planned: Planned, records: Records) -> StepResult:
        from embedsvc.embeddings import EmbeddingSet

        step, out, log = planned.step, self._out, self._log
        keys = {each.step.name: each.key for each in (self._plan.steps if self._plan else ()) if each.scan is not None}
        sets = {
            role: EmbeddingSet.read(Shelf(out, name).finished)
            for role in ("set", "other-set")
            if (name := set_step(step, role, keys)) is not None
        }
        began = time.perf_counter()
        files = {}
        with staging(out, step.name) as folder:
            analyse(step, sets, folder, told=lambda what: log("doing", step=step.name, what=what))
            for path in sorted(folder.iterdir()):
                files[path.name] = file_digest(path)
                put_into(out, path)
        records.finish(step.name, Record(planned.key, step.values, planned.inputs, files))
        remember(step, planned.inputs, Profile((time.perf_counter() - began) / len(sets["set"])))
        return StepResult(step.name, "done")

    def _counted(self, result: StepResult) -> StepResult:
        """With what the manifest of its set counts."""
        from embedsvc.stored import pieces_of

        manifest, _ = pieces_of(Shelf(self._out, result.name).finished)
        return replace(
            result,
            rows=manifest.rows,
            rejected=manifest.rejected,
            truncated=manifest.truncated,
            encoded=result.encoded or 0,
            tokens=result.tokens or 0,
        )

    def _note(self, result: StepResult) -> None:
        self._update(steps=self._with(result))

    def _with(self, result: StepResult) -> tuple[StepResult, ...]:
        return tuple(result if step.name == result.name else step for step in self._run.steps)

    def _update(self, **changes: Any) -> None:  # noqa: ANN401 - fields of Run
        self._run = replace(self._run, **changes)
        self._run.write(self._folder)
