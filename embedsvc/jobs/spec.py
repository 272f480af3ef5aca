"""The job file: which steps, with which settings, and where each value comes from.

Arguments (``--set extract.passes=8``) win over the environment (``EMBEDSVC_JOB__EXTRACT__PASSES=8``), that over the
file, and that over the defaults, which are those of the command line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedsvc.errors import SettingsError
from embedsvc.jobs.keys import JOB_KEYS, STEP_KEYS, Key, unknown_key

__all__ = ["ENVIRONMENT", "Job", "Step", "load_job"]

ENVIRONMENT = "EMBEDSVC_JOB__"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a job.

    Attributes
    ----------
    name : str
        ``compare``, or ``compare.drift`` for a sub-table of its own. Its files are called so.
    kind : str
        A name in `STEP_KEYS`.
    values : mapping of str to object
        Every key of the kind; defaults where nothing was said.
    """

    name: str
    kind: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """A whole job.

    Attributes
    ----------
    name : str
        By default the file's, without its ending.
    out : str
        Folder of everything it makes, or an address such as ``s3://bucket/reviews``; by default its name. Paths are
        relative to the working directory, as those of sources are.
    steps : tuple of Step
        In the order they run: extractions first, reports last.
    engine : str
        A name in `ENGINES`.
    address : str or None
        Of a running Ray cluster.
    workers : int or None
        Batches, or actors, at once; by default one for each processor.
    gpus : float
        For each actor.
    """

    name: str
    out: str
    steps: tuple[Step, ...]
    engine: str = "local"
    address: str | None = None
    workers: int | None = None
    gpus: float = 0.0


def load_job(
    path: str | Path,
    *,
    settings: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Job:
    """Read and check a job file.

    Parameters
    ----------
    path : str or Path
    settings : sequence of str
        ``step.key=value``, or ``key=value`` for a key above the steps; the last of equal ones counts.
    environment : mapping, optional
        Of its variables those that begin with `ENVIRONMENT` are settings: ``EMBEDSVC_JOB__EXTRACT__MAX_TOKENS``.
    arguments : mapping, optional
        Keys above the steps that win over all; None values say nothing.

    Raises
    ------
    SettingsError
        For what cannot be read, an unknown step or key (with a suggestion), or a value that does not fit.
    """
    path = Path(path)
    tables = _Tables(_toml(path), str(path))
    for name, value in sorted((environment or {}).items()):
        if name.startswith(ENVIRONMENT):
            words = [word.lower().replace("_", "-") for word in name.removeprefix(ENVIRONMENT).split("__")]
            tables.put(words, value, name)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise SettingsError(f"--set {setting}: there is no =", "The form is --set step.key=value.")
        tables.put([word.strip() for word in key.split(".")], value.strip(), f"--set {key.strip()}")
    top = {key.name: key.default for key in JOB_KEYS} | tables.top
    top |= {name: value for name, value in (arguments or {}).items() if value is not None}
    name = top["name"] or path.stem
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{path}: the job is named {name!r}", "Use letters, digits, - and _.")
    steps = tables.steps()
    _check_sets(steps, str(path))
    return Job(name, top["out"] or name, steps, top["engine"], top["address"], top["workers"], top["gpus"])


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"cannot read the job file {path}: {error.strerror}", "Give the path of a .toml file."
        ) from (error)
    # RecursionError: brackets nested thousands deep.
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path} is no TOML: {error}") from error


