"""Every error a caller may want to handle.

EmbedsvcError                    one clear problem, and a hint that says what to do next
├── UnknownNameError             a registry has no such name
├── SettingsError                options that contradict each other or lie out of range
├── DegenerateInputError         vectors or labels for which a number has no value (says which, and how many)
│   └── NoValueError             one measure has none, of vectors that others can be taken of
├── InputError                   a text source cannot be read as asked (names file and row)
│   └── DuplicateIdError         two rows share an id (names both places)
├── ModelError                   a model cannot be loaded or does not have what was asked for
│   ├── ModelFormatError         torn, foreign or newer files
│   ├── UnsafeModelError         the model could run code or touch files; refused unless trusted
│   └── UnknownTapError          the model has no such tap
├── FetchError                   a named model or data set could not be downloaded or verified
├── StoreError                   an embedding set cannot be read or written
│   ├── LockedError              another process is writing there
│   ├── StoreMismatchError       resuming under other settings or inputs (names the difference)
│   └── UnknownVariantError      the set holds no such variant
├── StorageError                 an object store refuses (names the address)
│   └── UnreachableError         it does not answer, or not as it should; it may later
└── MissingExtraError            an optional dependency is not installed (names the pip command)
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "DegenerateInputError",
    "DuplicateIdError",
    "EmbedsvcError",
    "FetchError",
    "InputError",
    "LockedError",
    "MissingExtraError",
    "ModelError",
    "ModelFormatError",
    "NoValueError",
    "SettingsError",
    "StorageError",
    "StoreError",
    "StoreMismatchError",
    "UnknownNameError",
    "UnknownTapError",
    "UnknownVariantError",
    "UnreachableError",
    "UnsafeModelError",
    "did_you_mean",
]


class EmbedsvcError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    problem : str
        What happened, where, with the offending value, and what was expected.
    hint : str, optional
        What to do next.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}\n{self.hint}" if self.hint else self.problem


class UnknownNameError(EmbedsvcError, KeyError):
    """A registry has no entry of that name; a KeyError too, since a registry is a Mapping."""


class SettingsError(EmbedsvcError):
    """Options contradict each other or lie outside their range."""


class DegenerateInputError(EmbedsvcError):
    """What was asked has no value for these vectors or labels: constant, not finite, or too few."""


class NoValueError(DegenerateInputError):
    """One measure has no value for vectors that others can be taken of; a comparison leaves it out and says why."""


class InputError(EmbedsvcError):
    """A text source cannot be read as asked."""


class DuplicateIdError(InputError):
    """Two rows share an id."""


class ModelError(EmbedsvcError):
    """A model cannot be loaded, or lacks what was asked of it."""


class ModelFormatError(ModelError):
    """The files are torn, foreign or of a newer version."""


class UnsafeModelError(ModelError):
    """The model could run code or touch files, and was not declared trusted."""


class UnknownTapError(ModelError):
    """The model has no tap of that name."""


class FetchError(EmbedsvcError):
    """A named model or data set could not be downloaded or verified."""


class StoreError(EmbedsvcError):
    """An embedding set cannot be read or written."""


class LockedError(StoreError):
    """Another process is writing there; it may be done soon."""


class StoreMismatchError(StoreError):
    """The directory holds a run under other settings or inputs."""


class UnknownVariantError(StoreError):
    """The set holds no variant of that name."""


class StorageError(EmbedsvcError):
    """An object store refuses what was asked of it."""


class UnreachableError(StorageError):
    """An object store does not answer, or says that it cannot now; it may later."""


class MissingExtraError(EmbedsvcError):
    """An optional dependency is not installed."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """The one message form for a missing extra."""
        return cls(
            f"this needs the package {package!r}, which is not installed", f'Run: pip install "embedsvc[{extra}]"'
        )


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """How a hint begins where a name is not known: the known one most like it, or nothing.

    Parameters
    ----------
    name : str
        What was given.
    known : iterable of str
        What it could have been; upper and lower case are taken as alike.
    cutoff : float, default 0.6
        How alike the two must be, in [0, 1], by `difflib.SequenceMatcher.ratio`.

    Returns
    -------
    str
        ``"Did you mean 'inference'? "``, with the blank for what follows; empty if nothing is like it.
    """
    from difflib import get_close_matches  # here, since every --help loads this module

    folded = {each.casefold(): str(each) for each in known}
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return f"Did you mean {folded[near[0]]!r}? " if near else ""
