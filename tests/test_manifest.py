import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedsvc.errors import SettingsError, StoreError
from embedsvc.head import Head
from embedsvc.manifest import SCHEMA, Manifest, Part, summarise
from embedsvc.types import Mode
from tests.sets import MANIFEST

BARE = replace(MANIFEST, head=replace(MANIFEST.head, kernel=None, bias=None))
RESULTS = ("complete", "rows", "tokens", "truncated", "rejected", "parts")


def asked(taps, *modes, manifest=MANIFEST):
    """That manifest with other taps and modes, passes and seed as they need."""
    stochastic = any(mode.stochastic for mode in modes)
    return replace(
        manifest, taps=tuple(taps), modes=modes, passes=2 if stochastic else 0, seed=7 if stochastic else None
    )


def damaged(change):
    """JSON of a manifest after a change to its tree."""
    data = json.loads(MANIFEST.to_json())
    change(data)
    return json.dumps(data)


def test_inference_lists_post_dropout_as_identical_and_never_stores_it():
    manifest = asked(["pre_dropout", "post_dropout", "cls"], Mode.INFERENCE)
    assert manifest.variants == ("pre_dropout.inference", "post_dropout.inference", "cls.inference")
    assert manifest.stored == ("pre_dropout.inference", "cls.inference")
    assert manifest.identical == {"post_dropout.inference": "pre_dropout.inference"}
    assert manifest.virtual == ()


def test_post_dropout_in_inference_brings_pre_dropout_along():
    manifest = asked(["post_dropout"], Mode.INFERENCE)
    assert manifest.variants == ("pre_dropout.inference", "post_dropout.inference")
    assert manifest.stored == ("pre_dropout.inference",)


def test_training_stores_each_pass_of_each_tap_and_nothing_else():
    manifest = asked(["post_dropout", "cls"], Mode.TRAINING)
    assert manifest.stored == manifest.variants
    assert manifest.stored == (
        "post_dropout.training.0",
        "post_dropout.training.1",
        "cls.training.0",
        "cls.training.1",
    )


def test_head_passes_are_virtual_and_bring_pre_dropout_along():
    manifest = asked(["post_dropout", "logits"], Mode.HEAD)
    assert manifest.stored == ("pre_dropout.inference",)
    assert manifest.virtual == (
        "post_dropout.head.0",
        "post_dropout.head.1",
        "logits.head.0",
        "logits.head.1",
    )
    assert manifest.variants == (*manifest.stored, *manifest.virtual)


def test_head_passes_of_an_encoder_tap_are_no_variants():
    manifest = asked(["cls", "pre_dropout"], Mode.HEAD)
    assert manifest.variants == ("pre_dropout.inference",)


def test_an_untrained_head_has_no_logits_to_draw():
    assert asked(["post_dropout", "logits"], Mode.HEAD, manifest=BARE).virtual == (
        "post_dropout.head.0",
        "post_dropout.head.1",
    )


def test_logits_in_inference_are_stored_as_they_are():
    assert "logits.inference" in asked(["logits"], Mode.INFERENCE).stored


def test_the_order_in_which_modes_are_asked_for_makes_no_difference():
    manifests = [
        replace(MANIFEST, modes=modes)
        for modes in [(Mode.HEAD, Mode.TRAINING, Mode.INFERENCE), (Mode.INFERENCE, Mode.TRAINING, Mode.HEAD)]
    ]
    assert manifests[0] == manifests[1]
    assert manifests[0].identity == manifests[1].identity


