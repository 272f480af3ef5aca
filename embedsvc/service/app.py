"""The ASGI application: routes, errors, and the front around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from embedsvc.errors import EmbedsvcError
from embedsvc.service import answers, openai, own, pages, probes, tei
from embedsvc.service.front import Front
from embedsvc.service.problems import Problem, body_of, problem_of, problem_of_schema
from embedsvc.service.service import Service
from embedsvc.service.settings import Settings

__all__ = ["create_app"]

_DESCRIPTION = "Embeddings of text classifiers before and after dropout, in inference and training modes."


def create_app(settings: Settings) -> FastAPI:
    """An application that loads its models when it starts up, and answers 503 until they are there.

    ``app.state.service`` is its `Service` from then on.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service: Service = app.state.service
        starting = asyncio.create_task(service.start())
        try:
            yield
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            service.draining = True
            await asyncio.to_thread(service.close)

    app = FastAPI(
        title="embedsvc",
        description=_DESCRIPTION,
        version=version("embedsvc"),
        lifespan=lifespan,
        # FastAPI's own pages load scripts from another site; ours is in pages.py.
        docs_url=None,
        redoc_url=None,
        exception_handlers={
            RequestValidationError: _schema,
            HTTPException: _http,
            EmbedsvcError: _known,
        },
    )
    app.state.service = service = Service(settings)
    for router in (openai.router, own.router, tei.router, probes.router, pages.router):
        app.include_router(router)
    app.add_middleware(Front, service=service)
    return app


def _response(problem: Problem) -> Response:
    return Response(
        answers.dumps(body_of(problem)), problem.status, headers=problem.headers, media_type="application/json"
    )


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, EmbedsvcError)
    return _response(problem_of(error))


async def _schema(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    return _response(problem_of_schema(error.errors(), json=json))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    hint = "GET /docs lists what there is." if error.status_code in (404, 405) else ""
    problem = Problem(error.status_code, str(error.detail), hint)
    problem.headers |= error.headers or {}
    return _response(problem)
