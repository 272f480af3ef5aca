"""What clients of text-embeddings-inference call, as it has it: they only change the address."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from embedsvc.service import answers, schemas
from embedsvc.service.encoding import Embedded, unit
from embedsvc.service.openai import embed
from embedsvc.service.routing import ERRORS, WORK_ERRORS, json_response, service_of

__all__ = ["router"]

_LARGE = 20_000

router = APIRouter(tags=["text-embeddings-inference"])


@router.post("/embed", responses={200: {"model": list[list[float | None]]}, **WORK_ERRORS})
@router.post("/", responses={200: {"model": list[list[float | None]]}, **WORK_ERRORS}, include_in_schema=False)
async def embed_texts(asked: schemas.EmbedRequest, request: Request) -> Response:
    """Vectors of texts by the first model and its default tap, an array of arrays.

    Where truncate is true, the header X-Truncated lists the texts that were cut: the body has no place to say so.
    """
    service = service_of(request)
    _, made = await embed(
        request, None, asked.inputs, on_long=asked.on_long, keep_end=asked.keep_end, dimensions=asked.dimensions
    )

    def write() -> bytes:
        return answers.dumps(answers.rows(unit(made.vectors) if asked.normalize else made.vectors, "float"))

    content = await service.encoding.aside(write) if made.vectors.size > _LARGE else write()
    return json_response(content, headers=_cut(made))


@router.post("/similarity", responses={200: {"model": list[float | None]}, **WORK_ERRORS})
async def similarity(asked: schemas.SimilarityRequest, request: Request) -> Response:
    """The cosine of a text with each of some others, by the first model and its default tap."""
    texts = [asked.inputs.source_sentence, *asked.inputs.sentences]
    how = asked.parameters or schemas.Truncation.model_validate({})
    _, made = await embed(request, None, texts, on_long=how.on_long, keep_end=how.keep_end)
    vectors = unit(made.vectors)
    return json_response(answers.dumps(np.clip(vectors[1:] @ vectors[0], -1, 1)), headers=_cut(made))


def _cut(made: Embedded) -> dict[str, str]:
    cut = ",".join(str(row) for row, truncated in enumerate(made.truncated.tolist()) if truncated)
    return {"x-truncated": cut} if cut else {}


@router.get("/info", responses={200: {"model": dict[str, Any]}, **ERRORS})
async def info(request: Request) -> Response:
    """The first model, in the words of text-embeddings-inference's clients."""
    service = service_of(request)
    limits = service.settings.limits
    hosted, tap = service.models.resolve(None)
    with hosted.use() as encoder:
        spec = encoder.spec
    limit = min((each for each in (limits.max_tokens, spec.max_tokens) if each is not None), default=None)
    return json_response(
        answers.dumps(
            {
                "model_id": hosted.name,
                "model_sha": spec.digest,
                "model_dtype": "float32",
                "model_type": {"embedding": {"pooling": tap}},
                "max_concurrent_requests": limits.connections,
                "max_input_length": limit,
                "max_batch_tokens": service.settings.token_budget,
                "max_client_batch_size": limits.texts,
                "auto_truncate": False,
                "tokenization_workers": 2,
                "version": _version(),
            }
        )
    )


def _version() -> str:
    from importlib.metadata import version

    return version("embedsvc")
