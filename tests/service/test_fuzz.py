"""Requests that the service's own schema allows, and many that it does not: never a 500, always the declared shape."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedsvc.service.settings import Limits
from tests.service.conftest import local, serving

schemathesis = pytest.importorskip("schemathesis")

ROUTES = [
    *("/v1/embeddings", "/embed", "/v1/variants", "/v1/cosines", "/v1/compare", "/v1/neighbors"),
    *("/v1/models", "/v1/models/{model_id}", "/v1/sets", "/v1/sets/{name}/map", "/info", "/health", "/ready"),
]


@pytest.fixture(scope="module")
def running():
    # Small limits, so that large requests are refused rather than computed.
    limits = Limits(answer_floats=200_000, passes=50, compare_texts=20, texts=50)
    with serving(local(limits=limits)) as made:
        yield made


@pytest.fixture(scope="module")
def described(running):
    return schemathesis.openapi.from_dict(running.get("/openapi.json").json)


@pytest.mark.slow
@pytest.mark.parametrize("path", ROUTES)
def test_every_route_answers_as_it_declares(running, described, path):
    (operation,) = [each.ok() for each in described.get_all_operations() if each.ok().path == path]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(case=operation.as_strategy())
    def asked(case):
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


def test_every_route_is_tried_or_changes_models(running):
    paths = set(running.get("/openapi.json").json["paths"])
    assert paths - set(ROUTES) == {"/metrics", "/v1/models/{name}/load", "/v1/models/{name}/unload"}


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
