"""``/health``, ``/ready`` and ``/metrics``: what machines that keep a service running ask."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from embedsvc.service import answers
from embedsvc.service.problems import Problem
from embedsvc.service.routing import ERRORS, json_response, service_of

__all__ = ["router"]

router = APIRouter(tags=["Probes"])


@router.get("/health", responses={200: {"model": dict[str, Any]}})
async def health(request: Request) -> Response:
    """Whether the process answers; 200 while it loads and drains, too."""
    service = service_of(request)
    models = {each.name: each.state for each in service.models}
    return json_response(
        answers.dumps({"status": "draining" if service.draining else "ok", "active": service.active, "models": models})
    )


@router.get("/ready", responses={200: {"model": dict[str, Any]}, **ERRORS})
async def ready(request: Request) -> Response:
    """Whether it takes work; 503 while it loads or drains."""
    service = service_of(request)
    if service.draining:
        raise Problem(503, "the service is stopping", code="draining", retry_after=5)
    if not service.ready:
        states = ", ".join(f"{each.name} is {each.state}" for each in service.models)
        raise Problem(503, f"not every model is ready: {states}", code="not_ready", retry_after=5)
    return json_response(answers.dumps({"status": "ready"}))


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **ERRORS}, response_class=Response)
async def metrics(request: Request) -> Response:
    """Counts, latencies, queue, batches and models in Prometheus' text format."""
    return Response(service_of(request).metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")
