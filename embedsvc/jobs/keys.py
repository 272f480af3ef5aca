"""What may stand in a job file: the keys of each step, in the words of the command line, and what values they take.

A test holds every key to the option of the same name of the command of the same name, its default included, and to a
parameter of the public function behind it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedsvc.errors import SettingsError, did_you_mean

__all__ = ["JOB_KEYS", "STEP_KEYS", "Key", "unknown_key"]

Kind = Literal["text", "names", "counts", "whole", "number", "flag", "whole or auto"]

_EXPECTED = {
    "text": "a string",
    "names": "a list of strings, or one string a,b,c",
    "counts": "a list of whole numbers",
    "whole": "a whole number",
    "number": "a number",
    "flag": "true or false",
    "whole or auto": "a whole number, or auto",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a step.

    Attributes
    ----------
    name : str
        As on the command line, without the dashes before it.
    kind : str
    default : object
        None where the command has none.
    parameter : str
        What it becomes: a parameter of the public function, or a field of `Settings`, `ReadOptions`, `LoadOptions`.
    least : int or None
    choices : tuple of str
        Empty allows any.
    required : bool
    """

    name: str
    kind: Kind
    default: Any = None
    parameter: str = ""
    least: float | None = None
    choices: tuple[str, ...] = ()
    required: bool = False

    def read(self, value: object, where: str) -> Any:  # noqa: ANN401 - whatever the kind says
        """The value of a job file in its one form, lists as tuples.

        Parameters
        ----------
        value : object
            Any TOML value.
        where : str
            The place it comes from, for messages.

        Raises
        ------
        SettingsError
            If it is not of the kind, out of range or not among the choices.
        """
        read = self._of_kind(value)
        if read is None:
            raise SettingsError(f"{where} is {_shown(value)}", f"Expected {_EXPECTED[self.kind]}.")
        if self.choices and read not in self.choices:
            raise SettingsError(f"{where} is {_shown(value)}", f"Expected one of: {', '.join(self.choices)}")
        low = [number for number in (read if isinstance(read, tuple) else (read,)) if not isinstance(number, str)]
        if self.least is not None and any(number < self.least for number in low):
            raise SettingsError(f"{where} is {_shown(value)}", f"Expected {self.least:g} or more.")
        return read

    def parse(self, text: str, where: str) -> Any:  # noqa: ANN401 - see `read`
        """The value of ``--set`` or of an environment variable: TOML where the kind is no string."""
        if self.kind in ("text", "names") and text[:1] not in ("[", '"', "'"):
            return self.read(text, where)
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            value = text
        return self.read(value, where)

    def _of_kind(self, value: object) -> Any:  # noqa: ANN401 - see `read`
        """The value if it is of the kind, else None."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        match self.kind:
            case "text":
                return value if isinstance(value, str) and value else None
            case "names":
                listed = value.split(",") if isinstance(value, str) else value
                if not isinstance(listed, list) or not all(isinstance(name, str) and name.strip() for name in listed):
                    return None
                return tuple(name.strip() for name in listed)
            case "counts":
                if isinstance(value, str):
                    numbers = value.split(",")
                    return tuple(map(int, numbers)) if all(part.strip().isdecimal() for part in numbers) else None
                listed = [value] if whole else value
                ok = isinstance(listed, list) and all(type(number) is int for number in listed)
                return tuple(listed) if ok and isinstance(listed, list) else None
            case "whole":
                return value if whole else None
            case "number":
                return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
            case "flag":
                return value if isinstance(value, bool) else None
            case "whole or auto":
                return value if whole or value == "auto" else None


_SEED = Key("seed", "whole", 0, "seed", least=0)
_VARIANTS = Key("variants", "names", None, "variants")
# Which set a step works on; on the command line these are arguments.
_SET = Key("set", "text", None, "embeddings")

STEP_KEYS: Mapping[str, tuple[Key, ...]] = {
    "extract": (
        Key("sources", "names", None, "sources", required=True),
        Key("model", "text", "minilm-l6-sentiment", "model"),
        Key("taps", "names", None, "taps"),
        Key("modes", "names", ("inference", "head"), "modes", choices=()),
        Key("passes", "whole", None, "passes", least=1),
        Key("seed", "whole", None, "seed", least=0),
        Key("text-column", "text", None, "text_column"),
        Key("id-column", "text", None, "id_column"),
        Key("label-column", "text", None, "label_column"),
        Key("whole-files", "flag", False, "whole_files"),
        Key("on-error", "text", "fail", "on_error", choices=("fail", "skip")),
        Key("on-long", "text", "truncate", "on_long", choices=("truncate", "fail", "chunk-mean")),
        Key("max-tokens", "whole", None, "max_tokens", least=1),
        Key("rate", "number", None, "rate", least=0),
        Key("dropout-layer", "text", None, "dropout_layer"),
        Key("preprocess", "text", None, "preprocess"),
        Key("engine", "text", "auto", "engine", choices=("auto", "openvino", "tensorflow")),
        Key("precision", "text", "float32", "precision", choices=("float32", "bfloat16", "int8")),
        Key("trust-model", "flag", False, "trust"),
        Key("token-budget", "whole", 1024, "token_budget", least=1),
        Key("rows-per-part", "whole", 4096, "rows_per_part", least=1),
    ),
    "compare": (
        _SET,
        Key("other-set", "text", None, "other"),
        _VARIANTS,
        Key("join", "text", "strict", "join", choices=("strict", "inner")),
        Key(
            *("metrics", "names", ("cka", "procrustes", "rsa", "cosine", "knn_overlap", "second_order_cosine")),
            parameter="measures",
        ),
        Key("ks", "counts", None, "ks", least=1),
        Key("permutations", "whole", 100, "n_permutations", least=20),
        Key("bootstrap", "whole", 200, "n_bootstrap", least=20),
        Key("simulations", "whole", None, "n_simulations", least=2),
        Key("sample", "whole", 1000, "sample", least=10),
        _SEED,
    ),
    "cluster": (
        _SET,
        Key("method", "text", "kmeans", "method"),
        Key("k", "whole or auto", "auto", "k", least=2),
        _VARIANTS,
        Key("resamples", "whole", 20, "n_resamples", least=0),
        Key("passes", "whole", 10, "n_passes", least=0),
        Key("max-texts", "whole", None, "max_texts", least=2),
        _SEED,
    ),
    "project": (
        _SET,
        Key("method", "text", "pca", "method"),
        _VARIANTS,
        _SEED,
        Key("neighbors", "whole", 15, "n_neighbors", least=2),
    ),
    "stability": (
        _SET,
        Key("passes", "whole", 100, "passes", least=2),
        Key("seed", "whole", None, "seed", least=0),
        Key("k", "whole", 10, "k", least=1),
        Key("neighbor-passes", "whole", 5, "neighbor_passes", least=0),
        Key("cluster-passes", "whole", 5, "cluster_passes", least=0),
        Key("cluster-method", "text", "kmeans", "cluster_method"),
        Key("clusters", "whole or auto", "auto", "clusters", least=2),
    ),
    "probe": (
        _SET,
        _VARIANTS,
        Key("folds", "whole", 5, "folds", least=2),
        Key("repeats", "whole", 4, "repeats", least=1),
        Key("max-texts", "whole", 5_000, "max_texts", least=1),
        _SEED,
    ),
    "report": (
        _SET,
        Key("other-set", "text", None, "other"),
        Key("join", "text", "strict", "join", choices=("strict", "inner")),
        Key("also", "names", None, "also"),
        _VARIANTS,
        Key("k", "whole", 10, "k", least=1),
        Key("passes", "whole", None, "passes", least=2),
        Key("clusters", "whole or auto", "auto", "clusters", least=2),
        Key("cluster-method", "text", "kmeans", "cluster_method"),
        Key("map-method", "text", None, "map_method"),
        _SEED,
    ),
}

# Keys above the steps: where and how the job runs. None of them changes a result.
JOB_KEYS: tuple[Key, ...] = (
    Key("name", "text"),
    Key("out", "text"),
    Key("engine", "text", "local"),
    Key("address", "text"),
    Key("workers", "whole", least=1),
    Key("gpus", "number", 0.0, least=0),
)


def unknown_key(name: str, known: Iterable[str], where: str) -> SettingsError:
    """The error for a key that does not exist."""
    names = list(known)
    guess = did_you_mean(name.replace("_", "-"), names)
    return SettingsError(f"{where}: there is no key {name!r}", f"{guess}Known: {', '.join(names)}")


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, default=str)[:80]
