"""What neither OpenAI nor text-embeddings-inference has: variants, comparisons, cosines, neighbours, sets, models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from embedsvc import comparison, extraction, inspection, retrieval
from embedsvc.batching import OnLong
from embedsvc.embeddings import EmbeddingSet
from embedsvc.service import answers, schemas
from embedsvc.service.analysis import cosines_of, moments_of, text_of
from embedsvc.service.hosting import Hosted
from embedsvc.service.problems import Problem
from embedsvc.service.routing import ERRORS, WORK_ERRORS, claim_of, json_response, service_of
from embedsvc.types import Mode, Text, Variant

__all__ = ["router"]

router = APIRouter(tags=["Variants"])
Json = {"model": dict[str, Any]}


@router.post("/v1/variants", responses={200: {"model": schemas.VariantsAnswer}, **WORK_ERRORS})
async def variants(asked: schemas.VariantsRequest, request: Request) -> Response:
    """Every variant of some texts: taps before and after dropout, in the modes and passes asked for.

    A mask is a function of the text's id, the seed, the pass and the dropout site, so the same text gets the same
    vectors whatever else is asked for at the time; with the ids of a stored set, those of the set.
    """
    service = service_of(request)
    modes = [Mode(mode) for mode in asked.modes]
    stochastic = [mode for mode in modes if mode.stochastic]
    passes = asked.passes if asked.passes is not None else int(bool(stochastic))
    wants_moments = asked.returns == "moments"
    if wants_moments and stochastic and passes < 2:
        raise Problem(422, f"passes is {passes}, and a variance needs 2 or more", param="passes", code="invalid_value")
    if passes > service.settings.limits.passes:
        raise Problem(
            413, f"passes is {passes:,}, the limit is {service.settings.limits.passes:,}", param="passes",
            code="too_many_passes",
        )  # fmt: skip
    settings = extraction.Settings(
        tuple(asked.taps), tuple(modes), passes, asked.seed, on_long=_on_long(request, asked.truncate)
    )
    texts = _texts(request, asked.texts)
    hosted, made = await _extract(request, asked.model, texts, settings, vectors=not wants_moments)
    manifest = made.manifest

    def write() -> bytes:
        names = [name for name in made.variants if not (wants_moments and Variant.parse(name).mode.stochastic)]
        vectors = {name: answers.rows(made[name], asked.encoding_format) for name in names}
        moments: dict[str, Any] = {}
        kinds = {each.kind: each for each in map(Variant.parse, made.variants) if each.mode.stochastic}
        for kind, variant in sorted(kinds.items()) if wants_moments else ():
            found = moments_of(made, variant.mode, variant.tap, passes)
            moments[kind] = {
                "mean": answers.rows(found.mean, asked.encoding_format),
                "variance": answers.rows(found.variance, asked.encoding_format),
                "passes": found.passes,
            }
        return answers.dumps(
            {
                "object": "variants",
                "model": hosted.name,
                "digest": manifest.model.digest,
                "seed": manifest.seed,
                "passes": manifest.passes,
                "masks": manifest.model.masks,
                "rate": manifest.head.rate,
                "texts": _told(made),
                "identical": dict(manifest.identical),
                "vectors": vectors,
                "moments": moments,
            }
        )

    return json_response(await service.analysis.run(write))


@router.post("/v1/cosines", responses={200: Json, **WORK_ERRORS})
async def cosines(asked: schemas.CosinesRequest, request: Request) -> Response:
    """How far dropout turns each text's vector, beside what its rate alone predicts; and the cosines between texts."""
    modes = (Mode.INFERENCE, Mode.TRAINING, Mode.HEAD)
    settings = extraction.Settings(("pre_dropout", "post_dropout"), modes, asked.passes, asked.seed)
    texts = _texts(request, asked.texts)
    if len(texts) > _BETWEEN:
        raise Problem(413, f"there are {len(texts)} texts, the limit here is {_BETWEEN}", code="too_many_texts")
    hosted, made = await _extract(request, asked.model, texts, settings, vectors=True)
    between = ["pre_dropout.inference", "post_dropout.head.0", "post_dropout.training.0"]
    found = await service_of(request).analysis.run(lambda: cosines_of(made, between))
    facts = {"model": hosted.name, "seed": asked.seed, "rate": made.manifest.head.rate, "texts": _told(made)}
    return json_response(answers.dumps(facts | found))


_BETWEEN = 200


