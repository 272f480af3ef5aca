"""What every route needs: the service, the claim of its request, and how answers and errors are declared."""

from __future__ import annotations

from typing import Any, cast

from fastapi import Request, Response

from embedsvc.service import schemas
from embedsvc.service.front import Claim
from embedsvc.service.service import Service

__all__ = ["ERRORS", "WORK_ERRORS", "claim_of", "json_response", "service_of"]

_MEANINGS = {
    400: "The body is no JSON, or what it asks for contradicts itself or the model",
    401: "No valid API key",
    403: "Another origin, or a host name that is not allowed",
    404: "No such model or set",
    408: "The body did not arrive in time",
    413: "Too large: the body, the texts, their tokens, or the answer",
    415: "The content type is not application/json",
    422: "A field has a wrong value, or a text is too long and must not be cut",
    429: "The queue is full; Retry-After says when to come again",
    503: "Loading, draining, or not loaded",
}

Responses = dict[int | str, dict[str, Any]]


def _declared(*statuses: int) -> Responses:
    return {status: {"model": schemas.ErrorAnswer, "description": _MEANINGS[status]} for status in statuses}


ERRORS = _declared(401, 403, 503)
WORK_ERRORS = _declared(*_MEANINGS)


def service_of(request: Request) -> Service:
    """The service that the application belongs to."""
    return cast(Service, request.app.state.service)


def claim_of(request: Request) -> Claim:
    """What the request claims of the queue."""
    return cast(Claim, request.scope["state"]["claim"])


def json_response(content: bytes, *, headers: dict[str, str] | None = None) -> Response:
    """JSON that is written already."""
    return Response(content, media_type="application/json", headers=headers)
