"""``/v1/embeddings`` and ``/v1/models`` as OpenAI has them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from embedsvc.batching import OnLong
from embedsvc.models.base import Encoder
from embedsvc.service import answers, schemas
from embedsvc.service.encoding import Embedded, unit
from embedsvc.service.problems import Problem
from embedsvc.service.routing import ERRORS, WORK_ERRORS, claim_of, json_response, service_of

__all__ = ["check_dimensions", "embed", "router"]

_LARGE = 20_000  # numbers in an answer from which on it is written beside the event loop: below a millisecond

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/embeddings", responses={200: {"model": schemas.EmbeddingsAnswer}, **WORK_ERRORS})
async def embeddings(asked: schemas.EmbeddingsRequest, request: Request) -> Response:
    """Vectors of texts or token ids.

    The model is a name, or name/tap; where no tap is named it is `pre_dropout` if the model's head is trained, else
    `mean`. Vectors have length 1 unless normalize is false.
    """
    service = service_of(request)
    on_long = service.settings.on_long
    if asked.truncate is not None:
        on_long = OnLong.TRUNCATE if asked.truncate else OnLong.FAIL
    name, made = await embed(request, asked.model, asked.input, on_long=on_long, dimensions=asked.dimensions)

    def write() -> bytes:
        vectors = unit(made.vectors) if asked.normalize else made.vectors
        items = [
            {"object": "embedding", "index": index, "embedding": row, "n_tokens": count, "truncated": cut}
            for index, (row, count, cut) in enumerate(
                zip(
                    answers.rows(vectors, asked.encoding_format),
                    made.n_tokens.tolist(),
                    made.truncated.tolist(),
                    strict=True,
                )
            )
        ]
        usage = {"prompt_tokens": made.tokens, "total_tokens": made.tokens}
        return answers.dumps({"object": "list", "data": items, "model": name, "usage": usage})

    large = made.vectors.size > _LARGE
    return json_response(await service.encoding.aside(write) if large else write())


@router.get("/v1/models", responses={200: {"model": schemas.ModelList}, **ERRORS})
async def models(request: Request) -> Response:
    """Every model and, once it is loaded, every tap of it: what the field model takes."""
    data: list[dict[str, Any]] = []
    for hosted in service_of(request).models:
        data.append({**hosted.to_json()})
        if hosted.encoder is not None:
            basis = {"object": "model", "created": int(hosted.since), "owned_by": "embedsvc"}
            data += [
                {"id": f"{hosted.name}/{tap}", **basis, "root": hosted.name, "tap": tap, "width": width}
                for tap, width in hosted.encoder.spec.taps.items()
            ]
    return json_response(answers.dumps({"object": "list", "data": data}))


async def embed(
    request: Request,
    model: str | None,
    texts: Any,  # noqa: ANN401 - schemas.Input
    *,
    on_long: OnLong,
    keep_end: bool = False,
    dimensions: int | None = None,
) -> tuple[str, Embedded]:
    """What the routes of OpenAI and of text-embeddings-inference have in common: the model's id, and the vectors."""
    if isinstance(texts, str) or isinstance(texts[0], int):
        texts = [texts]
    service = service_of(request)
    if len(texts) > service.settings.limits.texts:
        raise Problem(
            413,
            f"there are {len(texts):,} texts, the limit of one request is {service.settings.limits.texts:,}",
            "Send them in several requests.",
            code="too_many_texts",
        )
    hosted, tap = service.models.resolve(model)
    name = f"{hosted.name}/{tap}"
    claim = claim_of(request)
    claim.facts |= {"model": name, "texts": len(texts)}
    with hosted.use() as encoder:
        check_dimensions(encoder, tap, dimensions)
        made = await service.encoding.embed(
            encoder, texts, tap=tap, on_long=on_long, keep_end=keep_end, queued=claim.settle
        )
    claim.facts |= {"tokens": made.tokens, "truncated": int(made.truncated.sum())}
    service.metrics.embedded(hosted.name, len(texts), made.tokens)
    return name, made


def check_dimensions(encoder: Encoder, tap: str, dimensions: int | None) -> None:
    """Raise Problem unless the vectors have so many numbers anyway."""
    width = encoder.spec.taps[tap]
    if dimensions is not None and dimensions != width:
        raise Problem(
            400,
            f"dimensions is {dimensions}, but {tap} is {width} numbers wide and cannot be cut short: the model was not "
            "trained for it",
            "Leave dimensions out, or project the vectors yourself.",
            param="dimensions",
        )
