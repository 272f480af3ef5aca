"""What a service is told when it starts."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from embedsvc.batching import OnLong
from embedsvc.errors import SettingsError
from embedsvc.machine import processors
from embedsvc.models.base import LoadOptions
from embedsvc.service.keys import Keys
from embedsvc.service.logs import LogFormat

__all__ = ["Limits", "Settings", "is_loopback"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one client may ask, and how much may wait.

    Attributes
    ----------
    body_bytes : int
        Longest request body; more is a 413.
    texts : int
        Texts in one request; more is a 413. 2,048 is what OpenAI takes.
    request_tokens : int
        Tokens the model would read for one request, over all its passes; more is a 413.
    max_tokens : int or None
        Tokens of one text, special ones included; None takes the model's own limit.
    answer_floats : int
        Numbers in one answer; more is a 413.
    passes : int
        Passes of a stochastic mode; more is a 413.
    compare_texts : int
        Texts of a set that `/v1/compare` takes: larger ones belong to ``embedsvc compare``.
    queue_seconds : float
        How long a newcomer may have to wait for its turn; when it would be longer, requests are answered 429. A batch
        for each worker may always wait. What is admitted is answered within this and a batch or two, whatever comes
        behind it; longer ones take turns.
    held_bytes : int
        Bodies held at one time, all requests together.
    connections : int
    header_seconds, body_seconds, send_seconds : float
        For a client to send the head of a request, its body, and to take a piece of the answer.
    """

    body_bytes: int = 8 << 20
    texts: int = 2048
    request_tokens: int = 131_072
    max_tokens: int | None = None
    answer_floats: int = 16_000_000
    passes: int = 10_000
    compare_texts: int = 2_000
    queue_seconds: float = 0.3
    held_bytes: int = 64 << 20
    connections: int = 512
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    send_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SettingsError(f"{name} is {value}, expected more than 0")


@dataclass(frozen=True, slots=True)
class Settings:
    """A service, before it starts.

    Attributes
    ----------
    models : mapping of str to str
        Name in the API to uri; the first is the default one.
    sets : mapping of str to str
        Name in the API to the path of a stored set.
    options : LoadOptions
        For every model.
    tap : str or None
        What requests get that name none. None: `pre_dropout` of a model whose head is trained; of another one `mean`,
        since its pooler carries nothing.
    on_long : OnLong
        Of requests that do not say: truncate (and say so) or fail.
    token_budget : int
        Tokens a batch.
    workers : int
        Batches at once.
    limits : Limits
    keys : Keys
    host : str
    port : int
    allow_public : bool
        Bind to more than loopback although there are no keys.
    hosts : tuple of str
        Names by which a loopback service may be called besides localhost.
    drain_seconds : float
        How long work under way may take after SIGTERM.
    log_format : LogFormat
    tls : mapping
        uvicorn's ``ssl_…`` options.

    Raises
    ------
    SettingsError
        For a public address without keys, or a name that no URL could hold.
    """

    models: Mapping[str, str]
    sets: Mapping[str, str] = field(default_factory=dict)
    options: LoadOptions = field(default_factory=LoadOptions)
    tap: str | None = None
    on_long: OnLong = OnLong.TRUNCATE
    token_budget: int = 1024
    workers: int = field(default_factory=processors)
    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=Keys)
    host: str = "127.0.0.1"
    port: int = 8080
    allow_public: bool = False
    hosts: tuple[str, ...] = ()
    drain_seconds: float = 30.0
    log_format: LogFormat = LogFormat.AUTO
    tls: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.models:
            raise SettingsError("no model was named", "Give one: --model minilm-l6")
        if self.on_long is OnLong.CHUNK_MEAN:
            raise SettingsError("on_long is 'chunk-mean', expected 'truncate' or 'fail'", "Split long texts yourself.")
        for kind, names in (("model", self.models), ("set", self.sets)):
            for name in names:
                if not name or set(name) - _NAME:
                    raise SettingsError(
                        f"the {kind} name {name!r} does not fit into a URL",
                        f"Name it with letters, digits, '.', '_' and '-': --{kind} NAME={names[name]}",
                    )
        if not self.keys and not is_loopback(self.host) and not self.allow_public:
            raise SettingsError(
                f"{self.host} can be reached from other machines, and no API keys are set: anybody could use it",
                "Make a key with `embedsvc serve --new-key NAME` and give its line in --api-keys FILE; bind to "
                "127.0.0.1; or, behind a proxy that checks who asks, say --allow-public.",
            )


_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only.

    >>> is_loopback("127.0.0.2"), is_loopback("localhost"), is_loopback("::"), is_loopback("example.org")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