@router.post("/v1/compare", responses={200: Json, **WORK_ERRORS})
async def compare(asked: schemas.CompareRequest, request: Request) -> Response:
    """What `embedsvc compare` finds, of a set of the service or of texts in the request."""
    service = service_of(request)
    if (asked.set is None) == (asked.texts is None):
        raise Problem(422, "expected a set or texts, and not both", code="invalid_value", param="set")
    if asked.texts is not None:
        modes = tuple(Mode(mode) for mode in asked.modes)
        stochastic = any(mode.stochastic for mode in modes)
        settings = extraction.Settings(
            tuple(asked.taps), modes, asked.passes if stochastic else 0, asked.mask_seed if stochastic else None
        )
        _, embeddings = await _extract(request, asked.model, _texts(request, asked.texts), settings, vectors=True)
    else:
        embeddings = service.sets[asked.set].embeddings
    most = service.settings.limits.compare_texts
    if len(embeddings) > most:
        raise Problem(
            413, f"there are {len(embeddings):,} texts to compare, the limit here is {most:,}",
            "Use `embedsvc compare` on the file of the set.", code="too_many_texts",
        )  # fmt: skip
    found = await service.analysis.run(
        lambda: comparison.compare(
            embeddings,
            variants=asked.variants,
            measures=asked.metrics or comparison.DEFAULT_METRICS,
            ks=asked.ks,
            n_permutations=asked.permutations,
            n_bootstrap=asked.bootstrap,
            seed=asked.seed,
        )
    )
    return json_response(answers.dumps(found.to_json()))


@router.get("/v1/sets", responses={200: Json, **ERRORS})
async def sets(request: Request) -> Response:
    """The stored sets that the service was started with."""
    return json_response(
        answers.dumps({"object": "list", "data": [shown.facts() for shown in service_of(request).sets]})
    )


@router.get("/v1/sets/{name}/map", responses={200: Json, **WORK_ERRORS})
async def map_of_set(name: str, request: Request) -> Response:
    """Two coordinates of every text in every variant, on the principal axes of `pre_dropout.inference`."""
    service = service_of(request)
    shown = service.sets[name]
    return json_response(await service.analysis.run(lambda: shown.map))


@router.post("/v1/neighbors", responses={200: Json, **WORK_ERRORS})
async def neighbors(asked: schemas.NeighborsRequest, request: Request) -> Response:
    """The nearest texts of a set, variant by variant: which of them dropout costs, and which it brings."""
    service = service_of(request)
    if (asked.text is None) == (asked.id is None):
        raise Problem(422, "expected a text or an id, and not both", code="invalid_value", param="text")
    shown = service.sets[asked.set]
    embeddings = shown.embeddings
    names = list(asked.variants or retrieval.default_variants(embeddings))
    made = None
    if asked.text is not None:
        made = await _like(request, embeddings, names, asked.text)

    def search() -> bytes:
        encoded = None if made is None else {name: made[name] for name in names}
        found = retrieval.neighbors(
            embeddings, text=asked.text, id=asked.id, k=asked.k, variants=names, encoded=encoded
        ).to_json()
        if made is not None and shown.axes is not None and shown.projection is not None:
            width = len(shown.axes.mean)
            drawn = [name for name in names if name in shown.projection.coordinates and made[name].shape[1] == width]
            found["places"] = {name: shown.axes.place(made[name])[0] for name in drawn}
        return answers.dumps(found)

    return json_response(await service.analysis.run(search))


@router.get("/v1/models/{model_id:path}", responses={200: {"model": schemas.Model}, **ERRORS, 404: WORK_ERRORS[404]})
async def model(model_id: str, request: Request) -> Response:
    """One model, and what `embedsvc inspect` finds in it: every dropout site as it was seen at work."""
    service = service_of(request)
    name, slash, tap = model_id.partition("/")
    hosted = service.models[name]
    facts = hosted.to_json()
    if slash:
        widths = facts.get("taps", {})
        if tap not in widths:
            raise Problem(404, f"the model {name} has no tap {tap!r}", f"It has: {', '.join(widths) or 'none yet'}")
        facts |= {"id": model_id, "root": name, "tap": tap, "width": widths[tap]}
    if hosted.state == "ready":
        with hosted.use() as encoder:
            if hosted.inspection is None:
                hosted.inspection = (await service.analysis.run(lambda: inspection.inspect(encoder))).to_json()
            facts["inspection"] = hosted.inspection
    return json_response(answers.dumps(facts))


