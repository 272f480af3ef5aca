"""A recurrent classifier on disk, whole, torn or foreign; under other policies; and as `train` writes it."""

import json
from dataclasses import replace

import numpy as np
import pytest

import embedsvc
from embedsvc.errors import ModelError, ModelFormatError, SettingsError
from embedsvc.head import Head
from embedsvc.models.load import load_model, recognise
from embedsvc.models.recurrent.config import initial_weights, parse_config
from embedsvc.models.recurrent.folder import Recurrent, read_folder, write_folder
from embedsvc.models.recurrent.vocabulary import Vocabulary
from embedsvc.types import Mode, Pass, Text

WORDS = Vocabulary(["[PAD]", "[UNK]", "the", "film", "was", "good", "bad"])
TEXTS = [Text(text, text) for text in ("the film was good", "bad", "", "x y z the film")]


def write(folder, config="gru,units=4,embedding=3,recurrent=0.5"):
    shape = parse_config(config, len(WORDS))
    head = Head(0.5, np.ones((shape.width, 2), np.float32), np.zeros(2, np.float32), ("no", "yes"))
    write_folder(folder, Recurrent(shape, initial_weights(shape, 0), WORDS, head))
    return folder


def change(folder, **values):
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**data, **values}))


def test_a_folder_is_read_as_it_was_written(tmp_path):
    model = read_folder(write(tmp_path, "layer_norm_lstm,units=4,embedding=3,layers=2,bidirectional,keras=0.25"))
    assert model.config == parse_config(
        "layer_norm_lstm,units=4,embedding=3,layers=2,bidirectional,keras=0.25", len(WORDS)
    )
    expected = initial_weights(model.config, 0)
    assert all((model.weights[name] == value).all() for name, value in expected.items())
    assert model.vocabulary.words == WORDS.words
    assert model.head.classes == ("no", "yes")
    assert recognise(tmp_path) == "recurrent"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"model_type": "bert"}, "model_type 'bert'"),
        ({"version": 2}, "version 2"),
        ({"units": 5}, "has shape"),
        ({"units": "4"}, "units is '4'"),
        ({"layers": 2}, "has shape None"),
        ({"cell": "lstm"}, "has shape"),
        ({"dropout": {"inputs": 0.2}}, "called 'inputs'"),
        ({"dropout": {"input": True}}, "input is True"),
        ({"dropout": 3}, "expected rates by name"),
        ({"classes": ["one"]}, "2 classes, but 1 names"),
        ({"head_dropout": 1.5}, "1.5"),
        ({"bidirectional": 1}, "bidirectional is 1"),
    ],
)
def test_a_config_that_is_wrong_is_an_error_that_says_so(tmp_path, values, problem):
    change(write(tmp_path), **values)
    with pytest.raises(ModelFormatError) as caught:
        read_folder(tmp_path)
    assert problem in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_torn_and_missing_files_are_errors(tmp_path):
    folder = write(tmp_path / "a")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-5])
    with pytest.raises(ModelFormatError, match="is torn"):
        read_folder(folder)
    folder = write(tmp_path / "b")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\nthe\n")
    with pytest.raises(ModelFormatError, match="has 3 words"):
        read_folder(folder)
    (folder / "vocab.txt").write_text("\n".join(["[UNK]", "[PAD]", "a", "b", "c", "d", "e"]) + "\n")
    with pytest.raises(ModelFormatError, match="begins with"):
        read_folder(folder)
    (folder / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelFormatError, match="no UTF-8"):
        read_folder(folder)
    (folder / "vocab.txt").unlink()
    with pytest.raises(ModelFormatError, match=r"has no vocab\.txt"):
        read_folder(folder)


def test_words_are_counted_and_doubled_ones_refused():
    words = Vocabulary.of_texts(["The film, the plot", "the film"], most=4)
    assert words.words == ("[PAD]", "[UNK]", "the", "film")
    assert [ids.tolist() for ids in words.tokenize(["THE Film !", ""]).ids] == [[2, 3, 1], []]
    with pytest.raises(ModelFormatError, match="'a' twice"):
        Vocabulary(["[PAD]", "[UNK]", "a", "a"])


def run(uri, pass_=None, **options):
    encoder = load_model(uri, **options)
    return embedsvc.forward(encoder, TEXTS, taps=["pre_dropout"], pass_=pass_).vectors["pre_dropout"]


@pytest.mark.tensorflow
def test_the_same_weights_run_under_another_policy(tmp_path):
    folder = write(tmp_path / "model")
    uri, training = f"recurrent:{folder}", Pass(Mode.TRAINING, 0, 7)
    own = run(uri, training)
    assert not np.allclose(own, run(uri))
    for policy in ("gal=0.5", "semeniuta=0.5", "output=0.5", "state=0.5,variational"):
        np.testing.assert_allclose(run(f"{uri}#{policy}"), run(uri), atol=1e-6)
        assert not np.allclose(run(f"{uri}#{policy}", training), own)
    np.testing.assert_allclose(run(f"{uri}#none", training), run(uri), atol=1e-6)
    # Same site, same rate, same masks.
    np.testing.assert_array_equal(run(f"{uri}#recurrent=0.5", training), own)
    assert load_model(f"{uri}#none").spec.digest != load_model(uri).spec.digest
    with pytest.raises(SettingsError, match="called 'gall'"):
        run(f"{uri}#gall=0.5")
    with pytest.raises(ModelError, match="none called 'other'"):
        run(uri, dropout_layer="other")


@pytest.mark.tensorflow
def test_inspect_sees_which_masks_are_shared_by_the_steps(tmp_path):
    uri = f"recurrent:{write(tmp_path / 'model', 'lstm,units=24,embedding=24')}"
    for policy, shared in (("keras=0.5", True), ("wrapper=0.5", False), ("semeniuta=0.5", False), ("gal=0.5", True)):
        found = embedsvc.inspect(f"{uri}#{policy}")
        live = [site for site in found.sites[1:] if site.rate]
        assert live
        assert all(site.shared is shared for site in live), policy
        assert {site.gates for site in live} == ({4} if policy.startswith("keras") else {1})
        assert all(site.modes == () for site in found.sites[1:] if not site.rate)


@pytest.mark.tensorflow
def test_a_network_of_train_computes_what_its_folder_does(tmp_path):
    from embedsvc.models.network import Request, build_network

    request = Request(TEXTS * 2, ("no", "yes"), False, 0.3, False, None, None, "float32", 5)
    network = build_network("recurrent:lstm,units=4,embedding=3,bidirectional,gal=0.4", request)
    rows = network.prepare(TEXTS, None)
    network.export(tmp_path / "model")
    encoder = load_model(str(tmp_path / "model"))
    taps = ["pre_dropout", "logits"]
    for pass_ in (Pass(), Pass(Mode.TRAINING, 2, 7)):
        inputs = rows.inputs(np.arange(4), pass_)
        logits = network.logits(inputs, pass_.mode is Mode.TRAINING).numpy()
        expected = embedsvc.forward(encoder, TEXTS, taps=taps, pass_=pass_).vectors["logits"]
        np.testing.assert_allclose(logits, expected, atol=1e-6)
    with pytest.raises(SettingsError, match="nothing to freeze"):
        build_network("recurrent:lstm", replace(request, freeze=True))
