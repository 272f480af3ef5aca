import base64

import numpy as np
import pytest

from embedsvc import EmbeddingSet, Settings, Text, extract_files, load_model
from embedsvc.extraction import describe, extract
from embedsvc.models.fake import FakeEncoder
from embedsvc.service.analysis import text_of
from embedsvc.service.settings import Limits
from embedsvc.types import Mode
from tests.service.conftest import local, random_texts, serving

ENCODER = FakeEncoder(16)
TEXTS = random_texts(12, seed=3)
ALL = {"modes": ["inference", "training", "head"], "passes": 3, "seed": 7}


def as_extracted(texts, taps=(), passes=3, seed=7):
    settings = Settings(taps, (Mode.INFERENCE, Mode.TRAINING, Mode.HEAD), passes, seed)
    return EmbeddingSet.hold(describe(ENCODER, settings), extract(texts, ENCODER, settings))


@pytest.fixture(scope="module")
def with_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    (folder / "texts.txt").write_text("\n".join(random_texts(60, seed=1)), encoding="utf-8")
    settings = Settings((), (Mode.INFERENCE, Mode.TRAINING, Mode.HEAD), 2, 7)
    extract_files([str(folder / "texts.txt")], folder / "out.parquet", model="fake:16", settings=settings)
    with serving(local(sets={"reviews": str(folder / "out.parquet")})) as running:
        yield running, EmbeddingSet.read(folder / "out.parquet")


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_variants_are_those_of_extract(fake, encoding):
    texts = [Text(f"t{row}", text) for row, text in enumerate(TEXTS)]
    expected = as_extracted(texts)
    asked = {"texts": [{"id": each.id, "text": each.text} for each in texts], "encoding_format": encoding, **ALL}
    answer = fake.post("/v1/variants", asked).json
    assert set(answer["vectors"]) == set(expected.variants)
    for name, rows in answer["vectors"].items():
        if encoding == "base64":
            rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
        assert np.array_equal(np.array(rows, dtype=np.float32), expected[name]), name
    assert answer["identical"] == {"post_dropout.inference": "pre_dropout.inference"}
    assert [text["truncated"] for text in answer["texts"]] == expected.truncated.tolist()
    assert (answer["seed"], answer["passes"], answer["masks"], answer["rate"]) == (7, 3, "keyed", 0.1)


def test_a_plain_text_gets_the_same_masks_wherever_it_stands(fake, in_threads):
    alone = fake.post("/v1/variants", {"texts": [TEXTS[5]], **ALL}).json["vectors"]
    calls = [lambda: fake.post("/v1/variants", {"texts": TEXTS, **ALL}).json["vectors"]] * 6
    for among in in_threads(*calls):
        for name, (row,) in alone.items():
            assert among[name][5] == row
    expected = as_extracted([text_of(TEXTS[5])])
    assert np.array_equal(np.float32(alone["post_dropout.training.2"]), expected["post_dropout.training.2"])


def test_moments_are_those_of_the_vectors(fake):
    asked = {"texts": TEXTS, **ALL, "passes": 20}
    vectors = fake.post("/v1/variants", asked).json["vectors"]
    answer = fake.post("/v1/variants", {**asked, "returns": "moments"}).json
    assert set(answer["vectors"]) == {name for name in vectors if name.endswith("inference")}
    assert set(answer["moments"]) == {
        *("pre_dropout.training", "post_dropout.training", "logits.training", "post_dropout.head", "logits.head")
    }
    for name, moments in answer["moments"].items():
        passes = np.array([vectors[f"{name}.{index}"] for index in range(20)], dtype=np.float64)
        assert moments["passes"] == 20
        np.testing.assert_allclose(moments["mean"], passes.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moments["variance"], passes.var(axis=0, ddof=1), rtol=1e-4, atol=1e-6)


