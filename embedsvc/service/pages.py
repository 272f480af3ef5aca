"""The page at ``/`` and the reference at ``/docs``: files of ours, no script of others, a strict policy."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from embedsvc.errors import MissingExtraError
from embedsvc.service.routing import service_of

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_FILES = Path(__file__).parent / "page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="5" cy="5" r="3" fill="#4477aa"/>'
    b'<circle cx="11" cy="6" r="2" fill="#ee6677"/><circle cx="8" cy="12" r="2.5" fill="#228833"/></svg>'
)


@router.get("/")
async def page(request: Request) -> Response:
    """The page to try it on."""
    service = service_of(request)
    return _html(
        _template("index.html.jinja").render(guarded=bool(service.settings.keys), sets=[*service.settings.sets])
    )


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Every route, its fields and its errors, from the OpenAPI description."""
    return _html(_template("docs.html.jinja").render(api=request.app.openapi(), resolve=_resolver(request)))


@router.get("/page.js")
async def script() -> Response:
    """The script of the page."""
    return Response(_read("page.js"), media_type="text/javascript; charset=utf-8")


@router.get("/page.css")
async def style() -> Response:
    """The style of the pages."""
    return Response(_read("page.css"), media_type="text/css; charset=utf-8")


@router.get("/favicon.ico")
async def icon() -> Response:
    """Three dots."""
    return Response(_ICON, media_type="image/svg+xml")


def _html(content: str) -> Response:
    return Response(content, media_type="text/html; charset=utf-8", headers={"content-security-policy": _POLICY})


@cache
def _read(name: str) -> bytes:
    return (_FILES / name).read_bytes()


@cache
def _template(name: str) -> Any:  # noqa: ANN401 - jinja2 is imported when a page is asked for
    try:
        import jinja2
    except ModuleNotFoundError:
        raise MissingExtraError.of("jinja2", "serve") from None

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FILES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template(name)


def _resolver(request: Request) -> Any:  # noqa: ANN401 - a function for the template
    """Fields of a schema, whatever it refers to: name, type and what is said about it."""
    schemas: dict[str, Any] = request.app.openapi()["components"]["schemas"]

    def named(schema: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        return found

    def kind(schema: dict[str, Any]) -> str:
        if "$ref" in schema:
            return str(schema["$ref"].rpartition("/")[2])
        if "anyOf" in schema:
            return " or ".join(dict.fromkeys(kind(each) for each in schema["anyOf"]))
        if "enum" in schema:
            return " | ".join(map(str, schema["enum"]))
        if "const" in schema:
            return str(schema["const"])
        if schema.get("type") == "array":
            return f"[{kind(schema.get('items', {}))}]"
        return str(schema.get("type", "any"))

    def fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
        schema = named(schema)
        required = schema.get("required", ())
        return [
            {
                "name": name,
                "kind": kind(each),
                "required": name in required,
                "default": each.get("default"),
                "about": each.get("description", ""),
            }
            for name, each in schema.get("properties", {}).items()
        ]

    return fields
