"""What to extract, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedsvc import batching
from embedsvc.errors import SettingsError
from embedsvc.types import Mode, named_fields

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What to extract, and how.

    Attributes
    ----------
    taps : tuple of str
        Empty takes `pre_dropout`, `post_dropout` and, where the head is trained, `logits`.
    modes : tuple of Mode
    passes : int
        Passes of each stochastic mode; 0 without one.
    seed : int or None
        Of the masks; required by stochastic modes, refused without them.
    max_tokens : int or None
        Longest text in tokens, special ones included; None takes the model's limit.
    on_long : batching.OnLong
        What happens to longer texts.
    token_budget : int
        Tokens a batch. It changes speed, and the last bit of a vector at most; never a mask.
    rows_per_part : int
        Rows of a block, and of a part on disk: the unit of work that a kill can cost.
    """

    taps: tuple[str, ...] = ()
    modes: tuple[Mode, ...] = (Mode.INFERENCE,)
    passes: int = 0
    seed: int | None = None
    max_tokens: int | None = None
    on_long: batching.OnLong = batching.OnLong.TRUNCATE
    token_budget: int = 1024
    rows_per_part: int = 4096

    def __post_init__(self) -> None:
        object.__setattr__(self, "on_long", batching.OnLong(self.on_long))  # a plain "chunk-mean" is accepted
        for name in ("token_budget", "rows_per_part"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}, expected 1 or more")

    @classmethod
    def asked(cls, values: Mapping[str, Any]) -> Settings:
        """Settings out of what a command or a job was told, by the names of the fields; other names are left to others.

        Passes and seed may be None: where something is drawn they become 1 and 0.
        """
        drawn = any(mode.stochastic for mode in values["modes"])
        # Where nothing is drawn, a pass or a seed that was given is an error.
        passes = values["passes"] or (1 if drawn else 0)
        seed = 0 if values["seed"] is None and drawn else values["seed"]
        return cls(**named_fields(cls, values) | {"passes": passes, "seed": seed})