class _Tables:
    """Values by table, each checked as it comes; a step's sub-tables share what stands above them."""

    def __init__(self, document: Mapping[str, Any], origin: str) -> None:
        self._origin = origin
        self.top: dict[str, Any] = {}
        self._shared: dict[str, dict[str, Any]] = {}
        self._named: dict[tuple[str, str], dict[str, Any]] = {}
        for name, value in document.items():
            if name in STEP_KEYS:
                if not isinstance(value, dict):
                    raise SettingsError(f"{origin}: {name} is a step, expected a table", f"Write it as [{name}].")
                self._table(name, value)
            else:
                self.top[name] = self._top_key(name, origin).read(value, f"{origin}: {name}")
        if not self._shared:
            raise SettingsError(f"{origin} has no steps", f"Add tables out of: {', '.join(STEP_KEYS)}")

    def put(self, words: Sequence[str], value: str, origin: str) -> None:
        """One value from outside the file, as text, for a step of the file."""
        if len(words) == 1:
            self.top[words[0]] = self._top_key(words[0], origin).parse(value, origin)
            return
        kind, *inner, key = words
        if kind not in STEP_KEYS:
            raise unknown_key(kind, STEP_KEYS, origin)
        if kind not in self._shared or len(inner) > 1 or (inner and (kind, inner[0]) not in self._named):
            listed = ", ".join([*self._shared, *(".".join(pair) for pair in self._named)])
            raise SettingsError(
                f"{origin}: {self._origin} has no step {'.'.join([kind, *inner])!r}", f"Its tables are: {listed}"
            )
        table = self._named[kind, inner[0]] if inner else self._shared[kind]
        table[key] = _key(kind, key, origin).parse(value, origin)

    def steps(self) -> tuple[Step, ...]:
        """All steps, in the order of `STEP_KEYS` and of the file."""
        made = []
        for kind, keys in STEP_KEYS.items():
            if kind not in self._shared:
                continue
            named = {name: values for (owner, name), values in self._named.items() if owner == kind}
            defaults = {key.name: key.default for key in keys} | self._shared[kind]
            for name, values in (named or {"": {}}).items():
                step = Step(f"{kind}.{name}" if name else kind, kind, defaults | values)
                for key in keys:
                    if key.required and not step.values[key.name]:
                        raise SettingsError(f"{self._origin}: {step.name} has no {key.name}")
                made.append(step)
        return tuple(made)

    def _table(self, kind: str, table: Mapping[str, Any]) -> None:
        self._shared[kind] = {}
        for name, value in table.items():
            if not isinstance(value, dict):
                where = f"{self._origin}: {kind}"
                self._shared[kind][name] = _key(kind, name, where).read(value, f"{where}.{name}")
                continue
            if not _NAME.fullmatch(name):
                raise SettingsError(f"{self._origin}: a step is named {kind}.{name}", "Use letters, digits, - and _.")
            where = f"{self._origin}: {kind}.{name}"
            self._named[kind, name] = {
                key: _key(kind, key, where).read(inner, f"{where}.{key}") for key, inner in value.items()
            }

    def _top_key(self, name: str, origin: str) -> Key:
        for key in JOB_KEYS:
            if key.name == name:
                return key
        raise unknown_key(name, [*STEP_KEYS, *(key.name for key in JOB_KEYS)], origin)


def _key(kind: str, name: str, where: str) -> Key:
    for key in STEP_KEYS[kind]:
        if key.name == name:
            return key
    raise unknown_key(name, (key.name for key in STEP_KEYS[kind]), where)


def _check_sets(steps: Sequence[Step], origin: str) -> None:
    """Every step has an extraction to work on: the only one, or one it names by `set`."""
    sets = [step.name for step in steps if step.kind == "extract"]
    if not sets:
        raise SettingsError(f"{origin} has no extract step", "Add [extract] with sources.")
    known = [name.removeprefix("extract.") for name in sets]
    for step in steps:
        if step.kind == "extract":
            continue
        if step.values["set"] is None and len(sets) > 1:
            raise SettingsError(
                f"{origin}: {step.name} does not say which set it works on",
                f'Add set = "…", one of: {", ".join(known)}',
            )
        for key in ("set", "other-set"):
            name = step.values.get(key)
            if name is not None and name not in known:
                raise SettingsError(f"{origin}: {step.name}.{key} is {name!r}", f"The sets are: {', '.join(known)}")