def test_the_order_in_which_versions_are_found_makes_no_difference():
    assert replace(MANIFEST, versions=dict(reversed(MANIFEST.versions.items()))) == MANIFEST


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"seed": None}, "seed None"),
        ({"passes": 0}, "passes 0"),
        ({"seed": -1}, "seed is -1"),
        ({"taps": ()}, "taps is empty"),
        ({"modes": ()}, "modes is empty"),
        ({"taps": ("cls", "cls")}, "cls, cls"),
        ({"taps": ("clss",)}, "no tap 'clss'"),
        ({"modes": (Mode.INFERENCE,)}, "takes no passes"),
        ({"rows_per_part": 0}, "rows_per_part is 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, word):
    with pytest.raises(SettingsError, match=word):
        replace(MANIFEST, **changes)


JSON_WORDS = st.text(st.characters(), max_size=9)  # with surrogates: a source may be a file with a broken name


@given(
    sources=st.lists(
        st.fixed_dictionaries(
            {"name": JSON_WORDS, "sha256": JSON_WORDS, "rows": st.integers(0), "rejected": st.integers(0)}
        ),
        max_size=3,
    ),
    versions=st.dictionaries(JSON_WORDS, JSON_WORDS, max_size=3),
    classes=st.just([]) | st.lists(JSON_WORDS, min_size=1, max_size=3),
    weights=st.lists(st.floats(width=32), min_size=1, max_size=5),
    rate=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**63 - 1),
    max_tokens=st.none() | st.integers(1),
    notes=st.lists(JSON_WORDS, max_size=2),
    parts=st.lists(st.builds(Part, st.just("part-00000.parquet"), st.integers(0), JSON_WORDS), max_size=2),
    complete=st.booleans(),
)
def test_a_manifest_survives_json_whole(
    sources, versions, classes, weights, rate, seed, max_tokens, notes, parts, complete
):
    kernel = np.array([weights], dtype=np.float32)
    manifest = replace(
        MANIFEST,
        sources=tuple(sources),
        versions=versions,
        head=Head(rate, kernel, kernel[0], tuple(classes * 5)[: len(weights)]),
        seed=seed,
        max_tokens=max_tokens,
        model=replace(MANIFEST.model, notes=tuple(notes)),
        parts=tuple(parts),
        complete=complete,
        rows=3,
        tokens=None,
    )
    again = Manifest.from_json(manifest.to_json())
    for field in fields(Manifest):
        if field.name != "head":
            assert getattr(again, field.name) == getattr(manifest, field.name)
    assert again.head.digest() == manifest.head.digest()
    assert again.to_json() == manifest.to_json()
    assert again == manifest
    assert again.identity == manifest.identity


OTHERS = {
    "model": replace(MANIFEST.model, digest="0" * 64),
    "head": replace(MANIFEST.head, rate=0.2),
    "taps": ("post_dropout", "pre_dropout", "logits"),
    "modes": (Mode.TRAINING,),
    "passes": 3,
    "seed": 8,
    "max_tokens": 5,
    "on_long": "fail",
    "precision": "bfloat16",
    "token_budget": 5,
    "rows_per_part": 5,
    "engine": "tensorflow",
    "sources": (),
    "versions": {"numpy": "2.1", "pyarrow": "16.0"},
    "mask_version": 2,
}


def test_every_field_is_either_identity_or_result():
    assert {field.name for field in fields(Manifest)} == {*OTHERS, *RESULTS}


@pytest.mark.parametrize("name", OTHERS)
def test_each_field_of_the_identity_makes_a_difference_with_a_name(name):
    other = replace(MANIFEST, **{name: OTHERS[name]})
    (sentence,) = MANIFEST.differences(other)
    assert sentence.startswith(name.removesuffix("s"))
    assert MANIFEST.identity != other.identity
    assert other != MANIFEST


def test_a_difference_says_what_each_side_has():
    assert MANIFEST.differences(replace(MANIFEST, seed=8)) == ["seed: this run has 7, the stored one 8"]
    assert MANIFEST.differences(replace(MANIFEST, versions={"numpy": "2.0"})) == [
        "versions.pyarrow: this run has 16.0, the stored one none"
    ]


def test_other_weights_of_the_same_shape_are_a_difference():
    head = replace(MANIFEST.head, bias=MANIFEST.head.bias + np.float32(1))
    (sentence,) = MANIFEST.differences(replace(MANIFEST, head=head))
    assert sentence.startswith("head.bias: this run has weights ")


