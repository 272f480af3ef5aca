from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedsvc.errors import SettingsError
from embedsvc.types import DropoutSite, Mode, Pass, Text, Tokens, Variant, check_rate, check_seed

STOCHASTIC = [Mode.TRAINING, Mode.HEAD]


def test_only_inference_draws_nothing():
    assert [mode for mode in Mode if not mode.stochastic] == [Mode.INFERENCE]


def test_an_unknown_mode_is_told_the_known_ones():
    with pytest.raises(SettingsError, match="'trianing'\nKnown: inference, training, head"):
        Mode("trianing")


def test_values_are_frozen():
    text = Text("a", "good")
    with pytest.raises(FrozenInstanceError):
        text.text = "bad"


class TestPass:
    def test_the_default_is_inference(self):
        assert Pass() == Pass(Mode.INFERENCE, None, None)

    @pytest.mark.parametrize("given_", [{"index": 0}, {"seed": 7}, {"index": 0, "seed": 7}])
    def test_inference_refuses_a_number_and_a_seed(self, given_):
        with pytest.raises(SettingsError, match="draws nothing"):
            Pass(Mode.INFERENCE, **given_)

    @pytest.mark.parametrize("mode", STOCHASTIC)
    @pytest.mark.parametrize("given_", [{}, {"index": 0}, {"seed": 7}])
    def test_a_stochastic_pass_wants_both(self, mode, given_):
        with pytest.raises(SettingsError, match=f"in {mode} mode needs a number and a seed"):
            Pass(mode, **given_)

    @pytest.mark.parametrize("index", [-1, True, 1.0, "1"])
    def test_a_number_is_a_whole_one_from_0(self, index):
        with pytest.raises(SettingsError, match="expected a whole number from 0"):
            Pass(Mode.HEAD, index, 7)

    @pytest.mark.parametrize("seed", [-1, 2**63, True, 1.0, "7"])
    def test_a_seed_is_checked(self, seed):
        with pytest.raises(SettingsError, match="the seed is"):
            Pass(Mode.HEAD, 0, seed)

    def test_draw_is_seed_then_number(self):
        assert Pass(Mode.TRAINING, 3, 7).draw == (7, 3)

    def test_inference_has_no_draw(self):
        with pytest.raises(SettingsError, match="draws nothing"):
            _ = Pass().draw

    def test_a_plain_string_is_accepted_as_mode(self):
        assert Pass("training", 0, 7) == Pass(Mode.TRAINING, 0, 7)
        assert Pass("training", 0, 7).mode is Mode.TRAINING

    def test_an_unknown_mode_is_an_error(self):
        with pytest.raises(SettingsError, match="no mode is called 'dropout'"):
            Pass("dropout", 0, 7)


# Anything but a line break may stand in a tap's name; models give "layer.<k>".
taps = st.one_of(
    st.sampled_from(["pre_dropout", "post_dropout", "logits", "layer.0", "layer.11", "a.inference", "x.head.3"]),
    st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1),
)
variants = st.one_of(
    st.builds(Variant, taps, st.just(Mode.INFERENCE)),
    st.builds(Variant, taps, st.sampled_from(STOCHASTIC), st.integers(0, 10**6)),
)


class TestVariant:
    @pytest.mark.parametrize(
        ("name", "variant"),
        [
            ("pre_dropout.inference", Variant("pre_dropout", Mode.INFERENCE)),
            ("post_dropout.training.0", Variant("post_dropout", Mode.TRAINING, 0)),
            ("layer.3.head.12", Variant("layer.3", Mode.HEAD, 12)),
        ],
    )
    def test_its_name_says_all(self, name, variant):
        assert Variant.parse(name) == variant
        assert str(variant) == name

    @given(variants)
    def test_names_go_there_and_back(self, variant):
        assert Variant.parse(str(variant)) == variant

    @pytest.mark.parametrize(
        "name",
        ["", "pre_dropout", ".inference", "inference", "layer.3", "x.Inference", "x.inference.", "x.head.-1"]
        + ["x.head.007", "x.head.+1", "x.head.٣", "x.head.1_0", "x.head.1.5", "x.head. 1"],
    )
    def test_a_name_of_another_form_is_an_error_that_shows_the_form(self, name):
        with pytest.raises(SettingsError, match=r"is no variant name\nThe form is tap\.mode\[\.pass\]"):
            Variant.parse(name)

    def test_a_stochastic_variant_needs_its_pass(self):
        with pytest.raises(SettingsError, match=r"'x\.head' is in head mode and needs a pass number"):
            Variant.parse("x.head")

    def test_inference_has_no_passes(self):
        with pytest.raises(SettingsError, match=r"'x\.inference\.0' is in inference mode and needs no pass number"):
            Variant.parse("x.inference.0")

    @pytest.mark.parametrize("index", [-1, True, 0.0])
    def test_a_pass_number_is_whole_and_not_negative(self, index):
        with pytest.raises(SettingsError, match="needs a pass number"):
            Variant("x", Mode.HEAD, index)

    def test_a_plain_string_is_accepted_as_mode(self):
        assert Variant("x", "head", 3) == Variant("x", Mode.HEAD, 3)

    def test_variants_sort_by_tap_mode_and_pass(self):
        names = ["a.head.2", "a.head.10", "a.inference", "a.training.0", "b.inference"]
        assert list(map(str, sorted(map(Variant.parse, reversed(names))))) == names


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, np.int32(7), np.uint64(7)])
def test_a_good_seed_comes_back_as_an_int(seed):
    assert check_seed(seed) == int(seed)
    assert type(check_seed(seed)) is int


@pytest.mark.parametrize("seed", [-1, 2**63, np.int64(-1), True, 1.0, "7", None])
def test_a_bad_seed_is_an_error_that_shows_it(seed):
    with pytest.raises(SettingsError, match="expected a whole number from 0 to"):
        check_seed(seed)


@pytest.mark.parametrize("rate", [0, 0.0, 0.1, 0.999, np.float32(0.25)])
def test_a_good_rate_comes_back_as_a_float(rate):
    assert check_rate(rate) == rate
    assert type(check_rate(rate)) is float


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, float("nan"), float("inf")])
def test_a_bad_rate_is_an_error_that_shows_it(rate):
    with pytest.raises(SettingsError, match="expected 0 <= rate < 1"):
        check_rate(rate)
    with pytest.raises(SettingsError):
        DropoutSite("head/dropout", rate)


def test_rows_of_tokens_are_taken_in_the_asked_order():
    ids = tuple(np.arange(n, dtype=np.int32) for n in range(3))
    tokens = Tokens(("a", "b", "c"), ids, np.array([0, 1, 2]))
    taken = tokens.take(np.array([2, 0, 2]))
    assert taken.texts == ("c", "a", "c")
    assert [row.tolist() for row in taken.ids] == [[0, 1], [], [0, 1]]
    assert taken.counts.tolist() == [2, 0, 2]
    assert len(tokens) == len(taken) == 3


def test_no_rows_can_be_taken():
    taken = Tokens(("a",), None, np.array([-1])).take([])
    assert (taken.texts, taken.ids, taken.counts.tolist()) == ((), None, [])
