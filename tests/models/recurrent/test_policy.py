import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedsvc.errors import SettingsError
from embedsvc.models.recurrent.config import RecurrentConfig, initial_weights, parse_config
from embedsvc.models.recurrent.policy import KINDS, SYSTEMS, RecurrentDropout, parse_policy
from embedsvc.types import Mode

RATES = st.integers(0, 99).map(lambda n: n / 100)


@given(st.fixed_dictionaries(dict.fromkeys(KINDS, RATES) | dict.fromkeys(("variational", "untied"), st.booleans())))
def test_a_policy_is_read_as_it_is_written(values):
    policy = RecurrentDropout(**values)
    assert parse_policy(str(policy)) == policy
    assert RecurrentDropout.from_json(values) == policy


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("gall=0.2", "called 'gall'"),
        ("input", "has no rate"),
        ("input=x", "has no rate"),
        ("input=1", "expected 0 <= rate < 1"),
        ("input=-0.1", "expected 0 <= rate < 1"),
        ("input=nan", "expected 0 <= rate < 1"),
        ("variational=1", "called 'variational'"),
        ("", "called ''"),
    ],
)
def test_a_wrong_policy_is_an_error_that_says_what_there_is(text, problem):
    with pytest.raises(SettingsError) as caught:
        parse_policy(text)
    assert problem in str(caught.value) or text == "variational=1"


def test_each_system_is_one_word():
    assert parse_policy("gal=0.3") == RecurrentDropout(input=0.3, recurrent=0.3, variational=True)
    assert parse_policy("semeniuta=0.3") == RecurrentDropout(update=0.3)
    assert parse_policy("wrapper=0.3") == RecurrentDropout(input=0.3, recurrent=0.3, output=0.3)
    assert parse_policy("keras=0.3").untied
    assert set(SYSTEMS) == {"gal", "semeniuta", "wrapper", "keras"}
    assert parse_policy("none") == RecurrentDropout()
    assert str(RecurrentDropout()) == "none"


def test_a_site_keeps_its_number_under_every_policy():
    def paths(policy):
        return [site.path for site in parse_config(f"lstm,layers=2,bidirectional,{policy}", 9).sites(0.1)]

    assert paths("none") == paths("gal=0.2") == paths("semeniuta=0.2")
    live = [site.path for site in parse_config("lstm,semeniuta=0.2", 9).sites(0.1) if Mode.TRAINING in site.modes]
    assert live == ["head/dropout", "layer.0/update"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("lstn", "no cell is called 'lstn'"),
        ("lstm,units=many", "no size"),
        ("lstm,units=0", "units is 0"),
        ("simple,update=0.2", "no memory beside its update"),
    ],
)
def test_a_wrong_configuration_is_an_error(text, problem):
    with pytest.raises(SettingsError, match=problem):
        parse_config(text, 9)


@pytest.mark.parametrize("cell", ["simple", "gru", "lstm", "layer_norm_lstm"])
def test_first_weights_have_their_shapes_and_follow_their_seed(cell):
    config = RecurrentConfig(cell, 20, units=6, embedding=4, layers=2, bidirectional=True)
    weights = initial_weights(config, 3)
    assert {name: value.shape for name, value in weights.items()} == config.shapes()
    assert all((value == initial_weights(config, 3)[name]).all() for name, value in weights.items())
    assert (weights["embedding"] != initial_weights(config, 4)["embedding"]).any()
