import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedsvc.errors import DegenerateInputError, SettingsError
from embedsvc.training.labels import Task, choose_task


@pytest.mark.parametrize(
    ("labels", "task", "classes"),
    [
        (["good", "bad", "good"], Task.BINARY, ("bad", "good")),
        (["0", "1"], Task.BINARY, ("0", "1")),
        (["10", "9", "1", "9"], Task.MULTI_CLASS, ("1", "9", "10")),
        (["b", "a", "c"], Task.MULTI_CLASS, ("a", "b", "c")),
        (["a|b", "c", "b"], Task.MULTI_LABEL, ("a", "b", "c")),
        (["a | b", "|", "b|b"], Task.MULTI_LABEL, ("a", "b")),
    ],
)
def test_the_task_follows_from_the_labels_and_is_said_aloud(labels, task, classes):
    found = choose_task(labels)
    assert (found.task, found.classes) == (task, classes)
    assert found.reason.startswith(f"{task}, since ")
    assert all(name in found.reason for name in classes)


def test_two_classes_may_be_told_to_be_several_labels():
    found = choose_task(["a", "b"], task=Task.MULTI_LABEL)
    np.testing.assert_array_equal(found.encode(["b", "a"], where="here"), [[0, 1], [1, 0]])


def test_another_separator_leaves_bars_alone():
    assert choose_task(["a|b", "c"], separator=";").classes == ("a|b", "c")
    assert choose_task(["a;b", "c"], separator=";").task is Task.MULTI_LABEL


@pytest.mark.parametrize(
    ("labels", "task", "words"),
    [
        (["good"] * 120, Task.AUTO, "all 120 texts have the label 'good'"),
        ([], Task.AUTO, "no labels"),
        (["a", "b", "c"], Task.BINARY, "said to be binary, but there are 3 labels"),
        (["|", "|"], Task.AUTO, "no text has any label"),
    ],
)
def test_labels_that_teach_nothing_are_an_error(labels, task, words):
    with pytest.raises(DegenerateInputError, match=words):
        choose_task(labels, task=task)


def test_an_unseen_label_is_named_with_where_it_is():
    labels = choose_task(["a", "b"])
    with pytest.raises(DegenerateInputError, match=r"the test file has labels that no training text has: c \(2\)"):
        labels.encode(["a", "c", "c"], where="the test file")


def test_an_unknown_task_is_a_settings_error():
    with pytest.raises(SettingsError, match="trinary"):
        Task("trinary")


@given(st.lists(st.sampled_from(["x", "y", "z|x", "|", "y|z"]), min_size=4))
def test_targets_hold_each_label_once(labels):
    if not {"z|x", "y|z"} & set(labels):
        return
    found = choose_task(labels)
    targets = found.encode(labels, where="here")
    assert targets.dtype == np.float32
    for row, label in zip(targets, labels, strict=True):
        assert {found.classes[at] for at in np.flatnonzero(row)} == {part for part in label.split("|") if part}
