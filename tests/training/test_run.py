"""A tiny BERT trained for real: what comes out is one model, whoever loads it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from embedsvc import ReadOptions, Text, forward, load_model, train
from embedsvc.errors import InputError, StoreError, StoreMismatchError
from embedsvc.training import TrainingSettings
from tests.models.tiny_bert import make_tensors, write_folder
from tests.models.tiny_families import TINY
from tests.training.reviews import write_reviews

pytestmark = pytest.mark.tensorflow

COLUMNS = ReadOptions(label_column="stars")
TEXTS = [Text(str(at), text) for at, text in enumerate(["the film was good", "bad", "a plot… [SEP] very"])]


def run(folder, out, **changes):
    asked = {"encoder": str(folder / "encoder"), "epochs": 2, "batch_size": 8, "learning_rate": 3e-3} | changes
    return train([str(folder / "reviews.csv")], out, settings=TrainingSettings(**asked), read_options=COLUMNS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("training")
    write_folder(place / "encoder", make_tensors())
    write_reviews(place / "reviews.csv", 60)
    run(place, place / "model")
    return place


def logits(uri):
    return forward(load_model(uri), TEXTS, taps=["logits"]).vectors["logits"]


def logits_of_saved_model(path):
    """By TensorFlow alone, as others run it."""
    code = (
        "import sys, tensorflow as tf, tensorflow_text\n"
        f"f = tf.saved_model.load({str(path)!r}).signatures['serving_default']\n"
        f"print(f(text=tf.constant({[text.text for text in TEXTS]!r}))['logits'].numpy().tolist())\n"
        "assert not any(name.startswith('embedsvc') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    return np.array(eval(done.stdout))


def test_every_format_gives_the_same_logits(folder):
    ours = logits(str(folder / "model"))
    np.testing.assert_allclose(logits(f"keras:{folder / 'model' / 'model.keras'}"), ours, atol=1e-5)
    np.testing.assert_allclose(logits_of_saved_model(folder / "model" / "saved_model"), ours, atol=1e-5)


def test_a_bare_distilbert_is_trained_with_a_new_pooler_and_stays_one_in_every_format(folder):
    tiny = TINY["distilbert"]
    bare = {name.removeprefix("distilbert."): tensor for name, tensor in tiny.tensors().items() if "class" not in name}
    write_folder(folder / "distilbert", bare, dict(tiny.config))
    run(folder, folder / "distilled", encoder=str(folder / "distilbert"), epochs=8, learning_rate=1e-2)
    encoder = load_model(str(folder / "distilled"))
    assert (encoder.family, encoder.head.rate, encoder.spec.notes) == ("DistilBERT", 0.1, ())
    data = json.loads((folder / "distilled" / "config.json").read_text(encoding="utf-8"))
    assert data["architectures"] == ["DistilBertForSequenceClassification"]
    assert data["seq_classif_dropout"] == 0.1
    ours = logits(str(folder / "distilled"))
    assert np.abs(ours[0] - ours[1]).max() > 0.1, "it has learned to tell them apart"
    np.testing.assert_allclose(logits(f"keras:{folder / 'distilled' / 'model.keras'}"), ours, atol=1e-5)
    np.testing.assert_allclose(logits_of_saved_model(folder / "distilled" / "saved_model"), ours, atol=1e-5)


def test_a_new_pooler_is_trained_on_a_frozen_encoder(folder):
    write_folder(folder / "poolerless", make_tensors(pooler=False))
    run(folder, folder / "pooled", encoder=str(folder / "poolerless"), freeze_encoder=True)
    encoder = load_model(str(folder / "pooled"))
    assert "pooled_output" in encoder.spec.taps
    assert encoder.spec.notes == ()


def test_labelled_texts_come_from_a_pipe(folder, tmp_path):
    command = ["train", "-", "--stdin-format", "csv", "--label-column", "stars", "--encoder", folder / "encoder"]
    done = subprocess.run(
        [sys.executable, "-m", "embedsvc", *command, "--freeze-encoder", "--epochs", "1", "-o", tmp_path / "model"],
        input=(folder / "reviews.csv").read_bytes(),
        capture_output=True,
        check=True,
    )
    assert b"binary" in done.stdout
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_the_head_has_the_rate_that_was_asked_for(folder):
    run(folder, folder / "frozen", freeze_encoder=True, dropout=0.3)
    head = load_model(str(folder / "frozen")).head
    assert (head.rate, head.classes) == (0.3, ("bad", "good"))


def test_a_seed_repeats_to_the_bit(folder):
    run(folder, folder / "again")
    one, two = ((folder / name / "model.safetensors").read_bytes() for name in ("model", "again"))
    assert one == two


def test_a_finished_run_is_left_as_it_is_and_another_is_refused(folder):
    assert run(folder, folder / "model").new_steps == 0
    with pytest.raises(StoreMismatchError, match="dropout was 0.1, is 0.2"):
        run(folder, folder / "model", dropout=0.2)
    with pytest.raises(StoreError, match="no training run"):
        run(folder, folder / "encoder")


def test_rows_without_a_label_are_named(folder):
    (folder / "half.csv").write_text("text,stars\nthe film,good\na film,\n")
    with pytest.raises(InputError, match=r"1 of 2 rows have no label in the column 'stars', the first is .*half.csv:2"):
        train([str(folder / "half.csv")], folder / "never", read_options=COLUMNS)
    assert not (folder / "never").exists()
