import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedsvc import Text
from embedsvc.errors import DegenerateInputError
from embedsvc.training.labels import choose_task
from embedsvc.training.splitting import PARTS, split_texts, without


def made(labels, texts=None):
    texts = texts or [f"text {at}" for at in range(len(labels))]
    return [Text(f"r:{at}", text, label) for at, (text, label) in enumerate(zip(texts, labels, strict=True))]


def split(texts, *, seed=0, validation=0.1, test=0.2):
    labels = choose_task([text.label for text in texts])
    return split_texts(texts, labels, validation=validation, test=test, seed=seed)


def parts_by_text(texts, found):
    return {texts[row].text: part for part in PARTS for row in getattr(found, part)}


def test_every_row_is_in_one_part_and_classes_keep_their_shares():
    texts = made(["a"] * 100 + ["b"] * 50)
    found = split(texts)
    rows = np.concatenate([getattr(found, part) for part in PARTS])
    assert sorted(rows.tolist()) == list(range(150))
    for name, n in (("a", 100), ("b", 50)):
        counts = [sum(texts[row].label == name for row in getattr(found, part)) for part in PARTS]
        assert counts == [0.7 * n, 0.1 * n, 0.2 * n]


def test_neither_order_nor_ids_move_a_text():
    texts = made(["a", "b"] * 40)
    other = [Text(f"x{at}", text.text, text.label) for at, text in enumerate(reversed(texts))]
    assert parts_by_text(texts, split(texts)) == parts_by_text(other, split(other))


def test_another_seed_is_another_split():
    texts = made(["a", "b"] * 40)
    assert parts_by_text(texts, split(texts)) != parts_by_text(texts, split(texts, seed=1))


@given(st.lists(st.integers(0, 15), min_size=60, max_size=60))
def test_copies_are_never_on_two_sides(numbers):
    texts = made(["a", "b"] * 30, [f"{'Text' if at % 3 else 'text '} {n % 8}" for at, n in enumerate(numbers)])
    texts += made(["a"] * 4 + ["b"] * 4, [f"only {at}" for at in range(8)])
    found = split(texts)
    places = {}
    for part in PARTS:
        for row in getattr(found, part):
            places.setdefault(" ".join(texts[row].text.lower().split()), set()).add(part)
    assert all(len(parts) == 1 for parts in places.values())


def test_copies_and_their_conflicts_are_counted():
    texts = made(["a", "b"] * 10) + made(["b", "a"], ["TEXT 0", "text  2"])
    found = split(texts)
    assert (found.n_copies, found.n_conflicts) == (2, 1)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a"] * 30 + ["b"], r"the class 'b' has 1 text, expected at least 3"),
        (["a"] * 30 + ["b"] * 2, r"the class 'b' has 2 texts, expected at least 3"),
    ],
)
def test_a_class_that_cannot_be_in_every_part_is_an_error(labels, words):
    with pytest.raises(DegenerateInputError, match=words):
        split(made(labels))


def test_copies_do_not_make_a_class_larger():
    texts = made(["a"] * 30 + ["b"] * 5, [f"text {at}" for at in range(30)] + ["same"] * 5)
    with pytest.raises(DegenerateInputError, match=r"has 5 texts \(1 distinct\)"):
        split(texts)


def test_a_label_of_several_that_misses_a_part_is_named():
    texts = made(["x|y"] * 40 + ["z"])
    with pytest.raises(DegenerateInputError, match="the class 'z' has 1 of 41 texts, and none of them fell into the"):
        split(texts)


def test_held_out_texts_are_taken_from_the_training_texts():
    texts = made(["a", "b", "a"], ["One", "two", "three"])
    assert [text.text for text in without(texts, [Text("t", " one ", "a")])] == ["two", "three"]
