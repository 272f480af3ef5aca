"""Named things that users can add to: loaders, readers, formats, metrics …

A registry maps a name to an object, or to ``"module:attribute"``, imported on first use so that listing
the names stays instant. Other packages add theirs through the entry-point group ``embedsvc.<kind>``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from embedsvc.errors import UnknownNameError, did_you_mean

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Name to object, lazily imported.

    Parameters
    ----------
    kind : str
        Singular noun used in messages ("loader") and in the entry-point group (``embedsvc.loader``).
    entries : mapping of str to T or str
        A string value is ``"module:attribute"`` and is imported when first asked for.

    >>> shapes = Registry("shape", {"line": "builtins:list"})
    >>> shapes["line"]
    <class 'list'>
    """

    def __init__(self, kind: str, entries: Mapping[str, T | str]) -> None:
        self.kind = kind
        self._entries: dict[str, T | str] = dict(entries)
        self._plugins_read = False

    def register(self, name: str, value: T | str) -> None:
        """Add an entry; a name that is taken is an error, so that no plug-in silently replaces a built-in."""
        if name in self._entries:
            raise UnknownNameError(f"the {self.kind} {name!r} is registered already", "Choose another name.")
        self._entries[name] = value

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            self._read_plugins()
        if name not in self._entries:
            guess = did_you_mean(name, self._entries)
            raise UnknownNameError(
                f"no {self.kind} named {name!r}", f"{guess}Known: {', '.join(sorted(self._entries))}"
            )
        value = self._entries[name]
        if isinstance(value, str):
            module, _, attribute = value.partition(":")
            value = cast(T, getattr(import_module(module), attribute))
            self._entries[name] = value
        return value

    def __contains__(self, name: object) -> bool:
        # Mapping's own would import the entry.
        self._read_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._read_plugins()
        return iter(self._entries)

    def __len__(self) -> int:
        self._read_plugins()
        return len(self._entries)

    def _read_plugins(self) -> None:
        if self._plugins_read:
            return
        self._plugins_read = True
        for point in entry_points(group=f"embedsvc.{self.kind}"):
            self._entries.setdefault(point.name, point.value)
