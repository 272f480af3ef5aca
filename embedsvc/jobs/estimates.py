"""What a step will take, by what such steps took before on this machine."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from embedsvc.errors import StoreError
from embedsvc.jobs.keys import STEP_KEYS
from embedsvc.jobs.records import Record, Records, state_folder
from embedsvc.jobs.sets import Shelf
from embedsvc.jobs.spec import Step
from embedsvc.jobs.steps import extraction_options
from embedsvc.storage import Place, atomic_file

if TYPE_CHECKING:
    from embedsvc.jobs.plan import Planned
    from embedsvc.texts import Scan

__all__ = ["Estimate", "Profile", "Work", "estimate", "mean_characters", "remember"]

_SAMPLE = 256  # texts whose length is looked at
_TIMED = 64  # texts encoded to time a model that was never timed


@dataclass(frozen=True, slots=True)
class Profile:
    """What a kind of step was measured to take.

    Attributes
    ----------
    seconds_per_row : float
    bytes_per_row, tokens_per_character : float
        Of extractions only; bytes on disk, texts included.
    """

    seconds_per_row: float
    bytes_per_row: float = 0.0
    tokens_per_character: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a step will take.

    Attributes
    ----------
    tokens, n_bytes : int or None
        Tokens to encode; bytes of the set on disk.
    seconds : float or None
        None where nothing like it was ever timed here.
    """

    tokens: int | None
    n_bytes: int | None
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return {"tokens": self.tokens, "bytes": self.n_bytes, "seconds": self.seconds}


@dataclass(frozen=True, slots=True)
class Work:
    """What the encoder must do for a set.

    Attributes
    ----------
    rows : int
        That it must see.
    partly : int
        Of these, rows of which some passes are there already.
    lacking, passes : int
        Passes that are run over such a row, and over a row of which nothing is known.
    """

    rows: int
    partly: int = 0
    lacking: int = 0
    passes: int = 1

    @property
    def whole_rows(self) -> float:
        """Rows through all passes that would cost as much; a pass is taken to cost what another does."""
        return self.rows - self.partly + self.partly * self.lacking / self.passes


class Found(NamedTuple):
    """The two fields of `Planned` that `estimate` fills."""

    work: Work | None
    estimate: Estimate | None


def estimate(planned: Planned, out: Place, records: Records, *, rows: int, told: Callable[[str], object]) -> Found:
    """Rows to encode, and what the step will take; `rows` are those of its set. See `plan_job`."""
    step = planned.step
    profile = _profiles().get(_name_of(step, planned.inputs))
    if planned.scan is None:
        return Found(None, Estimate(None, None, None if profile is None else profile.seconds_per_row * rows))
    work = _work(planned, planned.scan, out, records)
    if profile is None:
        told(f"Timing {step.values['model']} on a few texts, since it never ran here with such settings")
        profile = _measured(step, planned.scan)
    return Found(
        work,
        Estimate(
            tokens=round(work.rows * mean_characters(planned.scan) * profile.tokens_per_character),
            n_bytes=round(planned.scan.rows * profile.bytes_per_row),
            seconds=work.whole_rows * profile.seconds_per_row,
        ),
    )


def remember(step: Step, inputs: Mapping[str, Any], profile: Profile) -> None:
    """Keep what a step took; a home that cannot be written is no reason to stop a job."""
    path = state_folder() / "profiles.json"
    data = {name: asdict(each) for name, each in _profiles().items()}
    data[_name_of(step, inputs)] = asdict(profile)
    with suppress(OSError, StoreError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(json.dumps(data, indent=2, sort_keys=True).encode())


def mean_characters(scan: Scan) -> float:
    """Length of a text, by the first few hundred."""
    from embedsvc.texts import read

    lengths = [len(text.text) for text in islice(read(scan), _SAMPLE)]
    return sum(lengths) / len(lengths)


def _profiles() -> dict[str, Profile]:
    try:
        data = json.loads((state_folder() / "profiles.json").read_bytes())
        return {name: Profile(**each) for name, each in data.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _name_of(step: Step, inputs: Mapping[str, Any]) -> str:
    """Steps of one name take alike: the same model and variants, or the same analysis."""
    if step.kind != "extract":
        return step.kind
    apart = {"sources", "text-column", "id-column", "label-column", "whole-files", "on-error", "seed", "rows-per-part"}
    values = {name: value for name, value in step.values.items() if name not in apart}
    facts = json.dumps([inputs["model"], values], sort_keys=True)
    return f"extract {hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def _work(planned: Planned, scan: Scan, out: Place, records: Records) -> Work:
    """What must be encoded, found as the run finds it, on the assumption that it loads the model of the last one."""
    from embedsvc.extraction import manifest_of, stored_passes
    from embedsvc.jobs.recall import Recall
    from embedsvc.stored import pieces_of
    from embedsvc.streaming import known_passes
    from embedsvc.texts import read

    step, shelf = planned.step, Shelf(out, planned.step.name)
    settings, _, _ = extraction_options(step)
    record, begun = records.get(step.name), records.pending.get(step.name) == planned.key
    if not begun and (record is None or not _same_model(planned, record)):
        return Work(scan.rows)
    try:
        earlier, _ = pieces_of(shelf.next if begun else shelf.finished, allow_partial=True)
    except StoreError:
        return Work(scan.rows)
    manifest = manifest_of(
        *(earlier.model, earlier.head, settings, [asdict(source) for source in scan.sources]),
        engine=earlier.engine,
        precision=earlier.precision,
    )
    done = shelf.begun(manifest)
    recall = Recall.of(shelf.earlier(manifest), manifest)
    passes = stored_passes(manifest)
    lacking = len(passes) - len(known_passes(passes, recall.names)) if recall else 0
    rows = partly = 0
    texts = read(scan)
    for index in range(-(-scan.rows // settings.rows_per_part)):
        block = list(islice(texts, settings.rows_per_part))
        if index not in done:
            hits = recall.count(block) if recall else 0
            rows += len(block) - (0 if lacking else hits)
            partly += hits if lacking else 0
    return Work(rows, partly, lacking, len(passes))


def _same_model(planned: Planned, record: Record) -> bool:
    """Whether a step loads the model that made its last set, as far as can be told without loading it."""
    from embedsvc.models.base import LoadOptions

    names = {"model", *(field.name for field in fields(LoadOptions))} - {"trust"}
    return planned.inputs["model"] == record.inputs["model"] and all(
        planned.step.values[key.name] == record.values.get(key.name)
        for key in STEP_KEYS["extract"]
        if key.parameter in names
    )


def _measured(step: Step, scan: Scan) -> Profile:
    """Load the model and encode a few of the texts."""
    from embedsvc.extraction import describe, extract
    from embedsvc.models import load_model
    from embedsvc.texts import read

    settings, _, load_options = extraction_options(step)
    encoder = load_model(step.values["model"], load_options)
    manifest = describe(encoder, settings)
    texts = list(islice(read(scan), _TIMED))
    list(extract(texts[:8], encoder, settings))  # compiles
    began = time.perf_counter()
    tokens = sum(int(block.n_tokens.clip(0).sum()) for block in extract(texts, encoder, settings))
    seconds = time.perf_counter() - began
    characters = sum(len(text.text) for text in texts)
    vectors = sum(4 * manifest.width(name) for name in manifest.stored)
    # Of float32 about a fifth goes in packing (parts.writer_options), of text about half.
    return Profile(
        seconds_per_row=seconds / len(texts),
        bytes_per_row=0.82 * vectors + 0.5 * characters / len(texts),
        tokens_per_character=tokens / max(characters, 1),
    )
