from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.models.bert import BertConfig, BertRunner, draw_masks
from embedsvc.models.families import FAMILIES
from embedsvc.models.huggingface import read_config, read_weights
from embedsvc.types import Mode, Pass
from tests.models.tiny_bert import CONFIG, Draw, make_tensors, reference

pytestmark = pytest.mark.tensorflow

TRAINING = Pass(Mode.TRAINING, 3, 7)
WIDTH = CONFIG["hidden_size"]
RNG = np.random.default_rng(1)
# Nothing but [CLS] and [SEP], one token, at the limit of 10, and between.
ROWS = [[2, *RNG.integers(5, 22, n), 3] for n in (0, 1, 8, 3, 5, 8, 0)]
IDS = [np.array(row, dtype=np.int32) for row in ROWS]
KEYS = masks.row_keys(f"row {row}" for row in range(len(ROWS)))
TENSORS = make_tensors(pooler=True)
ALL = ("pooled_output", "cls", "mean", "layer.0", "layer.1")


def make(config: dict, tensors: dict | None = None) -> BertRunner:
    family, folder = FAMILIES["bert"], Path("folder")
    read = read_config(config, family, folder)
    return BertRunner(read, read_weights(make_tensors(config) if tensors is None else tensors, read, family, folder))


def draw(runner: BertRunner, pass_: Pass = TRAINING) -> Draw:
    return Draw(KEYS, pass_, runner.config.sites(0.5))


def assert_close(ours: dict[str, NDArray[np.float32]], expected: dict[str, NDArray[np.float64]]) -> None:
    for tap, vectors in ours.items():
        np.testing.assert_allclose(vectors, expected[tap], atol=1e-5, err_msg=tap)


@pytest.fixture(scope="module")
def runner() -> BertRunner:
    return make(CONFIG, TENSORS)


def test_every_tap_is_that_of_the_reference(runner):
    ours = runner.run(IDS, keys=KEYS, taps=ALL, pass_=Pass())
    assert list(ours) == list(ALL)
    assert all(vectors.shape == (len(ROWS), WIDTH) and vectors.dtype == np.float32 for vectors in ours.values())
    assert_close(ours, reference(TENSORS, CONFIG, ROWS))


@pytest.mark.parametrize("pass_", [TRAINING, Pass(Mode.TRAINING, 0, 2**63 - 1)])
def test_every_tap_of_a_training_pass_is_the_reference_under_the_documented_masks(runner, pass_):
    """So the masks inside TensorFlow are the bits of masks.keep, at the sites of BertConfig.sites."""
    ours = runner.run(IDS, keys=KEYS, taps=ALL, pass_=pass_)
    assert_close(ours, reference(TENSORS, CONFIG, ROWS, draw(runner, pass_)))
    still = runner.run(IDS, keys=KEYS, taps=ALL, pass_=Pass())
    for tap in ALL:
        assert (np.abs(ours[tap] - still[tap]).max(axis=1) > 1e-2).all(), tap


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])
def test_every_activation_is_that_of_the_reference(activation):
    config = CONFIG | {"hidden_act": activation, "num_hidden_layers": 1}
    ours = make(config).run(IDS, keys=KEYS, taps=("mean",), pass_=Pass())
    # No looser than what tells gelu from its approximation.
    expected = reference(make_tensors(config), config, ROWS)["mean"]
    np.testing.assert_allclose(ours["mean"], expected, atol=3e-6)


def test_activations_are_told_apart():
    """Or the test above would pass for any of them."""
    exact, approximate = (
        reference(TENSORS, CONFIG | {"hidden_act": activation}, ROWS)["mean"] for activation in ("gelu", "gelu_new")
    )
    assert np.abs(exact - approximate).max() > 1e-4


def test_the_norms_epsilon_counts():
    config = CONFIG | {"layer_norm_eps": 0.5}
    assert_close(
        make(config).run(IDS, keys=KEYS, taps=ALL, pass_=Pass()), reference(make_tensors(config), config, ROWS)
    )


@pytest.mark.parametrize("rates", [(0.0, 0.3), (0.2, 0.0)], ids=["attention only", "hidden only"])
def test_a_rate_of_0_is_no_dropout(rates):
    config = CONFIG | dict(zip(("hidden_dropout_prob", "attention_probs_dropout_prob"), rates, strict=True))
    runner = make(config, TENSORS)
    live = [site.kind for site in runner.config.sites(0.5)[1:] if site.modes]
    assert live == (["attention"] * 2 if rates[0] == 0 else ["unit"] * 5)
    ours = runner.run(IDS, keys=KEYS, taps=ALL, pass_=TRAINING)
    assert_close(ours, reference(TENSORS, config, ROWS, draw(runner)))


def test_rates_of_0_make_training_inference():
    runner = make(CONFIG | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}, TENSORS)
    one, two = (runner.run(IDS, keys=KEYS, taps=ALL, pass_=pass_) for pass_ in (Pass(), TRAINING))
    for tap in ALL:
        np.testing.assert_allclose(one[tap], two[tap], atol=1e-6)