def test_a_source_that_comes_twice_is_still_a_difference():
    twice = replace(MANIFEST, sources=MANIFEST.sources * 2)
    assert MANIFEST.differences(twice)


def test_results_are_no_difference():
    done = replace(MANIFEST, complete=True, rows=3, tokens=5, truncated=1, rejected=2, parts=())
    assert MANIFEST.differences(done) == []
    assert MANIFEST.identity == done.identity
    assert done.unfinished() == MANIFEST


def test_the_json_lists_columns_and_what_is_identical_for_readers_without_embedsvc():
    data = json.loads(MANIFEST.to_json())
    assert data["columns"] == list(MANIFEST.stored)
    assert data["identical"] == {"post_dropout.inference": "pre_dropout.inference"}


def test_a_newer_schema_asks_to_update():
    with pytest.raises(StoreError, match=f"x.json is of schema {SCHEMA + 1}") as caught:
        Manifest.from_json(damaged(lambda data: data.update(schema=SCHEMA + 1)), origin="x.json")
    assert "pip install --upgrade" in caught.value.hint


def test_a_manifest_torn_anywhere_is_an_error():
    text = MANIFEST.to_json().rstrip()
    for end in range(0, len(text), 7):
        with pytest.raises(StoreError, match="torn or no JSON"):
            Manifest.from_json(text[:end])


@pytest.mark.parametrize(
    "text", ["{}", "[]", "null", '{"format": "parquet", "schema": 1}', '"embedsvc"', b"\xff\xfe", "[" * 100_000]
)
def test_foreign_json_is_an_error(text):
    with pytest.raises(StoreError, match="not written by embedsvc|no JSON"):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: data.update(colour="red"), "unknown field 'colour'"),
        (lambda data: data["model"].update(colour="red"), "model: unknown field 'colour'"),
        (lambda data: data["head"].update(colour="red"), "head: unknown field 'colour'"),
        (lambda data: data["model"]["sites"][0].update(colour="red"), "sites: unknown field 'colour'"),
        (lambda data: data.update(seed="7"), "the field 'seed' is '7'"),
        (lambda data: data.update(passes=True), "the field 'passes' is True"),
        (lambda data: data.update(schema="1"), "is of schema .1., which"),
        (lambda data: data.update(schema=0), "is of schema 0, which"),
        (lambda data: data.update(modes=["dreaming"]), "dreaming"),
        (lambda data: data.update(seed=-1), "seed is -1"),
        (lambda data: data["columns"].append("cls.inference"), "columns do not follow"),
        (lambda data: data.update(identical={}), "columns do not follow"),
        (lambda data: data["model"].update(masks="none"), "masks are 'none'"),
        (lambda data: data["model"]["taps"].update(cls="16"), "taps: 'cls' is '16'"),
        (lambda data: data["versions"].update(numpy=2), "versions: 'numpy' is 2"),
        (lambda data: data.update(parts=[3]), "parts: expected an object, found int"),
        (
            lambda data: data.update(parts=[{"name": "../../etc/passwd", "rows": 1, "sha256": ""}]),
            "no name of a part",
        ),
        (lambda data: data["head"]["kernel"].update(float32="!"), "cannot reshape"),
        (lambda data: data["head"]["kernel"].pop("shape"), "shape"),
    ],
)
def test_a_manifest_changed_by_hand_is_an_error_that_names_the_place(change, problem):
    with pytest.raises(StoreError, match=problem):
        Manifest.from_json(damaged(change))


@pytest.mark.parametrize("name", [*OTHERS, *RESULTS, "columns", "identical"])
def test_a_missing_field_is_an_error_that_names_it(name):
    with pytest.raises(StoreError, match=f"the field '{name}' is missing"):
        Manifest.from_json(damaged(lambda data: data.pop(name)))


def test_runs_of_passes_are_summarised_and_single_ones_are_not():
    names = ["cls.inference", *(f"cls.training.{k}" for k in range(8)), "mean.training.3", "mean.training.5"]
    assert summarise(names) == "cls.inference, cls.training.0 … 7, mean.training.3, mean.training.5"
