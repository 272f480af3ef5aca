import base64

import numpy as np
import pytest

from embedsvc import Text, forward
from embedsvc.models.fake import FakeEncoder
from embedsvc.service.encoding import unit
from tests.service.conftest import local, random_texts, serving

openai = pytest.importorskip("openai")

ENCODER = FakeEncoder(16)


@pytest.fixture(scope="module")
def client(fake):
    with openai.OpenAI(base_url=f"{fake.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def expected(texts, tap="pre_dropout"):
    return forward(ENCODER, [Text(str(i), text) for i, text in enumerate(texts)], taps=[tap]).vectors[tap]


def vectors(answer):
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_the_openai_package_reads_the_vectors(client, encoding):
    texts = ["good morning", "a bad film"]
    options = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model="fake", input=texts, **options)
    assert answer.object == "list"
    assert [(item.object, item.index) for item in answer.data] == [("embedding", 0), ("embedding", 1)]
    assert answer.model == "fake/pre_dropout"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 7
    given = answer
    if encoding == "base64":  # asked for by name, the package hands it on as it came
        rows = [np.frombuffer(base64.b64decode(item.embedding), "<f4") for item in given.data]
        assert np.array_equal(np.stack(rows), unit(expected(texts)))
    else:
        assert np.array_equal(vectors(given), unit(expected(texts)))


def test_a_single_string_is_one_text(client):
    assert np.array_equal(vectors(client.embeddings.create(model="fake", input="good")), unit(expected(["good"])))


def test_token_ids_give_what_their_text_gives(client):
    ids = ENCODER.tokenize(["good morning", "bad"]).ids
    listed = [row.tolist() for row in ids]
    assert np.array_equal(
        vectors(client.embeddings.create(model="fake", input=listed)), unit(expected(["good morning", "bad"]))
    )
    assert np.array_equal(
        vectors(client.embeddings.create(model="fake", input=listed[0])), unit(expected(["good morning"]))
    )


@pytest.mark.parametrize("tap", ["mean", "logits", "post_dropout", "layer.0"])
def test_the_models_id_may_name_a_tap(client, tap):
    answer = client.embeddings.create(model=f"fake/{tap}", input=["good"], extra_body={"normalize": False})
    assert np.array_equal(vectors(answer), expected(["good"], tap))


def test_truncation_is_reported_for_each_text(client):
    answer = client.embeddings.create(model="fake", input=["a", "b " * 100])
    assert [(item.truncated, item.n_tokens) for item in answer.data] == [(False, 2), (True, 64)]
    with pytest.raises(openai.UnprocessableEntityError, match="text 1 has 101 tokens.* limit is 64"):
        client.embeddings.create(model="fake", input=["a", "b " * 100], extra_body={"truncate": False})


def test_dimensions_are_honoured_or_refused_but_never_ignored(client):
    assert vectors(client.embeddings.create(model="fake", input="a", dimensions=16)).shape == (1, 16)
    with pytest.raises(openai.BadRequestError, match="dimensions is 8, but pre_dropout is 16") as caught:
        client.embeddings.create(model="fake", input="a", dimensions=8)
    assert caught.value.body["param"] == "dimensions"


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [
        ({"model": "gpt"}, openai.NotFoundError, "no model 'gpt'"),
        ({"model": "fake/poolde"}, openai.BadRequestError, "no tap 'poolde'"),
        ({"input": ""}, openai.UnprocessableEntityError, "input"),
        ({"input": []}, openai.UnprocessableEntityError, "input"),
        ({"input": ["a", ""]}, openai.UnprocessableEntityError, "input"),
        ({"input": ["a", 1]}, openai.UnprocessableEntityError, "input"),
        ({"input": [4096]}, openai.BadRequestError, "vocabulary of 4,096"),
        ({"encoding_format": "int8"}, openai.UnprocessableEntityError, "encoding_format"),
        ({"extra_body": {"normalise": True}}, openai.UnprocessableEntityError, "normalise is no field"),
    ],
)
def test_bad_requests_are_told_apart(client, asked, kind, words):
    with pytest.raises(kind, match=words) as caught:
        client.embeddings.create(**{"model": "fake", "input": "a", **asked})
    assert set(caught.value.body) == {"message", "type", "param", "code"}


def test_models_are_listed_with_their_taps(client):
    listed = {model.id: model for model in client.models.list()}
    assert {"fake", "fake/pre_dropout", "fake/logits"} <= set(listed)
    assert listed["fake/logits"].width == 3
    assert listed["fake"].digest == ENCODER.spec.digest


def test_an_untrained_head_makes_mean_the_default(monkeypatch):
    from dataclasses import replace

    from embedsvc.head import Head
    from embedsvc.service import hosting

    encoder = FakeEncoder(16)
    encoder.head = Head(0.1)
    taps = {tap: width for tap, width in encoder.spec.taps.items() if tap != "logits"}
    encoder.__dict__["spec"] = replace(encoder.spec, taps=taps)
    assert hosting.default_tap(encoder) == "mean"
    assert hosting.default_tap(ENCODER) == "pre_dropout"


def test_answers_under_concurrency_are_those_of_the_library(fake, in_threads):
    requests = [random_texts(n, seed) for seed, n in enumerate([1, 40, 3, 1, 64, 2, 1, 1, 30, 5, 1, 9])]

    def ask(texts):
        return lambda: fake.post("/v1/embeddings", {"input": texts, "normalize": False}).json

    for texts, answer in zip(requests, in_threads(*map(ask, requests)), strict=True):
        found = np.array([item["embedding"] for item in answer["data"]], dtype=np.float32)
        assert np.array_equal(found, expected(texts))


def test_the_default_tap_can_be_chosen():
    with serving(local(tap="layer.0")) as running:
        answer = running.post("/v1/embeddings", {"input": "a"}).json
        assert answer["model"] == "fake/layer.0"