@pytest.mark.parametrize("pass_", [Pass(), TRAINING], ids=["inference", "training"])
@pytest.mark.parametrize("taps", [("cls",), ("pooled_output",), ("pooled_output", "cls", "layer.0")], ids=str)
def test_the_shortcut_for_cls_is_the_full_computation(runner, taps, pass_):
    short = runner.run(IDS, keys=KEYS, taps=taps, pass_=pass_)
    whole = runner.run(IDS, keys=KEYS, taps=ALL, pass_=pass_)
    for tap in taps:
        np.testing.assert_allclose(short[tap], whole[tap], atol=2e-6)


def test_the_shortcut_works_with_a_single_layer():
    config = CONFIG | {"num_hidden_layers": 1}
    runner = make(config)
    ours = runner.run(IDS, keys=KEYS, taps=("cls", "pooled_output"), pass_=TRAINING)
    assert_close(ours, reference(make_tensors(config), config, ROWS, draw(runner)))


@pytest.mark.parametrize("taps", [ALL, ("cls",)], ids=["all taps", "shortcut"])
@pytest.mark.parametrize("pass_", [Pass(), TRAINING], ids=["inference", "training"])
def test_a_row_alone_or_in_any_order_is_the_row_in_its_batch(runner, pass_, taps):
    together = runner.run(IDS, keys=KEYS, taps=taps, pass_=pass_)
    backwards = runner.run(IDS[::-1], keys=KEYS[::-1], taps=taps, pass_=pass_)
    for tap in taps:
        np.testing.assert_allclose(backwards[tap][::-1], together[tap], atol=2e-6)
    for row in range(len(IDS)):
        alone = runner.run(IDS[row : row + 1], keys=KEYS[row : row + 1], taps=taps, pass_=pass_)
        for tap in taps:
            np.testing.assert_allclose(alone[tap][0], together[tap][row], atol=2e-6)


def test_the_key_decides_the_mask_and_not_the_ids(runner):
    same = [IDS[2]] * 3
    keys = KEYS[[2, 3, 2]]
    cls = runner.run(same, keys=keys, taps=("cls",), pass_=TRAINING)["cls"]
    np.testing.assert_allclose(cls[0], cls[2], atol=2e-6)
    assert np.abs(cls[0] - cls[1]).max() > 1e-2


def test_no_rows_are_no_vectors(runner):
    vectors = runner.run([], keys=KEYS[:0], taps=("cls", "mean"), pass_=TRAINING)
    assert {tap: value.shape for tap, value in vectors.items()} == {"cls": (0, WIDTH), "mean": (0, WIDTH)}


def test_taps_are_those_the_model_has(runner):
    assert runner.taps == ALL
    without = make(CONFIG, make_tensors(pooler=False))
    assert not without.has_pooler
    assert without.taps == ALL[1:]
    assert_close(
        without.run(IDS, keys=KEYS, taps=ALL[1:], pass_=Pass()), reference(make_tensors(pooler=False), CONFIG, ROWS)
    )


def test_the_digest_names_weights_and_shape(runner):
    other = {name: value.copy() for name, value in TENSORS.items()}
    other["encoder.layer.1.output.LayerNorm.bias"][5] += 1e-3
    digests = [
        runner.digest,
        make(CONFIG, other).digest,
        make(CONFIG | {"num_attention_heads": 2}, TENSORS).digest,
        make(CONFIG | {"layer_norm_eps": 1e-5}, TENSORS).digest,
        make(CONFIG | {"hidden_dropout_prob": 0.1}, TENSORS).digest,
    ]
    assert len(set(digests)) == 5
    assert make(CONFIG, TENSORS).digest == runner.digest


def test_sites_are_in_the_order_of_the_computation():
    sites = BertConfig(n_layers=2, n_heads=2, width=8, intermediate=8, max_positions=8).sites(0.5)
    assert [site.path for site in sites] == [
        "head/dropout",
        "embeddings/dropout",
        "layer.0/attention/probabilities/dropout",
        "layer.0/attention/output/dropout",
        "layer.0/output/dropout",
        "layer.1/attention/probabilities/dropout",
        "layer.1/attention/output/dropout",
        "layer.1/output/dropout",
    ]
    assert [site.rate for site in sites] == [0.5] + [0.1] * 7
    assert sites[0].modes == (Mode.TRAINING, Mode.HEAD)
    assert all(site.modes == (Mode.TRAINING,) for site in sites[1:])


def test_masks_cover_real_tokens_only(runner):
    lengths = np.array([len(row) for row in ROWS], dtype=np.int32)
    hidden, attention = draw_masks(runner.config, lengths, KEYS, TRAINING)
    assert hidden.shape == (5, lengths.sum(), WIDTH)
    assert attention.shape == (2, len(ROWS), 3, 10, 10)
    for row, n in enumerate(lengths):
        assert not attention[:, row, :, n:].any()
        assert not attention[:, row, :, :, n:].any()
        kept = masks.keep(KEYS[row : row + 1], seed=7, passes=[3], site=5, units=3 * n * n, rate=0.3)
        np.testing.assert_array_equal(attention[1, row, :, :n, :n], kept.reshape(3, n, n))
