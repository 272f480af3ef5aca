"""Who may ask, and what every answer says to browsers."""

from __future__ import annotations

from collections.abc import Mapping

from embedsvc.service.keys import Keys
from embedsvc.service.problems import Problem
from embedsvc.service.settings import Settings, is_loopback

__all__ = ["OPEN", "SECURITY_HEADERS", "Shield"]

# What needs no key: probes have none, and a browser can send one only from a page that it could load without.
OPEN = frozenset({"/health", "/ready", "/", "/page.js", "/page.css", "/docs", "/openapi.json", "/favicon.ico"})

SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}


class Shield:
    """Checks that look at the head of a request only.

    CORS is off: no answer ever allows another origin. That keeps scripts of other sites from reading answers; so that
    they cannot ask for anything either, requests that say they come from another origin are refused, and a service
    that listens on loopback answers to names of loopback only (a stranger's name may be made to lead here, which
    browsers would then take for one origin: DNS rebinding).
    """

    def __init__(self, settings: Settings) -> None:
        self._keys: Keys = settings.keys
        self._names = {name.lower() for name in settings.hosts} if is_loopback(settings.host) else None

    def owner(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> str:
        """Name of the key that a request came with, "" where it needs none.

        Raises
        ------
        Problem
            401 or 403.
        """
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if self._names is not None and host and not is_loopback(name) and name not in self._names:
            raise Problem(
                403,
                "this service listens on loopback and answers to names of loopback only",
                "Call it as 127.0.0.1 or localhost, or start it with --allow-host NAME.",
                code="unknown_host",
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").partition("://")[2].lower() != host:
            raise Problem(403, "requests of pages from other origins are refused (CORS is off)", code="foreign_origin")
        if not self._keys or (path in OPEN and method in ("GET", "HEAD") and b"authorization" not in headers):
            return ""
        scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        owner = self._keys.owner(key.strip()) if scheme.lower() == "bearer" else None
        if owner is None and path not in OPEN:
            raise Problem(
                401,
                "no valid API key came with the request",
                "Send it as the header Authorization: Bearer KEY.",
                code="invalid_api_key",
            )
        return owner or ""
