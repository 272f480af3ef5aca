"""API keys: kept as hashes, compared in constant time.

A key is 32 random bytes, so that a plain SHA-256 of it cannot be searched: what makes passwords need a slow hash is
that people choose them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from embedsvc.errors import SettingsError

__all__ = ["VARIABLE", "Keys", "new_key"]

VARIABLE = "EMBEDSVC_API_KEYS"

_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<digest>[0-9a-f]{64})")


class Keys:
    """Names and hashes of the keys that open a service; without any, it is open.

    Parameters
    ----------
    lines : iterable of str
        ``name:sha256`` each; blank ones and ``# comments`` are skipped.
    origin : str
        Where they come from, for messages.

    Raises
    ------
    SettingsError
        For a line of another form, which is not repeated: it may hold a key.
    """

    def __init__(self, lines: Iterable[str] = (), origin: str = "the keys") -> None:
        self._digests: dict[str, bytes] = {}
        for number, line in enumerate(lines, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if not match:
                raise SettingsError(
                    f"{origin}: line {number} is not of the form name:sha256",
                    "It holds the hash of a key and not the key. Make both with `embedsvc serve --new-key NAME`.",
                )
            if match["name"] in self._digests:
                raise SettingsError(f"{origin}: line {number} repeats the name {match['name']!r}")
            self._digests[match["name"]] = bytes.fromhex(match["digest"])

    @classmethod
    def read(cls, path: str | Path | None, environment: str = "") -> Self:
        """Keys of a file, or of the value of `VARIABLE` with its lines apart by commas or line breaks."""
        if path is None:
            return cls(re.split(r"[,\n]", environment), VARIABLE)
        try:
            lines = Path(path).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"the API keys cannot be read: {error}") from error
        keys = cls(lines, str(path))
        if not keys:
            raise SettingsError(
                f"{path} holds no API key, so it would close the service to nobody",
                "Add a line with `embedsvc serve --new-key NAME`, or leave --api-keys out.",
            )
        return keys

    def __len__(self) -> int:
        return len(self._digests)

    def __repr__(self) -> str:
        return f"<Keys of {', '.join(self._digests) or 'nobody'}>"

    def owner(self, key: str) -> str | None:
        """Name of the key, or None if it opens nothing. Takes the same time whichever it is."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        found = None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def new_key(name: str) -> tuple[str, str]:
    """A fresh key, and the line to keep of it."""
    key = f"es-{secrets.token_urlsafe(32)}"
    line = f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"
    Keys([line], f"--new-key {name}")
    return key, line
