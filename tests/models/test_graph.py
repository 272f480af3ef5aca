"""Random nodes of a SavedModel that draw keyed numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedsvc import masks
from embedsvc.errors import ModelFormatError
from embedsvc.models.draws import Draws
from embedsvc.models.graph import read_graph, rewritten
from embedsvc.types import Mode, Pass

pytestmark = pytest.mark.tensorflow

KEYS = masks.row_keys(["a", "b", "c", "d"])
TRAINING = Pass(Mode.TRAINING, 2, 7)
RATE, WIDTH = 0.3, 24


def save(folder: Path, function: Callable[[Any], Any]) -> Path:
    import tensorflow as tf

    module = tf.Module()
    module.f = tf.function(function, input_signature=[tf.TensorSpec([None, WIDTH], tf.float32)])
    tf.saved_model.save(module, str(folder))
    return folder


def opened(folder: Path) -> tuple[Any, Draws]:
    import tensorflow as tf

    draws = Draws()
    with rewritten(folder, draws) as copy:
        return tf.saved_model.load(str(copy)), draws


def run(module: Any, draws: Draws, rows: slice | list[int] = slice(None), pass_: Pass = TRAINING) -> Any:
    keys = KEYS[rows]
    with draws.during(keys, pass_):
        return module.f(np.ones((len(keys), WIDTH), dtype=np.float32)).numpy()


def settled(folder: Path) -> tuple[Any, Draws]:
    module, draws = opened(folder)
    logs = []
    for n in (2, 3):
        run(module, draws, slice(n))
        logs.append(draws.log)
    draws.settle(logs)
    return module, draws


def dropout(x: Any) -> Any:
    import tensorflow as tf

    return tf.nn.dropout(x, RATE)


def stateless_dropout(x: Any) -> Any:
    import tensorflow as tf

    return tf.nn.experimental.stateless_dropout(x, RATE, seed=[1, 2])


def dropout_of_tensorflow_2_1(x: Any) -> Any:
    import tensorflow as tf

    # Scaled and shifted before it is compared, as tf.random.uniform did then.
    drawn = tf.raw_ops.RandomUniform(shape=tf.shape(x), dtype=tf.float32) * (2.0 - 1.0) + 0.0
    return tf.where(drawn >= RATE, x * (1 / (1 - RATE)), 0.0)


@pytest.mark.parametrize("function", [dropout, stateless_dropout, dropout_of_tensorflow_2_1])
def test_the_mask_of_a_dropout_is_the_mask_of_masks(tmp_path: Path, function: Callable[[Any], Any]) -> None:
    module, draws = settled(save(tmp_path, function))
    kept = masks.keep(KEYS, seed=7, passes=[2], site=1, units=WIDTH, rate=RATE)[0]
    np.testing.assert_array_equal(run(module, draws) > 0, kept)
    [site] = draws.dropout_sites()
    assert (site.rate, site.modes, site.kind, draws.masks) == (RATE, (Mode.TRAINING,), "unit", "keyed")


def dropout_written_otherwise(x: Any) -> Any:
    import tensorflow as tf

    return tf.where(tf.random.uniform(tf.shape(x)) < 1 - RATE, x * (1 / (1 - RATE)), 0.0)


@pytest.mark.parametrize("function", [dropout, stateless_dropout, dropout_written_otherwise])
def test_a_row_draws_the_same_alone_and_in_any_batch(tmp_path: Path, function: Callable[[Any], Any]) -> None:
    module, draws = settled(save(tmp_path, function))
    together = run(module, draws)
    np.testing.assert_array_equal(run(module, draws, [2]), together[2:3])
    np.testing.assert_array_equal(run(module, draws, [3, 1]), together[[3, 1]])
    assert not np.array_equal(together[0], together[1])
    assert 0.1 < (together == 0).mean() < 0.5


@pytest.mark.parametrize("function", [dropout, dropout_written_otherwise])
def test_passes_and_seeds_differ_and_repeat(tmp_path: Path, function: Callable[[Any], Any]) -> None:
    module, draws = settled(save(tmp_path, function))
    first = run(module, draws)
    for other in (Pass(Mode.TRAINING, 3, 7), Pass(Mode.TRAINING, 2, 8)):
        assert not np.array_equal(run(module, draws, pass_=other), first)
    np.testing.assert_array_equal(run(module, draws), first)


def test_sites_draw_apart_and_are_numbered_from_the_first_live_one(tmp_path: Path) -> None:
    module, draws = opened(save(tmp_path, lambda x: dropout(x) + 10 * dropout(x)))
    draws.first = 5
    logs = []
    for n in (2, 3):
        run(module, draws, slice(n))
        logs.append(draws.log)
    draws.settle(logs)
    ours = [masks.keep(KEYS, seed=7, passes=[2], site=site, units=WIDTH, rate=RATE)[0] for site in (5, 6)]
    np.testing.assert_allclose(run(module, draws), (ours[0] + 10 * ours[1]) / (1 - RATE), rtol=1e-6)


def test_a_folded_axis_makes_masks_positional_and_passes_still_repeat(tmp_path: Path) -> None:
    import tensorflow as tf

    module, draws = settled(save(tmp_path, lambda x: tf.reshape(dropout(tf.reshape(x, [-1, 4])), tf.shape(x))))
    assert draws.masks == "positional"
    np.testing.assert_array_equal(run(module, draws), run(module, draws))
    assert not np.array_equal(run(module, draws, [2]), run(module, draws)[2:3])


def test_a_function_called_twice_draws_twice_and_repeats(tmp_path: Path) -> None:
    import tensorflow as tf

    inner = tf.function(dropout)
    shared = tf.function(lambda x: inner(x) + inner(x))
    module, draws = settled(save(tmp_path, lambda x: tf.stack([shared(x), shared(shared(x))])))
    assert draws.masks == "keyed"
    assert len(draws.live) == 6
    first = run(module, draws)
    for _ in range(20):
        np.testing.assert_array_equal(run(module, draws), first)
    np.testing.assert_array_equal(run(module, draws, [2, 0]), first[:, [2, 0]])
    assert not np.array_equal(first[0] == 0, first[1] == 0)


def test_dropout_in_a_loop_is_not_promised_to_repeat(tmp_path: Path) -> None:
    import tensorflow as tf

    def looped(x: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, dropout(y)), (0, x))[1]

    module, draws = settled(save(tmp_path, looped))
    assert not draws.repeatable
    assert draws.masks == "positional"
    # Each turn has a mask of its own: 0.7 ** 3 are left of all units, not 0.7.
    assert (run(module, draws) > 0).mean() < 0.5


def test_noise_is_keyed_as_well(tmp_path: Path) -> None:
    import tensorflow as tf

    module, draws = settled(save(tmp_path, lambda x: tf.random.normal(tf.shape(x)) + tf.random.truncated_normal([1])))
    noise = run(module, draws)
    assert abs(noise.std() - 1) < 0.3
    assert [draws.sites[site].kind for site in draws.live] == ["normal", "truncated normal"]
    assert draws.masks == "positional", "the scalar noise has no part for each row"


def test_what_cannot_be_replaced_is_told(tmp_path: Path) -> None:
    import tensorflow as tf

    _, draws = settled(save(tmp_path, lambda x: tf.random.shuffle(dropout(x))))
    assert not draws.repeatable
    assert draws.masks == "positional"


def test_half_precision_dropouts_keep_their_rate(tmp_path: Path) -> None:
    import tensorflow as tf

    module, draws = settled(save(tmp_path, lambda x: tf.cast(dropout(tf.cast(x, tf.float16)), tf.float32)))
    kept = masks.keep(KEYS, seed=7, passes=[2], site=1, units=WIDTH, rate=draws.dropout_sites()[0].rate)[0]
    np.testing.assert_array_equal(run(module, draws) > 0, kept)


def test_the_original_folder_is_left_alone(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", dropout)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with rewritten(folder, Draws()) as copy:
        assert b"PyFunc" in (copy / "saved_model.pb").read_bytes()
    assert not copy.exists()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("content", [None, b"\xff\xff garbage", b""])
def test_a_torn_graph_is_an_error_that_names_the_folder(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(ModelFormatError, match=tmp_path.name):
        read_graph(tmp_path)
