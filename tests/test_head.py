import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedsvc import masks
from embedsvc.errors import SettingsError
from embedsvc.head import Head
from embedsvc.types import Mode, Pass

RNG = np.random.default_rng(3)
WIDTH, CLASSES = 24, 3
PRE = RNG.standard_normal((5, WIDTH), dtype=np.float32)
KEYS = masks.row_keys(f"row {row}" for row in range(5))
KERNEL = RNG.standard_normal((WIDTH, CLASSES), dtype=np.float32)
BIAS = RNG.standard_normal(CLASSES, dtype=np.float32)
STOCHASTIC = [Pass(Mode.TRAINING, 3, 7), Pass(Mode.HEAD, 3, 7)]


def kept(passes, *, rate, rows=slice(None), seed=7):
    return masks.keep(KEYS[rows], seed=seed, passes=passes, site=masks.HEAD_SITE, units=WIDTH, rate=rate)


def test_post_is_the_very_array_of_pre_in_inference():
    assert Head(0.5).post(PRE, KEYS, Pass()) is PRE


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("pass_", STOCHASTIC)
def test_post_is_pre_times_mask_over_keep_rate_to_the_bit(rate, pass_):
    post = Head(rate).post(PRE, KEYS, pass_)
    expected = PRE * kept([3], rate=rate)[0] * np.float32(1 / (1 - rate))
    assert post.dtype == np.float32
    assert post.shape == PRE.shape
    np.testing.assert_array_equal(post, expected)
    assert not np.array_equal(post, PRE)


@pytest.mark.parametrize("pass_", STOCHASTIC)
def test_rate_0_drops_nothing(pass_):
    np.testing.assert_array_equal(Head(0.0).post(PRE, KEYS, pass_), PRE)


def test_training_and_head_mode_draw_the_same_head_mask():
    posts = [Head(0.5).post(PRE, KEYS, pass_) for pass_ in STOCHASTIC]
    np.testing.assert_array_equal(*posts)


def test_post_of_a_row_does_not_depend_on_its_batch():
    head = Head(0.3)
    together = head.post(PRE, KEYS, STOCHASTIC[0])
    np.testing.assert_array_equal(head.post(PRE[::-1], KEYS[::-1], STOCHASTIC[0]), together[::-1])
    for row in range(len(PRE)):
        np.testing.assert_array_equal(
            head.post(PRE[row : row + 1], KEYS[row : row + 1], STOCHASTIC[0])[0], together[row]
        )


@pytest.mark.parametrize("passes", [range(4), [5, 0, 2], []])
def test_many_posts_are_the_posts_one_by_one(passes):
    head = Head(0.3)
    posts = head.posts(PRE, KEYS, seed=7, passes=passes)
    assert posts.shape == (len(passes), *PRE.shape)
    assert posts.dtype == np.float32
    for at, index in enumerate(passes):
        np.testing.assert_array_equal(posts[at], head.post(PRE, KEYS, Pass(Mode.HEAD, index, 7)))


def test_no_rows_are_no_posts():
    assert Head(0.3).post(PRE[:0], KEYS[:0], STOCHASTIC[0]).shape == (0, WIDTH)


def test_pre_is_not_written_into():
    before = PRE.copy()
    Head(0.5).posts(PRE, KEYS, seed=7, passes=range(3))
    np.testing.assert_array_equal(PRE, before)


def test_logits_are_the_dense_layer():
    logits = Head(0.1, KERNEL, BIAS).logits(PRE)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, PRE.astype(np.float64) @ KERNEL + BIAS, atol=1e-5)
    np.testing.assert_allclose(Head(0.1, KERNEL).logits(PRE), PRE.astype(np.float64) @ KERNEL, atol=1e-5)


def test_logits_of_many_passes_keep_the_leading_axes():
    head = Head(0.1, KERNEL, BIAS)
    posts = head.posts(PRE, KEYS, seed=7, passes=range(4))
    logits = head.logits(posts)
    assert logits.shape == (4, 5, CLASSES)
    np.testing.assert_allclose(logits[2], head.logits(posts[2]), atol=1e-6)


def test_an_untrained_head_has_no_logits():
    head = Head(0.1)
    assert head.n_classes is None
    with pytest.raises(SettingsError, match="no trained head"):
        head.logits(PRE)


def test_the_number_of_classes_is_the_width_of_the_kernel():
    assert Head(0.1, KERNEL).n_classes == CLASSES


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"rate": 1.0}, "the dropout rate is 1.0"),
        ({"rate": -0.1}, "the dropout rate is -0.1"),
        ({"rate": float("nan")}, "the dropout rate is nan"),
        ({"bias": BIAS}, "a bias needs a kernel"),
        ({"kernel": KERNEL[0]}, r"kernel \(3,\), bias None"),
        ({"kernel": KERNEL, "bias": BIAS[:2]}, r"kernel \(24, 3\), bias \(2,\)"),
        ({"kernel": KERNEL, "bias": BIAS[None]}, r"kernel \(24, 3\), bias \(1, 3\)"),
        ({"kernel": KERNEL, "classes": ("good", "bad")}, "3 classes, but 2 names"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(given_, message):
    with pytest.raises(SettingsError, match=message):
        Head(**({"rate": 0.1} | given_))


floats = hnp.arrays(np.float32, (4, 2), elements=st.floats(width=32))  # NaN, infinities and -0.0 too


@given(st.floats(0, 1, exclude_max=True), floats, st.booleans(), st.lists(st.text(), min_size=2, max_size=2))
def test_a_head_goes_through_json_bit_for_bit(rate, kernel, has_bias, classes):
    head = Head(rate, kernel, kernel[0] if has_bias else None, tuple(classes))
    again = Head.from_json(json.loads(json.dumps(head.to_json())))
    assert (again.rate, again.classes) == (head.rate, head.classes)
    assert again.kernel.tobytes() == kernel.tobytes()
    assert again.kernel.shape == (4, 2)
    assert again.kernel.dtype == np.float32
    assert (again.bias is not None) == has_bias
    assert again.digest() == head.digest()


@pytest.mark.parametrize("rate", [0, np.float32(0.25), np.float64(0.1), 0.3])
def test_an_untrained_head_goes_through_json_whatever_number_its_rate_was(rate):
    head = Head(rate)
    again = Head.from_json(json.loads(json.dumps(head.to_json())))
    assert again.kernel is None
    assert again.bias is None
    assert again.digest() == head.digest() == Head(float(rate)).digest()


def test_a_kernel_in_another_memory_order_is_the_same_head():
    turned = np.asfortranarray(KERNEL)
    assert Head(0.1, turned).digest() == Head(0.1, KERNEL).digest()
    assert Head.from_json(Head(0.1, turned).to_json()).kernel.tobytes() == KERNEL.tobytes()


def test_the_digest_tells_heads_apart():
    heads = [
        Head(0.1),
        Head(0.2),
        Head(0.1, KERNEL),
        Head(0.1, KERNEL, BIAS),
        Head(0.1, KERNEL, BIAS, ("a", "b", "c")),
        Head(0.1, KERNEL, BIAS, ("a", "c", "b")),
        Head(0.1, KERNEL, -BIAS),
        Head(0.1, -KERNEL, BIAS),
        Head(0.1, KERNEL.reshape(12, 6)),
    ]
    assert len({head.digest() for head in heads}) == len(heads)
