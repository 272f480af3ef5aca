import json

import numpy as np
import pytest

from embedsvc.models.fake import FakeEncoder
from embedsvc.service.encoding import unit
from tests.service.test_openai import expected

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.mark.parametrize("path", ["", "/embed"])
def test_the_hugging_face_client_reads_the_vectors(fake, path):
    client = huggingface_hub.InferenceClient(fake.url + path)
    texts = ["good morning", "bad"]
    assert np.array_equal(client.feature_extraction(texts), unit(expected(texts)))
    assert np.array_equal(client.feature_extraction(texts, normalize=False), expected(texts))
    assert client.feature_extraction("good", truncate=True).shape == (1, 16)


def test_a_long_text_is_refused_unless_it_may_be_cut(fake):
    client = huggingface_hub.InferenceClient(fake.url)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="text 0 has 101 tokens") as caught:
        client.feature_extraction("a " * 100)
    assert caught.value.response.status_code == 422
    answer = fake.post("/embed", {"inputs": ["a", "b " * 100, "c " * 64], "truncate": True})
    assert answer.headers["x-truncated"] == "1,2"
    assert "x-truncated" not in fake.post("/embed", {"inputs": "a"}).headers


@pytest.mark.parametrize(("side", "kept"), [("left", "a b " * 31 + "a"), ("right", "b a " * 31 + "b")])
def test_the_side_that_was_asked_for_is_cut(fake, side, kept):
    client = huggingface_hub.InferenceClient(fake.url)
    cut = client.feature_extraction("b a " * 31 + "b a b a", truncate=True, truncation_direction=side)
    assert np.array_equal(cut, unit(expected([kept])))


def test_token_ids_are_embedded_as_the_text_is(fake):
    ids = [row.tolist() for row in FakeEncoder(width=16).tokenize(["good morning", "bad"]).ids]
    assert fake.post("/embed", {"inputs": ids}).json == fake.post("/embed", {"inputs": ["good morning", "bad"]}).json
    assert fake.post("/embed", {"inputs": ids[0]}).json == fake.post("/embed", {"inputs": "good morning"}).json


def test_the_hugging_face_client_reads_similarities(fake):
    client = huggingface_hub.InferenceClient(fake.url + "/similarity")
    texts = ["good morning", "good evening", "good morning"]
    vectors = unit(expected(texts))
    found = client.sentence_similarity(texts[0], other_sentences=texts[1:])
    assert found == pytest.approx((vectors[1:] @ vectors[0]).tolist(), abs=1e-6)
    long = {"source_sentence": "a " * 100, "sentences": ["a"]}
    assert fake.post("/similarity", {"inputs": long}).status == 422
    assert fake.post("/similarity", {"inputs": long, "parameters": {"truncate": True}}).headers["x-truncated"] == "0"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"prompt_name": "query"}, "prompt_name"),
        ({"truncation_direction": "up"}, "truncation_direction"),
        ({"encoding_format": "base64"}, "encoding_format"),
        ({"dimensions": 3}, "dimensions"),
        ({"pooling": "cls"}, "pooling"),
    ],
)
def test_what_is_not_done_is_refused(fake, asked, param):
    answer = fake.post("/embed", {"inputs": "a", **asked})
    assert answer.status in (400, 422)
    assert answer.error["param"] == param


def test_info_tells_the_limits(fake):
    info = json.loads(fake.get("/info").content)
    assert info["model_id"] == "fake"
    assert info["max_input_length"] == 64
    assert info["max_client_batch_size"] == 2048
    assert info["model_type"] == {"embedding": {"pooling": "pre_dropout"}}