@router.post("/v1/models/{name}/load", responses={200: {"model": schemas.Model}, **WORK_ERRORS})
async def load(name: str, request: Request) -> Response:
    """Load a model that the service was started with; answers when it is ready."""
    hosted = await service_of(request).models.load(name)
    return json_response(answers.dumps(hosted.to_json()))


@router.post("/v1/models/{name}/unload", responses={200: {"model": schemas.Model}, **WORK_ERRORS})
async def unload(name: str, request: Request) -> Response:
    """Let a model go once the requests that use it are answered."""
    hosted = await service_of(request).models.unload(name)
    return json_response(answers.dumps(hosted.to_json()))


def _on_long(request: Request, truncate: bool | None) -> OnLong:
    if truncate is None:
        return service_of(request).settings.on_long
    return OnLong.TRUNCATE if truncate else OnLong.FAIL


def _texts(request: Request, given: Sequence[str | schemas.TextIn]) -> list[Text]:
    most = service_of(request).settings.limits.texts
    if len(given) > most:
        raise Problem(413, f"there are {len(given):,} texts, the limit is {most:,}", code="too_many_texts")
    texts = [text_of(each) if isinstance(each, str) else Text(each.id, each.text) for each in given]
    known: dict[str, str] = {}
    for text in texts:
        if known.setdefault(text.id, text.text) != text.text:
            raise Problem(400, f"two texts share the id {text.id!r}", "Ids decide the masks.", param="texts")
    return texts


async def _extract(
    request: Request, model: str | None, texts: list[Text], settings: extraction.Settings, *, vectors: bool
) -> tuple[Hosted, EmbeddingSet]:
    """The variants of some texts, by way of the queue."""
    service, claim = service_of(request), claim_of(request)
    hosted = service.models.resolve(model)[0] if "/" not in (model or "") else _no_tap(model)
    claim.facts |= {"model": hosted.name, "texts": len(texts), "passes": settings.passes}
    with hosted.use() as encoder:
        limits = service.settings.limits
        manifest = extraction.describe(encoder, settings)
        widths = sum(manifest.width(name) for name in manifest.variants)
        # Vectors are sent; where moments are, passes are drawn, which costs a tenth of that.
        numbers, most = len(texts) * widths, limits.answer_floats if vectors else 16 * limits.answer_floats
        if numbers > most:
            raise Problem(
                413, f"{numbers:,} numbers were asked for, the limit is {most:,}",
                "Ask for fewer texts, taps or passes" + ("; or for moments." if vectors else "."),
                code="answer_too_large",
            )  # fmt: skip
        made = await service.encoding.variants(encoder, texts, settings, queued=claim.settle)
    tokens = int(made.n_tokens.clip(0).sum())
    claim.facts |= {"tokens": tokens, "truncated": int(made.truncated.sum())}
    service.metrics.embedded(hosted.name, len(texts), tokens)
    return hosted, made


async def _like(request: Request, embeddings: EmbeddingSet, names: Sequence[str], text: str) -> EmbeddingSet:
    """A text as a member of a set would be: the same model, seed and limits."""
    service, manifest = service_of(request), embeddings.manifest
    parsed = [Variant.parse(name) for name in names]
    taps = tuple(dict.fromkeys(each.tap for each in parsed))
    modes = tuple(dict.fromkeys(each.mode for each in parsed))
    stochastic = any(mode.stochastic for mode in modes)
    passes = 1 + max((each.index or 0 for each in parsed), default=0) if stochastic else 0
    settings = extraction.Settings(taps, modes, passes, manifest.seed if stochastic else None)
    for hosted in service.models:
        if hosted.encoder is not None and hosted.encoder.spec.digest == manifest.model.digest:
            return (await _extract(request, hosted.name, [Text(retrieval.QUERY_ID, text)], settings, vectors=True))[1]
    raise Problem(
        400,
        f"the set was made by {manifest.model.uri} ({manifest.model.digest[:12]}), which is not loaded here",
        "Ask for the neighbours of one of its texts by id, or start the service with that model.",
        param="set",
    )


def _no_tap(model: str | None) -> Hosted:
    raise Problem(400, f"{model!r} names a tap", "Name the model only, and taps in the field taps.", param="model")


def _told(made: EmbeddingSet) -> list[dict[str, Any]]:
    return [
        {"id": text_id, "n_tokens": count, "truncated": cut}
        for text_id, count, cut in zip(made.ids, made.n_tokens.tolist(), made.truncated.tolist(), strict=True)
    ]
