"""Which encoders are a standard BERT, by their variables and dropouts alone."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedsvc.models.draws import GraphSite
from embedsvc.models.lift import lift

pytestmark = pytest.mark.tensorflow

WIDTH, INNER = 8, 12
NO_GRAPH: Any = SimpleNamespace(
    meta_graphs=[SimpleNamespace(graph_def=SimpleNamespace(library=SimpleNamespace(function=[])))]
)
SITES = [(GraphSite("dropout", "f", 0.1, "mask"), 3)] * 3 + [(GraphSite("attention", "f", 0.2, "mask"), 4)]


def variables(prefix: str = "") -> dict[str, NDArray[Any]]:
    shapes: dict[str, tuple[int, ...]] = {
        "word_embeddings/embeddings": (20, WIDTH),
        "position_embedding/embeddings": (16, WIDTH),
        "type_embeddings/embeddings": (2, WIDTH),
        "embeddings/layer_norm/gamma": (WIDTH,),
        "embeddings/layer_norm/beta": (WIDTH,),
        "pooler_transform/kernel": (WIDTH, WIDTH),
        "pooler_transform/bias": (WIDTH,),
    }
    layer = "transformer/layer_0/"
    for part in ("query", "key", "value"):
        shapes |= {
            f"{layer}self_attention/{part}/kernel": (WIDTH, 2, 4),
            f"{layer}self_attention/{part}/bias": (2, 4),
        }
    shapes |= {
        f"{layer}self_attention/attention_output/kernel": (2, 4, WIDTH),
        f"{layer}self_attention/attention_output/bias": (WIDTH,),
        f"{layer}intermediate/kernel": (WIDTH, INNER),
        f"{layer}intermediate/bias": (INNER,),
        f"{layer}output/kernel": (INNER, WIDTH),
        f"{layer}output/bias": (WIDTH,),
    }
    for norm in ("self_attention_layer_norm", "output_layer_norm"):
        shapes |= {f"{layer}{norm}/gamma": (WIDTH,), f"{layer}{norm}/beta": (WIDTH,)}
    rng = np.random.default_rng(0)
    return {f"{prefix}{name}:0": rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("prefix", ["", "bert_model/", "module/bert/"])
def test_names_are_found_behind_any_prefix(prefix: str) -> None:
    given = variables(prefix) | {"do_lower_case:0": np.array(True)}
    found = lift(given, NO_GRAPH, SITES)
    assert found is not None
    config, weights = found
    assert config == {
        "n_layers": 1,
        "n_heads": 2,
        "width": WIDTH,
        "intermediate": INNER,
        "norm_epsilon": 1e-12,
        "hidden_rate": 0.1,
        "attention_rate": 0.2,
        "max_positions": 16,
    }
    key = given[f"{prefix}transformer/layer_0/self_attention/key/kernel:0"]
    np.testing.assert_array_equal(weights["layer.0.qkv.kernel"][:, WIDTH : 2 * WIDTH], key.reshape(WIDTH, WIDTH))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("adapter/scale:0", np.ones(WIDTH, np.float32)),  # a name BERT does not have
        ("transformer/layer_7/output/bias:0", np.ones(WIDTH, np.float32)),  # one it has, of no layer
        ("transformer/layer_0/intermediate/kernel:0", None),  # missing
        ("transformer/layer_0/self_attention/query/bias:0", np.ones(3, np.float32)),  # of another shape
        ("word_embeddings/embeddings:0", np.ones((20, 4), np.float32)),  # factorised, as in ALBERT
    ],
)
def test_a_variable_too_many_too_few_or_too_large_is_no_bert(name: str, value: NDArray[Any] | None) -> None:
    given = variables() | {name: value}
    assert lift({key: array for key, array in given.items() if array is not None}, NO_GRAPH, SITES) is None


@pytest.mark.parametrize(
    "sites",
    [
        SITES[1:],  # one missing
        [*SITES, SITES[0]],
        [(GraphSite("x", "f", 0.3, "mask"), 3), *SITES[1:]],  # rates that differ
        [(site, 2) for site, _ in SITES],  # folded
        [(GraphSite("x", "f", None, "uniform"), rank) for _, rank in SITES],  # rates that cannot be seen
    ],
)
def test_dropouts_elsewhere_than_in_bert_are_no_bert(sites: list[tuple[GraphSite, int]]) -> None:
    assert lift(variables(), NO_GRAPH, sites) is None


def test_no_live_dropout_is_a_bert_of_rate_0() -> None:
    found = lift(variables(), NO_GRAPH, [])
    assert found is not None
    assert (found[0]["hidden_rate"], found[0]["attention_rate"]) == (0, 0)
