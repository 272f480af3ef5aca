"""What a job would do now: its steps, what of them is done, and what the rest will take.

`run_job` runs the very plan that ``--dry-run`` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from embedsvc.errors import StoreError
from embedsvc.jobs.digests import analysis_inputs, extraction_inputs, file_digest, step_key
from embedsvc.jobs.estimates import Estimate, Work, estimate
from embedsvc.jobs.records import Record, Records
from embedsvc.jobs.sets import Shelf
from embedsvc.jobs.spec import Job, Step
from embedsvc.jobs.steps import extraction_options
from embedsvc.storage import Place, place
from embedsvc.stored import intact, pieces_of
from embedsvc.stored import verify as verify_set
from embedsvc.texts import Scan, scan

__all__ = ["Plan", "Planned", "plan_job"]

_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Planned:
    """One step of a plan.

    Attributes
    ----------
    step : Step
    key : str
        See `digests.step_key`.
    inputs : mapping
        What the key is made of, besides the values.
    done : bool
        Whether nothing is to be done.
    why : str
        Why there is something to be done, or what is there.
    scan : Scan or None
        Of an extraction.
    work : Work or None
        What it must encode, where that was asked for.
    estimate : Estimate or None
        What it will take, where that was asked for and can be told.
    """

    step: Step
    key: str
    inputs: Mapping[str, Any]
    done: bool
    why: str
    scan: Scan | None = None
    work: Work | None = None
    estimate: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "step": self.step.name,
            "done": self.done,
            "why": self.why,
            "key": self.key,
            "inputs": dict(self.inputs),
            "rows": None if self.scan is None else self.scan.rows,
            "rejected": None if self.scan is None else len(self.scan.rejected),
            "encode": None if self.work is None else self.work.rows,
            "work": None if self.work is None else asdict(self.work),
            "estimate": None if self.estimate is None else self.estimate.to_json(),
            "settings": dict(self.step.values),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of a job, in order.

    Attributes
    ----------
    job : Job
    steps : tuple of Planned
    """

    job: Job
    steps: tuple[Planned, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "job": self.job.name,
            "out": self.job.out,
            "engine": self.job.engine,
            "steps": [planned.to_json() for planned in self.steps],
        }


def plan_job(
    job: Job, *, verify: bool = False, estimates: bool = False, told: Callable[[str], object] = lambda what: None
) -> Plan:
    """Look at the inputs and at what is there; change nothing.

    Parameters
    ----------
    job : Job
    verify : bool
        Compare every part of every finished set with its digest. Sets that a step is going to read are compared
        anyway, others by the sizes in their footers.
    estimates : bool
        Count the rows that must be encoded and estimate tokens, time and bytes. A model that was never timed on this
        machine is loaded and timed on a few texts.
    told : callable
        Told what is being done, in words.

    Raises
    ------
    InputError
        For bad input.
    """
    out = place(job.out)
    records = Records(out)
    planned: list[Planned] = []
    keys: dict[str, str] = {}
    for step in job.steps:
        if step.kind == "extract":
            told(f"Reading the sources of {step.name}")
            settings, reading, _ = extraction_options(step)
            found = scan(step.values["sources"], reading)
            inputs: dict[str, Any] = extraction_inputs(step, found.sources)
            keys[step.name] = step_key(step, inputs)
            done, why = _set_state(step, keys[step.name], inputs, records, Shelf(out, step.name), found)
            planned.append(Planned(step, keys[step.name], inputs, done, why, found))
        else:
            inputs = analysis_inputs(step, keys)
            key = step_key(step, inputs)
            done, why = _analysis_state(step, key, inputs, records, out)
            planned.append(Planned(step, key, inputs, done, why))
    planned = _verified(planned, out, everything=verify, told=told)
    if estimates:
        rows = {each.key: each.scan.rows for each in planned if each.scan is not None}
        for at, each in enumerate(planned):
            if not each.done:
                of_set = rows[each.key if each.scan is not None else each.inputs["set"]]
                guess = estimate(each, out, records, rows=of_set, told=told)
                planned[at] = replace(each, work=guess.work, estimate=guess.estimate)
    return Plan(job, tuple(planned))


def _set_state(
    step: Step, key: str, inputs: Mapping[str, Any], records: Records, shelf: Shelf, found: Scan
) -> tuple[bool, str]:
    record = records.get(step.name)
    if record is not None and record.key == key:
        try:
            manifest, _ = pieces_of(shelf.finished)
        except StoreError as error:
            return False, error.problem
        if not intact(manifest, shelf.finished):
            return False, f"{shelf.finished} lacks parts, or some are torn"
        return True, f"{manifest.rows:,} rows are there"
    if records.pending.get(step.name) == key and shelf.n_parts_begun:
        n_parts = -(-found.rows // step.values["rows-per-part"])
        return False, f"begun: {shelf.n_parts_begun} of {n_parts} parts are there"
    return False, _changes(step, inputs, record)


def _analysis_state(step: Step, key: str, inputs: Mapping[str, Any], records: Records, out: Place) -> tuple[bool, str]:
    record = records.get(step.name)
    if record is None or record.key != key:
        return False, _changes(step, inputs, record)
    changed = [name for name, digest in record.files.items() if not _is(out / name, digest)]
    if changed:
        return False, f"changed or missing since: {', '.join(changed)}"
    return True, f"there: {', '.join(record.files)}"


def _verified(
    planned: Iterable[Planned], out: Place, *, everything: bool, told: Callable[[str], object]
) -> list[Planned]:
    """The steps, where a set that is going to be read does not agree with its digests taken as not done."""
    steps = list(planned)
    read = {key for each in steps if each.step.kind != "extract" and not each.done for key in each.inputs.values()}
    for at, each in enumerate(steps):
        if each.step.kind != "extract" or not each.done or not (everything or each.key in read):
            continue
        told(f"Comparing {each.step.name} with its digests")
        try:
            verify_set(Shelf(out, each.step.name).finished)
        except StoreError as error:
            steps[at] = replace(each, done=False, why=error.problem)
    return steps


def _changes(step: Step, inputs: Mapping[str, Any], record: Record | None) -> str:
    """Why a step is not what it was, in a few words."""
    if record is None:
        return "new"
    names = [name for name, value in step.values.items() if _plain(value) != record.values.get(name)]
    parts = [f"{name} changed" for name in names if name != "sources"]
    if inputs.get("model") != record.inputs.get("model") and "model" not in names:
        parts.append("the model's files changed")
    if "sources" in inputs:
        ours, theirs = ({each["name"]: each for each in of["sources"]} for of in (inputs, record.inputs))
        for word, count in (
            ("added", len(ours.keys() - theirs.keys())),
            ("gone", len(theirs.keys() - ours.keys())),
            ("changed", sum(ours[name] != theirs[name] for name in ours.keys() & theirs.keys())),
        ):
            if count:
                parts.append(f"{count} {'file' if count == 1 else 'files'} {word}")
        if not parts and list(ours) != list(theirs):
            parts.append("the order of files changed")
    elif inputs != record.inputs:
        parts.append("its set changes")
    return ", ".join(parts) or "versions changed"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _is(path: Place, digest: str) -> bool:
    return path.is_file() and file_digest(path) == digest
