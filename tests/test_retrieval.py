"""Nearest texts by id and by a new text: marks beside the reference, the model's digest, and what cannot be asked."""

import json

import numpy as np
import pytest

from embedsvc import EmbeddingSet, ReadOptions, Settings, extract_files, forward, load_model
from embedsvc.errors import ModelError, SettingsError, UnknownVariantError
from embedsvc.knn import neighbor_graph
from embedsvc.models.base import LoadOptions
from embedsvc.retrieval import neighbors
from embedsvc.types import Mode, Pass, Text

VARIANTS = ("pre_dropout.inference", "pre_dropout.training.0", "post_dropout.training.0", "post_dropout.head.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrieval")
    rng = np.random.default_rng(2)
    lines = [" ".join(f"w{w}" for w in rng.zipf(1.3, rng.integers(4, 14)) % 500) for _ in range(150)]
    (folder / "texts.csv").write_text(
        "id,text,label\n" + "".join(f"t{i},{line},{'ab'[i % 2]}\n" for i, line in enumerate(lines)), encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="module")
def honest(folder):
    return extracted(folder, "set")


def extracted(folder, name, load_options=None, **changes):
    settings = Settings(**{"modes": tuple(Mode), "passes": 2, "seed": 3} | changes)
    extract_files(
        [str(folder / "texts.csv")],
        folder / name,
        model="fake:32",
        settings=settings,
        read_options=ReadOptions(id_column="id"),
        load_options=load_options,
    )
    return EmbeddingSet.read(folder / name)


def test_neighbours_of_a_member_are_those_of_the_graphs(honest):
    found = neighbors(honest, id="t7", k=6)
    assert tuple(found.hits) == VARIANTS
    assert found.reference == "pre_dropout.inference"
    assert found.query == Text("t7", honest.texts[7], "b")
    for name, hits in found.hits.items():
        graph = neighbor_graph(honest[name], 6)
        assert [hit.id for hit in hits] == [honest.ids[row] for row in graph.indices[7]]
        assert np.allclose([hit.distance for hit in hits], graph.distances[7], atol=1e-6)
        assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6]
        assert hits[0].text == honest.texts[honest.ids.index(hits[0].id)]
        assert {hit.label for hit in hits} <= {"a", "b"}


def test_gained_and_lost_are_told_beside_the_reference(honest):
    found = neighbors(honest, id="t7", k=6)
    base = {hit.id for hit in found.hits["pre_dropout.inference"]}
    assert found.lost["pre_dropout.inference"] == ()
    assert {hit.mark for hit in found.hits["pre_dropout.inference"]} == {"kept"}
    changed = 0
    for name in VARIANTS[1:]:
        now = {hit.id: hit.mark for hit in found.hits[name]}
        assert {text for text, mark in now.items() if mark == "gained"} == now.keys() - base
        assert {hit.id for hit in found.lost[name]} == base - now.keys()
        assert {hit.mark for hit in found.lost[name]} <= {"lost"}
        ranks = {hit.id: hit.rank for hit in found.hits["pre_dropout.inference"]}
        assert all(ranks[hit.id] == hit.rank for hit in found.lost[name])
        changed += len(found.lost[name])
    assert changed


def test_a_new_text_is_encoded_by_the_sets_model_in_every_variant(honest):
    text = "w1 w2 w5 w30"
    found = neighbors(honest, text=text, k=4)
    assert found.query == Text("query", text)
    encoder = load_model("fake:32")
    for name, pass_ in zip(
        VARIANTS, (Pass(), Pass(Mode.TRAINING, 0, 3), Pass(Mode.TRAINING, 0, 3), Pass(Mode.HEAD, 0, 3)), strict=True
    ):
        tap = name.partition(".")[0]
        query = forward(encoder, [Text("query", text)], taps=[tap], pass_=pass_).vectors[tap][0].astype(float)
        x = honest[name].astype(float)
        cosines = x @ query / np.linalg.norm(x, axis=1) / np.linalg.norm(query)
        assert [hit.id for hit in found.hits[name]] == [honest.ids[row] for row in np.argsort(-cosines)[:4]]
        assert found.hits[name][0].distance == pytest.approx(1 - cosines.max(), abs=1e-6)


def test_the_text_of_a_member_finds_that_member_first(honest):
    found = neighbors(honest, text=honest.texts[9], k=3, variants=["pre_dropout.inference"])
    assert found.hits["pre_dropout.inference"][0].id == "t9"
    assert found.hits["pre_dropout.inference"][0].distance == pytest.approx(0, abs=1e-6)


def test_the_rate_that_extract_was_given_is_remembered(folder):
    other = extracted(folder, "rate", LoadOptions(rate=0.4))
    assert neighbors(other, text="w1 w2", k=3).hits
    with pytest.raises(ModelError, match="fake:32 is not the model of this set: its digest is"):
        neighbors(other, text="w1 w2", k=3, load_options=LoadOptions(rate=0.2))


def test_the_first_variant_named_is_the_reference(honest):
    found = neighbors(honest, id="t0", k=3, variants=["logits.inference", "pre_dropout.inference"], metric="euclidean")
    assert found.reference == "logits.inference"
    assert {hit.mark for hit in found.hits["logits.inference"]} == {"kept"}
    assert found.metric == "euclidean"


def test_a_set_of_one_mode_shows_what_it_has(folder):
    plain = extracted(folder, "plain", modes=(Mode.INFERENCE,), passes=0, seed=None)
    assert tuple(neighbors(plain, id="t0", k=3).hits) == ("pre_dropout.inference",)


def test_the_json_is_json(honest):
    told = json.loads(json.dumps(neighbors(honest, id="t7", k=2).to_json(), allow_nan=False))
    assert told["query"]["id"] == "t7"
    assert set(told["variants"]) == set(VARIANTS)
    assert set(told["variants"]["post_dropout.head.0"]["hits"][0]) == {
        "rank",
        "id",
        "text",
        "label",
        "distance",
        "mark",
    }


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({}, SettingsError, "expected a text or an id, and not both"),
        ({"id": "t1", "text": "w1"}, SettingsError, "and not both"),
        ({"text": "  "}, SettingsError, "the text is empty"),
        (
            {"id": "t7777"},
            SettingsError,
            "no text with the id 't7777'\nDid you mean 't77'. Its ids look like 't0', 't1'",
        ),
        ({"id": "t1", "k": 150}, SettingsError, "k is 150, expected 1 to 149"),
        ({"id": "t1", "variants": ["cls.inference"]}, UnknownVariantError, "cls.inference"),
        ({"id": "t1", "variants": []}, SettingsError, "no variant was named"),
        ({"id": "t1", "metric": "l1"}, SettingsError, "the metric is 'l1'"),
    ],
)
def test_what_cannot_be_asked(honest, asked, error, message):
    with pytest.raises(error, match=message):
        neighbors(honest, **asked)
