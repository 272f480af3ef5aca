"""Keyed dropout as a TensorFlow op: the bits of `masks.keep`, whatever the batch."""

import numpy as np
import pytest

from embedsvc import masks

pytestmark = pytest.mark.tensorflow

KEYS = masks.row_keys(["a", "b", "c"])
SEED, PASS, SITE, RATE = 7, 3, 2, 0.25


def dropped(x, *, shape=None, keys=KEYS, seed=SEED, pass_=PASS, rate=RATE):
    import tensorflow as tf

    from embedsvc.models.keyed import keyed_dropout

    @tf.function(autograph=False)
    def run(x, keys, draw, shape):
        return keyed_dropout(x, rate, shape=shape, keys=keys, draw=draw, site=SITE)

    arguments = (tf.constant(keys), tf.constant([seed, pass_], tf.int64), tf.constant(shape or x.shape, tf.int32))
    return run(tf.constant(x), *arguments).numpy()


def expected(x, keys=KEYS):
    units = x[0].size
    kept = masks.keep(keys, seed=SEED, passes=[PASS], site=SITE, units=units, rate=RATE)[0].reshape(x.shape)
    return masks.dropout(x, kept, RATE)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((3, 5, 7)).astype(np.float32)


def test_bits_are_those_of_numpy(x):
    np.testing.assert_array_equal(dropped(x), expected(x))


def test_a_row_alone_has_the_mask_it_has_among_others(x):
    np.testing.assert_array_equal(dropped(x[1:2], keys=KEYS[1:2])[0], dropped(x)[1])


def test_rows_folded_into_the_batch_keep_their_masks(x):
    folded = dropped(x.reshape(15, 7))
    np.testing.assert_array_equal(folded.reshape(3, 5, 7), dropped(x))


def test_a_mask_shared_by_an_axis_is_keyed_by_row(x):
    shared = dropped(x, shape=(3, 1, 7)) == 0
    assert (shared == shared[:, :1]).all()
    assert not (shared[0] == shared[1]).all()


def test_a_mask_shared_by_the_batch_follows_its_first_row(x):
    shared = dropped(x, shape=(1, 5, 7)) == 0
    assert (shared == shared[:1]).all()
    np.testing.assert_array_equal(shared[0], dropped(x[:1], keys=KEYS[:1])[0] == 0)


def test_numbers_that_are_not_finite_do_not_survive_a_mask():
    y = dropped(np.full((3, 64), np.inf, dtype=np.float32))
    assert set(np.unique(y)) == {0.0, np.inf}


def test_no_rows_and_no_units_are_no_error():
    assert dropped(np.zeros((3, 0), np.float32)).shape == (3, 0)
    assert dropped(np.zeros((0, 4), np.float32), keys=KEYS[:0]).shape == (0, 4)


def test_half_precision_stays_half_precision(x):
    y = dropped(x.astype(np.float16))
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y == 0, dropped(x) == 0)