def test_many_head_passes_do_not_run_the_encoder(held):
    held.gate.set()
    with serving(local()) as running:
        asked = {"texts": ["a b", "c"], "modes": ["head"], "passes": 5000, "seed": 1, "returns": "moments"}
        answer = running.post("/v1/variants", asked).json
    assert len(held.batches) <= 2
    mean = np.array(answer["moments"]["post_dropout.head"]["mean"])
    np.testing.assert_allclose(mean, answer["vectors"]["pre_dropout.inference"], atol=0.05)


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"modes": ["training"]}, 400, "needs passes and a seed"),
        ({"modes": ["inference"], "seed": 1}, 400, "takes no passes and no seed"),
        ({"modes": ["dropout"]}, 422, "modes"),
        ({"taps": ["pre"]}, 400, "no tap 'pre'"),
        ({"passes": 1, "returns": "moments", "seed": 1}, 422, "variance needs 2"),
        ({"passes": 20_000, "seed": 1}, 413, "limit is 10,000"),
        ({"model": "fake/mean", "seed": 1}, 400, "names a tap"),
        ({"texts": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], "seed": 1}, 400, "share the id 'a'"),
        ({"texts": ["a " * 99], "truncate": False, "seed": 1}, 422, "100 tokens"),
        ({"texts": ["a"] * 2000, "passes": 9000, "seed": 1}, 413, "numbers were asked for"),
    ],
)
def test_what_cannot_be_asked_is_told(fake, asked, status, words):
    answer = fake.post("/v1/variants", {"texts": ["a"], **asked})
    assert (answer.status, words in answer.error["message"]) == (status, True), answer.content


def test_cosines_stand_beside_what_the_rate_predicts(fake):
    answer = fake.post("/v1/cosines", {"texts": TEXTS, "passes": 4, "seed": 2}).json
    expected = as_extracted([text_of(text) for text in TEXTS], passes=4, seed=2)
    pre, post = expected["pre_dropout.inference"], expected["post_dropout.head.3"]
    by_hand = (pre * post).sum(1) / np.linalg.norm(pre, axis=1) / np.linalg.norm(post, axis=1)
    np.testing.assert_allclose(answer["to_reference"]["post_dropout.head.3"], by_hand, rtol=1e-5)
    assert len(answer["expected"]["mean"]) == len(TEXTS)
    between = np.array(answer["between"]["pre_dropout.inference"])
    np.testing.assert_allclose(between.diagonal(), 1, rtol=1e-6)


def test_texts_of_a_request_are_compared(fake):
    asked = {"texts": random_texts(30, 4), "metrics": ["cosine", "cka"], "permutations": 20, "bootstrap": 20}
    answer = fake.post("/v1/compare", asked).json
    (pair,) = (p for p in answer["pairs"] if {p["a"], p["b"]} == {"pre_dropout.inference", "post_dropout.head.0"})
    assert pair["figures"]["cosine"]["observed"] == pytest.approx(0.94, abs=0.03)


def test_a_stored_set_is_compared_as_the_command_does(with_set):
    from embedsvc import compare

    running, stored = with_set
    asked = {"set": "reviews", "metrics": ["cka"], "permutations": 20, "bootstrap": 20}
    expected = compare(stored, measures=["cka"], n_permutations=20, n_bootstrap=20).to_json()
    answer = running.post("/v1/compare", asked).json
    assert answer["pairs"] == expected["pairs"]


def test_comparisons_have_limits(fake):
    assert fake.post("/v1/compare", {"set": "nope"}).status == 404
    assert fake.post("/v1/compare", {}).status == 422
    assert fake.post("/v1/compare", {"texts": ["a", "b"]}).status == 400
    assert fake.post("/v1/compare", {"texts": TEXTS, "metrics": ["ckaa"]}).error["message"].startswith("no metric")
    with serving(local(limits=Limits(compare_texts=5))) as running:
        assert running.post("/v1/compare", {"texts": TEXTS}).status == 413


