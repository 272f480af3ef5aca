"""What a request gets when it cannot be answered: one shape for all routes, OpenAI's, so that clients know it.

``{"error": {"message": …, "type": …, "param": …, "code": …}}``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from embedsvc.errors import (
    DegenerateInputError,
    EmbedsvcError,
    InputError,
    ModelError,
    SettingsError,
    StoreError,
    UnknownNameError,
    UnknownTapError,
    UnknownVariantError,
)
from embedsvc.service.batcher import Closed

__all__ = ["Problem", "body_of", "problem_of", "problem_of_schema"]

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
}


class Problem(EmbedsvcError):
    """An answer that is an error.

    Parameters
    ----------
    status : int
        HTTP status.
    problem : str
        What happened and what was expected.
    hint : str, optional
        What to do next.
    code : str, optional
        Short name for programs; the status's own by default (``too_many_requests``).
    param : str, optional
        The field it is about.
    retry_after : int, optional
        Seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        problem: str,
        hint: str = "",
        *,
        code: str = "",
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(problem, hint)
        self.status = status
        self.code = code or HTTPStatus(status).name.lower()
        self.param = param
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}


def body_of(problem: Problem) -> dict[str, Any]:
    """The JSON of an error."""
    return {
        "error": {
            # A surrogate that came in must not keep the answer from going out.
            "message": _sentence(problem).encode("utf-8", "replace").decode(),
            "type": _TYPES.get(problem.status, "invalid_request_error"),
            "param": problem.param,
            "code": problem.code,
        }
    }


def _sentence(problem: Problem) -> str:
    end = "" if problem.problem.endswith((".", "?", "!")) else "."
    return f"{problem.problem}{end} {problem.hint}" if problem.hint else problem.problem


def problem_of(error: EmbedsvcError) -> Problem:
    """The library's error as an answer."""
    if isinstance(error, Problem):
        return error
    status = next((status for kinds, status in _STATUS.items() if isinstance(error, kinds)), 500)
    return Problem(status, error.problem, error.hint)


_STATUS: dict[tuple[type[EmbedsvcError], ...], int] = {
    (Closed,): 503,
    (SettingsError, UnknownTapError, UnknownNameError, UnknownVariantError, DegenerateInputError, InputError): 400,
    (ModelError, StoreError): 500,
}


def problem_of_schema(errors: Sequence[Mapping[str, Any]], *, json: bool) -> Problem:
    """What pydantic found, without the values it found it in: they may be texts.

    Parameters
    ----------
    errors : sequence of mapping
    json : bool
        Whether the request said that its body is JSON: no other body is read as such.
    """
    if any(error["type"] == "json_invalid" for error in errors):
        return Problem(400, "the body is no JSON", "Send a JSON object.", code="invalid_json")
    first = min(errors, key=lambda error: len(error["loc"]))
    if tuple(first["loc"]) == ("body",):
        if not json:
            return Problem(
                415,
                "the content type is not application/json",
                "Send the header 'content-type: application/json'; curl takes it after -H.",
            )
        return Problem(422, "the body is no JSON object", "GET /docs describes every field.", code="invalid_value")
    place = [str(part) for part in first["loc"] if part != "body"]
    # A union names its branches in the path; the field is what the caller knows.
    param = place[0] if place else None
    if len(errors) > 1 and all(error["loc"][:2] == first["loc"][:2] for error in errors) and len(first["loc"]) > 2:
        wanted = list(dict.fromkeys(error["msg"] for error in errors))
        message = f"{param} has a wrong value: {'; or: '.join(wanted[:4])}"
    elif first["type"] == "extra_forbidden":
        message = f"{'.'.join(place)} is no field of this request"
    else:
        message = f"{'.'.join(place) or 'the body'}: {first['msg']}"
    return Problem(422, message, "GET /docs describes every field.", code="invalid_value", param=param)
