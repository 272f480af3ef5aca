import json

import numpy as np
import pytest

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


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"prompt_name": "query"}, "prompt_name"),
        ({"truncation_direction": "left"}, "truncation_direction"),
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
