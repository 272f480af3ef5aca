"""Option values that several commands read alike."""

from __future__ import annotations

from embedsvc.errors import SettingsError, did_you_mean
from embedsvc.types import Mode

__all__ = ["parse_modes", "split"]


def split(value: str | None) -> list[str]:
    """Names out of ``a,b,c``; none out of nothing."""
    return [part.strip() for part in (value or "").split(",") if part.strip()]


def parse_modes(value: str) -> tuple[Mode, ...]:
    """Modes out of ``inference,head``.

    Raises
    ------
    SettingsError
        For an unknown one, or none at all.
    """
    names = split(value)
    unknown = [name for name in names if name not in set(Mode)]
    if unknown or not names:
        guess = did_you_mean(unknown[0], Mode, cutoff=0.5) if unknown else ""
        raise SettingsError(
            f"--modes is {value!r}", f"{guess}Expected one or more of: {', '.join(Mode)}, separated by commas."
        )
    return tuple(Mode(name) for name in names)
