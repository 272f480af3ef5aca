"""Whether loss and head belong together; and that Keras agrees, in tests/models/recurrent/test_question_tables.py."""

import pytest

from embedsvc.losses import Ending, fit, read_loss


@pytest.mark.parametrize(
    ("ending", "fits", "word"),
    [
        (Ending("linear", 1, "BinaryCrossentropy", True), True, "logits into a loss of logits"),
        (Ending("linear", 3, "SparseCategoricalCrossentropy", True), True, "logits into"),
        (Ending("sigmoid", 1, "binary_crossentropy", False), True, "probabilities into"),
        (Ending("softmax", 3, "sparse_categorical_crossentropy", False), True, "probabilities into"),
        (Ending("sigmoid", 1, "BinaryCrossentropy", True), False, "sigmoid is applied twice"),
        (Ending("softmax", 3, "CategoricalCrossentropy", True), False, "softmax is applied twice"),
        (Ending("softmax", 1, "BinaryCrossentropy", False), False, "1.0 whatever the text"),
        (Ending("softmax", 1, None, None), False, "1.0 whatever the text"),
        (Ending("linear", 1, "binary_crossentropy", False), False, "gets logits"),
        (Ending("linear", 3, "Custom>SparseCategoricalCrossentropy", False), False, "gets logits"),
        (Ending("softmax", 3, "BinaryCrossentropy", False), False, "each class alone"),
        (Ending("sigmoid", 3, "CategoricalCrossentropy", False), False, "shared by two classes"),
        (Ending("linear", 1, "SparseCategoricalCrossentropy", True), False, "shared by two classes"),
        (Ending("sigmoid", 4, "BinaryCrossentropy", False), True, "probabilities into"),
        (Ending("linear", 1, "mse", False), None, "no cross-entropy"),
        (Ending("relu", 2, "CategoricalCrossentropy", False), None, "neither logits nor"),
        (Ending("linear", 2, None, None), None, "no loss; the head gives logits"),
        (Ending(), None, "no trained head"),
    ],
)
def test_an_ending_is_judged(ending, fits, word):
    found = fit(ending)
    assert found.fits is fits
    assert word in found.what
    assert bool(found.fix) or fits is not False
    assert "\n" not in found.fix


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("binary_crossentropy", ("binary_crossentropy", False)),
        (
            {
                "class_name": "BinaryCrossentropy",
                "config": {"from_logits": True, "name": "x"},
                "module": "keras.losses",
            },
            ("BinaryCrossentropy", True),
        ),
        ({"class_name": "BinaryCrossentropy", "config": {"fn": "x"}}, ("BinaryCrossentropy", False)),
        ({"class_name": "function", "config": "hinge", "module": "builtins"}, ("hinge", False)),
        (["mse"], ("mse", False)),
        ({"tone": "mse"}, ("mse", False)),
        ({"tone": "mse", "topic": "mae"}, (None, None)),
        (["mse", "mae"], (None, None)),
        (None, (None, None)),
        ("", (None, None)),
        ({"class_name": 3, "config": {}}, (None, None)),
        (7, (None, None)),
    ],
)
def test_a_loss_is_read_in_every_form_that_keras_writes(config, expected):
    assert read_loss(config) == expected
