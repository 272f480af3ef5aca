"""What a step does: its values as the arguments of the public function of its name, and the files that come of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedsvc.errors import InputError
from embedsvc.jobs.keys import STEP_KEYS
from embedsvc.jobs.spec import Step

if TYPE_CHECKING:
    from embedsvc.embeddings import EmbeddingSet
    from embedsvc.extraction import Settings
    from embedsvc.models.base import LoadOptions
    from embedsvc.texts import ReadOptions

__all__ = ["analyse", "arguments", "extraction_options"]


def extraction_options(step: Step) -> tuple[Settings, ReadOptions, LoadOptions]:
    """What an extraction is told, as the command ``embedsvc extract`` tells it.

    Raises
    ------
    SettingsError
        For values that contradict each other.
    InputError
        For standard input: a job must be able to run again.
    """
    from embedsvc.extraction import Settings
    from embedsvc.models.base import LoadOptions
    from embedsvc.texts import ReadOptions
    from embedsvc.types import Mode, named_fields

    values = arguments(step)
    if "-" in values["sources"]:
        raise InputError(
            f"{step.name}: a job cannot read standard input, since it must find the same texts when it runs again",
            "Write them to a file.",
        )
    return (
        Settings.asked(values | {"modes": tuple(map(Mode, values["modes"])), "taps": values["taps"] or ()}),
        ReadOptions(**named_fields(ReadOptions, values)),
        LoadOptions(**named_fields(LoadOptions, values)),
    )


def arguments(step: Step) -> dict[str, Any]:
    """What the values of a step are called by the public functions, without the sets that an analysis gets."""
    apart = ("set", "other-set", "also")
    return {key.parameter: step.values[key.name] for key in STEP_KEYS[step.kind] if key.name not in apart}


def analyse(step: Step, sets: Mapping[str, EmbeddingSet], folder: Path, told: Callable[[str], object]) -> None:
    """Run an analysis and write what it finds into a folder, in files that begin with the step's name.

    Parameters
    ----------
    step : Step
        Of any kind but ``extract``.
    sets : mapping of str to EmbeddingSet
        By the keys ``set`` and, where two are compared, ``other-set``.
    folder : Path
    told : callable
        Told what is being done, in words.
    """
    found: Any = _FUNCTIONS[step.kind](step, sets, told)
    if step.kind == "report":
        from embedsvc.reporting.renderers import render

        render(found, folder / f"{step.name}.html", also=step.values["also"] or ())
        return
    text = json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / f"{step.name}.json").write_text(text + "\n", encoding="utf-8")
    if step.kind == "compare":
        from embedsvc.scores import write_scores

        facts = {name: value for name, value in found.to_json().items() if name != "pairs"}
        write_scores(folder / f"{step.name}.parquet", found.ids, found.scores(), facts=facts)
    elif hasattr(found, "write"):
        found.write(folder / f"{step.name}.parquet")


def _compare(step: Step, sets: Mapping[str, EmbeddingSet], told: Callable[[str], object]) -> object:
    from embedsvc.comparison import compare

    return compare(sets["set"], other=sets.get("other-set"), **arguments(step))


def _cluster(step: Step, sets: Mapping[str, EmbeddingSet], told: Callable[[str], object]) -> object:
    from embedsvc.clustering import cluster

    return cluster(sets["set"], **arguments(step))


def _project(step: Step, sets: Mapping[str, EmbeddingSet], told: Callable[[str], object]) -> object:
    from embedsvc.projection import project

    return project(sets["set"], **arguments(step))


def _stability(step: Step, sets: Mapping[str, EmbeddingSet], told: Callable[[str], object]) -> object:
    from embedsvc.uncertainty import stability

    return stability(sets["set"], **arguments(step))


def _probe(step: Step, sets: Mapping[str, EmbeddingSet], told: Callable[[str], object]) -> object:
    from embedsvc.probing import probe

    return probe(sets["set"], **arguments(step))


def _report(step: Step, sets: Mapping[str, EmbeddingSet], told: Callable[[str], object]) -> object:
    from embedsvc.reporting.run import report

    return report(sets["set"], other=sets.get("other-set"), told=told, **arguments(step))


_FUNCTIONS: Mapping[str, Callable[[Step, Mapping[str, EmbeddingSet], Callable[[str], object]], object]] = {
    "compare": _compare,
    "cluster": _cluster,
    "project": _project,
    "stability": _stability,
    "probe": _probe,
    "report": _report,
}
