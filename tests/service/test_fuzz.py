"""Requests that the service's own schema allows, and many that it does not: never a 500, always the declared shape.

Schemas cannot know the names of sets, variants and metrics; requests that name what is there are made here, so that
what comes behind the checks is tried as well.
"""

import json
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedsvc.extraction import Settings, describe, extract_files
from embedsvc.metrics import METRICS
from embedsvc.models.fake import FakeEncoder
from embedsvc.service.settings import Limits
from embedsvc.types import Mode
from tests.service.conftest import local, random_texts, serving

schemathesis = pytest.importorskip("schemathesis")

ROUTES = [
    *("/v1/embeddings", "/embed", "/similarity", "/v1/variants", "/v1/cosines", "/v1/compare", "/v1/neighbors"),
    *("/v1/models", "/v1/models/{model_id}", "/v1/models/{name}/load", "/v1/models/{name}/unload"),
    *("/v1/sets", "/v1/sets/{name}/map", "/info", "/health", "/ready", "/metrics"),
]
SETTINGS = Settings((), (Mode.INFERENCE, Mode.TRAINING, Mode.HEAD), 2, 7)
VARIANTS = describe(FakeEncoder(width=16), SETTINGS).variants


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "texts.txt").write_text("\n".join(random_texts(30)), encoding="utf-8")
    extract_files([str(folder / "texts.txt")], folder / "out.parquet", model="fake:16", settings=SETTINGS)
    # Small limits, so that large requests are refused rather than computed.
    limits = Limits(answer_floats=200_000, passes=50, compare_texts=30, texts=50)
    models = {"fake": "fake:16", "spare": "fake:8"}
    with serving(local(models=models, sets={"reviews": str(folder / "out.parquet")}, limits=limits)) as made:
        yield made


@pytest.fixture(scope="module")
def described(running):
    return schemathesis.openapi.from_dict(running.get("/openapi.json").json)


@pytest.mark.slow
@pytest.mark.parametrize("path", ROUTES)
def test_every_route_answers_as_it_declares(running, described, path):
    (operation,) = [each.ok() for each in described.get_all_operations() if each.ok().path == path]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(case=operation.as_strategy(), name=st.none() | st.sampled_from(["spare", "reviews", "fake/mean"]))
    def asked(case, name):
        if name and case.path_parameters and not (name == "fake/mean" and operation.method == "post"):
            case.path_parameters = dict.fromkeys(case.path_parameters, name)
        response = case.call(base_url=running.url)
        assert response.status_code < 500, response.text
        case.validate_response(
            response,
            checks=[
                schemathesis.checks.not_a_server_error,
                schemathesis.checks.status_code_conformance,
                schemathesis.checks.content_type_conformance,
                schemathesis.checks.response_schema_conformance,
            ],
        )

    asked()


def test_every_route_is_tried(running):
    assert set(running.get("/openapi.json").json["paths"]) == set(ROUTES)


TEXTS = st.lists(st.sampled_from(random_texts(12)) | st.text(min_size=1, max_size=30), min_size=1, max_size=12)
SOURCE = st.one_of(st.just({"set": "reviews"}), st.fixed_dictionaries({"texts": TEXTS, "passes": st.integers(0, 3)}))
SOME_VARIANTS = st.none() | st.lists(st.sampled_from(VARIANTS), min_size=1, max_size=3)
MODES = st.lists(st.sampled_from(list(map(str, Mode))), min_size=1, max_size=3, unique=True)
TAPS = st.lists(st.sampled_from(["pre_dropout", "post_dropout", "logits", "mean", "layer.0"]), max_size=3, unique=True)
SEEDS = st.integers(0, 2**63 - 1)


def and_source(fields):
    return st.builds(lambda source, rest: source | rest, SOURCE, st.fixed_dictionaries(fields))


NAMED = {
    "/v1/compare": and_source(
        {
            "variants": SOME_VARIANTS,
            "metrics": st.none() | st.lists(st.sampled_from(list(METRICS)), min_size=1, max_size=3, unique=True),
            "ks": st.none() | st.lists(st.integers(1, 40), min_size=1, max_size=3),
            "permutations": st.integers(20, 30),
            "bootstrap": st.integers(20, 30),
            "seed": SEEDS,
        }
    ),
    "/v1/neighbors": st.builds(
        lambda query, rest: query | rest,
        st.one_of(
            st.fixed_dictionaries({"text": st.text(min_size=1, max_size=30)}),
            st.fixed_dictionaries({"id": st.sampled_from(["texts.txt:1", "texts.txt:30", "nobody"])}),
        ),
        st.fixed_dictionaries({"set": st.just("reviews"), "k": st.integers(1, 40), "variants": SOME_VARIANTS}),
    ),
    "/v1/variants": st.fixed_dictionaries(
        {
            "texts": TEXTS,
            "taps": TAPS,
            "modes": MODES,
            "passes": st.none() | st.integers(0, 4),
            "seed": st.none() | SEEDS,
            "returns": st.sampled_from(["vectors", "moments"]),
            "encoding_format": st.sampled_from(["float", "base64"]),
        }
    ),
    "/v1/cosines": st.fixed_dictionaries({"texts": TEXTS, "passes": st.integers(1, 8), "seed": SEEDS}),
    "/similarity": st.fixed_dictionaries(
        {"inputs": st.fixed_dictionaries({"source_sentence": st.text(min_size=1), "sentences": TEXTS})}
    ),
}


@pytest.mark.parametrize("path", NAMED)
def test_requests_that_name_what_is_there_are_answered(running, path):
    statuses = Counter()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(body=NAMED[path])
    def asked(body):
        answer = running.post(path, body)
        assert answer.status in (200, 400, 404, 413, 422), answer.content
        statuses[answer.status] += 1
        if answer.status != 200:
            assert set(answer.error) == {"message", "type", "param", "code"}

    asked()
    assert statuses[200] >= 5, statuses


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
FIELDS = [
    "input",
    "inputs",
    "texts",
    "model",
    "taps",
    "modes",
    "passes",
    "seed",
    "dimensions",
    "set",
    "text",
    "id",
    "k",
]


@pytest.mark.parametrize(
    "path", [route for route in ROUTES if route.startswith(("/v1/e", "/e", "/v1/v", "/v1/c", "/v1/n"))]
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    body=st.one_of(
        st.binary(max_size=60),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5).map(lambda value: json.dumps(value).encode()),
    )
)
def test_whatever_comes_as_a_body_is_no_500(running, path, body):
    answer = running.call("POST", path, body)
    assert answer.status < 500, (body, answer.content)
    if answer.status != 200:
        assert set(answer.error) == {"message", "type", "param", "code"}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=st.text(st.characters(codec="ascii", exclude_characters=" \r\n"), max_size=30))
def test_whatever_comes_as_a_path_is_no_500(running, path):
    import urllib.parse

    assert running.get("/" + urllib.parse.quote(path, safe="/?%#&=")).status < 500