def test_neighbours_of_a_member_and_of_a_new_text(with_set):
    from embedsvc.retrieval import neighbors

    running, stored = with_set
    answer = running.post("/v1/neighbors", {"id": stored.ids[7], "k": 5}).json
    assert answer == neighbors(stored, id=stored.ids[7], k=5).to_json()
    answer = running.post("/v1/neighbors", {"set": "reviews", "text": "the good film", "k": 5}).json
    places = answer.pop("places")
    assert answer == neighbors(stored, text="the good film", k=5).to_json()
    assert all(len(place) == 2 for place in places.values())
    assert running.post("/v1/neighbors", {"id": "nope"}).status == 400
    assert running.post("/v1/neighbors", {"text": "a", "id": "b"}).status == 422


def test_sets_are_listed_and_mapped(with_set):
    from embedsvc import project

    running, stored = with_set
    (listed,) = running.get("/v1/sets").json["data"]
    assert (listed["name"], listed["texts"]) == ("reviews", 60)
    drawn = running.get("/v1/sets/reviews/map").json
    expected = project(stored)
    for name, places in drawn["variants"].items():
        assert np.array_equal(np.float32(places), expected.coordinates[name])
    assert running.get("/v1/sets/nope/map").status == 404


def test_a_model_tells_what_inspect_knows(fake):
    from embedsvc.inspection import inspect

    answer = fake.get("/v1/models/fake").json
    assert answer["digest"] == ENCODER.spec.digest
    assert len(answer["inspection"]["sites"]) == len(inspect(load_model("fake:16")).sites)
    assert fake.get("/v1/models/fake/mean").json["width"] == 16
    assert fake.get("/v1/models/nope").status == 404
    assert fake.get("/v1/models/fake/nope").status == 404


def test_models_are_loaded_and_unloaded():
    with serving(local(models={"one": "fake:8", "two": "fake:16"})) as running:
        assert len(running.post("/v1/embeddings", {"model": "two", "input": "a"}).json["data"][0]["embedding"]) == 16
        assert running.post("/v1/models/two/unload", {}).json["state"] == "unloaded"
        refused = running.post("/v1/embeddings", {"model": "two", "input": "a"})
        assert (refused.status, refused.error["code"]) == (503, "model_unloaded")
        assert running.post("/v1/embeddings", {"model": "one", "input": "a"}).status == 200
        assert running.get("/ready").status == 200
        assert running.post("/v1/models/two/load", {}).json["state"] == "ready"
        assert running.post("/v1/embeddings", {"model": "two", "input": "a"}).status == 200


def test_a_model_that_is_in_use_is_unloaded_after_the_answer(held, in_threads):
    import threading

    with serving(local(workers=1)) as running:
        unloading = threading.Thread(target=lambda: running.post("/v1/models/fake/unload", {}))

        def release():
            assert held.begun.acquire(timeout=10)
            unloading.start()
            while running.get("/health").json["models"]["fake"] != "unloading":
                pass
            held.gate.set()

        answer, _ = in_threads(lambda: running.post("/v1/embeddings", {"input": "a"}), release)
        unloading.join(10)
        assert answer.status == 200
        assert running.get("/health").json["models"]["fake"] == "unloaded"


def test_a_loading_model_answers_503(monkeypatch):
    import threading

    from embedsvc.service import hosting

    gate = threading.Event()

    def slowly(uri, options):
        assert gate.wait(30)
        return FakeEncoder(8)

    monkeypatch.setattr(hosting, "load_model", slowly)
    with serving(local(), wait=False) as running:
        assert running.get("/health").status == 200
        assert running.get("/ready").status == 503
        answer = running.post("/v1/embeddings", {"input": "a"})
        assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "model_loading", "5")
        gate.set()
        while running.get("/ready").status != 200:
            pass
        assert running.post("/v1/embeddings", {"input": "a"}).status == 200
