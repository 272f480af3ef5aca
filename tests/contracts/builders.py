"""Tiny models on disk, one function a loader. A loader joins the contracts by one function and one line in ENCODERS.

A builder gets an empty folder and a seed for its weights, writes a model there and says how to load it.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedsvc.errors import MissingExtraError, SettingsError
from embedsvc.models.engines import Precision
from embedsvc.models.load import load_model
from tests.models import tiny_bert, tiny_saved_models
from tests.models.tiny_families import TINY

__all__ = ["ENCODERS", "WORDS", "Built"]

WORDS = ("the", "a", "film", "was", "good", "bad", "very", "plot", "actor", "und", "café", "日", "本", "?", "!", ".")


@dataclass(frozen=True)
class Built:
    """What a builder wrote.

    `plain` runs the model as its makers would, in inference mode, and gives the same numbers as the tap `plain_tap`,
    within `tolerance`: what docs/speed.md states of an engine's precision.
    """

    uri: str
    options: dict[str, Any] = field(default_factory=dict)
    plain: Callable[[Sequence[str]], NDArray[np.float32]] | None = None
    plain_tap: str = "logits"
    tolerance: float = 1e-5


def fake(folder: Path, seed: int) -> Built:
    return Built(f"fake:{16 + seed}")


def vocabulary(folder: Path) -> list[str]:
    """A WordPiece vocabulary over WORDS, written to vocab.txt as well."""
    letters = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*WORDS, *letters])]
    words += [f"##{letter}" for letter in letters]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return words


def strings_model(keras: Any, seed: int, *, length: int | None = None) -> Any:
    """Strings in; a dropout over tokens, another before the last dense layer."""
    keras.utils.set_random_seed(seed)
    splitter = keras.layers.TextVectorization(vocabulary=list(WORDS[:13]), output_sequence_length=length)
    inputs = keras.Input((1,), dtype="string")
    x = keras.layers.Embedding(20, 24, embeddings_initializer="normal")(splitter(inputs))
    x = keras.layers.Dropout(0.2, name="token_dropout")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    x = keras.layers.Dense(16, activation="tanh", kernel_initializer="orthogonal")(x)
    x = keras.layers.Dropout(0.3, name="head_dropout")(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", bias_initializer="normal")(x))


def recurrent_model(keras: Any, seed: int, *layers: Any) -> Any:
    """Strings in; recurrent layers, their last state the head's input."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((1,), dtype="string")
    x = keras.layers.TextVectorization(vocabulary=list(WORDS[:13]))(inputs)
    x = keras.layers.Embedding(20, 8, embeddings_initializer="normal")(x)
    for layer in layers:
        x = layer(x)
    x = keras.layers.Dropout(0.3, name="head_dropout")(x)
    return keras.Model(inputs, keras.layers.Dense(3, bias_initializer="normal")(x))


def bert_model(keras: Any, seed: int, vocabulary_size: int) -> Any:
    """Token ids in; one transformer layer, BERT's pooler and head."""
    keras.utils.set_random_seed(seed)
    names = ("token_ids", "padding_mask", "segment_ids")
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    x = keras.layers.Embedding(vocabulary_size, 16, embeddings_initializer="normal")(inputs["token_ids"])
    x = keras.layers.Add()([x, keras.layers.Embedding(2, 16)(inputs["segment_ids"])])
    x = keras.layers.Dropout(0.1, name="embeddings_dropout")(keras.layers.LayerNormalization()(x))
    attention = keras.layers.MultiHeadAttention(2, 8, dropout=0.1, name="attention")
    mask = keras.layers.Reshape((1, -1))(inputs["padding_mask"])
    x = keras.layers.LayerNormalization()(keras.layers.Add()([x, attention(x, x, attention_mask=mask)]))
    x = keras.layers.Dense(16, activation="tanh", name="pooler")(x[:, 0, :])
    x = keras.layers.Dropout(0.1, name="head_dropout")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="classifier", bias_initializer="normal")(x))


def keras3_strings(folder: Path, seed: int) -> Built:
    import keras

    model = strings_model(keras, seed)
    model.save(folder / "model.keras")
    return Built(f"keras:{folder / 'model.keras'}", plain=_plain(keras, model))


def keras3_bert(folder: Path, seed: int) -> Built:
    import keras

    bert_model(keras, seed, len(vocabulary(folder))).save(folder / "model.keras")
    return Built(str(folder / "model.keras"))


def keras3_recurrent(folder: Path, seed: int) -> Built:
    import keras

    both = keras.layers.LSTM(8, dropout=0.2, recurrent_dropout=0.3)
    model = recurrent_model(keras, seed, keras.layers.Bidirectional(both, name="both"))
    model.save(folder / "model.keras")
    return Built(f"keras:{folder / 'model.keras'}", plain=_plain(keras, model))


def keras2_recurrent(folder: Path, seed: int) -> Built:
    import tf_keras

    first = tf_keras.layers.SimpleRNN(8, dropout=0.2, recurrent_dropout=0.3, return_sequences=True, name="first")
    # Without recurrent dropout: the layer that tf_keras would run on a fused kernel.
    model = recurrent_model(tf_keras, seed, first, tf_keras.layers.GRU(16, dropout=0.2, name="last"))
    model.save(folder / "model.keras")
    return Built(f"keras:{folder / 'model.keras'}", plain=_plain(tf_keras, model))


def recurrent_lstm(folder: Path, seed: int) -> Built:
    return recurrent_folder(folder, seed, "lstm,layers=2,bidirectional,input=0.2,recurrent=0.3,variational")


def recurrent_gru(folder: Path, seed: int) -> Built:
    return recurrent_folder(folder, seed, "gru,input=0.2,recurrent=0.3,output=0.1,update=0.2,untied")


def recurrent_folder(folder: Path, seed: int, config: str) -> Built:
    from embedsvc.head import Head
    from embedsvc.models.recurrent.config import initial_weights, parse_config
    from embedsvc.models.recurrent.folder import Recurrent, write_folder
    from embedsvc.models.recurrent.vocabulary import Vocabulary

    words = Vocabulary(["[PAD]", "[UNK]", *WORDS])
    shape = parse_config(f"{config},units=12,embedding=8,max_tokens=32", len(words))
    weights = initial_weights(shape, seed)
    weights["embedding"] = weights["embedding"] * 20
    rng = np.random.default_rng(seed)
    head = Head(0.3, rng.standard_normal((shape.width, 3)).astype(np.float32), None, ("a", "b", "c"))
    write_folder(folder / "model", Recurrent(shape, weights, words, head))
    return Built(str(folder / "model"))


def keras2_strings(folder: Path, seed: int) -> Built:
    import tf_keras

    model = strings_model(tf_keras, seed, length=12)
    model.save(folder / "model.keras")
    return Built(f"keras:{folder / 'model.keras'}", plain=_plain(tf_keras, model))


def keras2_bert_h5(folder: Path, seed: int) -> Built:
    import tf_keras

    model = bert_model(tf_keras, seed, len(vocabulary(folder)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the format is legacy
        model.save(folder / "model.h5", save_format="h5")
    return Built(str(folder / "model.h5"))


def kerashub_bert(folder: Path, seed: int) -> Built:
    import keras
    import keras_hub

    keras.utils.set_random_seed(seed)
    words = vocabulary(folder)
    classifier = keras_hub.models.BertTextClassifier(
        backbone=keras_hub.models.BertBackbone(
            vocabulary_size=len(words),
            num_layers=2,
            num_heads=2,
            hidden_dim=16,
            intermediate_dim=32,
            max_sequence_length=32,
        ),
        preprocessor=keras_hub.models.BertTextClassifierPreprocessor(
            keras_hub.models.BertTokenizer(vocabulary=words, lowercase=True), sequence_length=32
        ),
        num_classes=3,
    )
    for weight in classifier.trainable_weights:  # BERT's own initialiser is so small that all texts look alike
        if weight.path.endswith(("kernel", "embeddings")):
            weight.assign(weight * 10)
    classifier.save_to_preset(folder / "preset")
    return Built(
        f"kerashub:{folder / 'preset'}",
        plain=lambda texts: np.asarray(classifier(classifier.preprocessor(list(texts)), training=False)),
    )


def hub_standard(folder: Path, seed: int) -> Built:
    return _hub(folder, seed, "")


def hub_own_graph(folder: Path, seed: int) -> Built:
    return _hub(folder, seed, "scaled")


def hub_positional(folder: Path, seed: int) -> Built:
    return _hub(folder, seed, "folded")


def _hub(folder: Path, seed: int, odd: tiny_saved_models.Odd) -> Built:
    preprocess = tiny_saved_models.save_preprocess(folder / "preprocess")
    encoder = tiny_saved_models.save_encoder(folder / "encoder", seed, odd=odd)
    return Built(
        f"hub:{encoder}",
        {"preprocess": str(preprocess)},
        lambda texts: tiny_saved_models.call_plainly(preprocess, encoder, texts, 32)["pooled_output"],
        "pooled_output",
    )


def savedmodel(folder: Path, seed: int) -> Built:
    import tensorflow as tf
    import tf_keras

    path = tiny_saved_models.save_classifier(folder / "classifier", seed)
    return Built(
        f"savedmodel:{path}",
        plain=lambda texts: tf_keras.models.load_model(path, compile=False)(tf.constant(list(texts))).numpy(),
    )


def hf_bert(folder: Path, seed: int) -> Built:
    return _hf(folder, seed, None)


def hf_classifier(folder: Path, seed: int) -> Built:
    return _hf(folder, seed, 3)


def hf_openvino(folder: Path, seed: int) -> Built:
    return _hf(folder, seed, 3, engine="openvino")


def hf_bfloat16(folder: Path, seed: int) -> Built:
    return _hf(folder, seed, 3, engine="openvino", precision=Precision.BFLOAT16, tolerance=0.1)


def hf_int8(folder: Path, seed: int) -> Built:
    return _hf(folder, seed, 3, engine="openvino", precision=Precision.INT8, tolerance=0.1)


def _hf(
    folder: Path,
    seed: int,
    n_classes: int | None,
    *,
    engine: str = "tensorflow",
    precision: Precision = Precision.FLOAT32,
    tolerance: float = 1e-5,
) -> Built:
    words = vocabulary(folder)
    config = tiny_bert.CONFIG | {"vocab_size": len(words), "max_position_embeddings": 32}
    tensors = tiny_bert.make_tensors(config, seed, n_classes=n_classes)
    tiny_bert.write_folder(folder, tensors, config, words)
    return Built(
        f"hf:{folder}",
        _possible(folder, engine, precision),
        plain=lambda texts: tiny_bert.call_plainly(folder, tensors, config, texts),
        plain_tap="pooled_output" if n_classes is None else "logits",
        tolerance=tolerance,
    )


def hf_distilbert(folder: Path, seed: int) -> Built:
    return _family("distilbert", folder, seed, "tensorflow")


def hf_distilbert_openvino(folder: Path, seed: int) -> Built:
    return _family("distilbert", folder, seed, "openvino")


def _family(name: str, folder: Path, seed: int, engine: str) -> Built:
    """What transformers makes of them is in tests/golden/families.json."""
    TINY[name].write(folder, seed=seed, vocabulary=vocabulary(folder))
    return Built(f"hf:{folder}", _possible(folder, engine))


def _possible(folder: Path, engine: str, precision: Precision = Precision.FLOAT32) -> dict[str, Any]:
    """The options to load a folder with; skips where this machine cannot."""
    options = {"engine": engine, "precision": precision}
    try:
        load_model(f"hf:{folder}", **options)
    except (MissingExtraError, SettingsError) as error:  # not installed, or no instructions for that precision
        pytest.skip(str(error))
    return options


def _plain(keras: Any, model: Any) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """The model called as it is, save for its softmax; each text beside one of one token only, so that none pads it."""
    import tensorflow as tf

    model.layers[-1].activation = keras.activations.linear
    return lambda texts: np.stack([np.asarray(model(tf.constant([[text], ["a"]])))[0] for text in texts])


ENCODERS: dict[str, Callable[[Path, int], Built]] = {
    "fake": fake,
    "keras3 strings": keras3_strings,
    "keras3 bert": keras3_bert,
    "keras3 recurrent": keras3_recurrent,
    "keras2 strings": keras2_strings,
    "keras2 recurrent": keras2_recurrent,
    "keras2 bert h5": keras2_bert_h5,
    "kerashub": kerashub_bert,
    "hub": hub_standard,
    "hub own graph": hub_own_graph,
    "hub positional": hub_positional,
    "recurrent lstm": recurrent_lstm,
    "recurrent gru": recurrent_gru,
    "savedmodel": savedmodel,
    "hf bert": hf_bert,
    "hf classifier": hf_classifier,
    "hf on openvino": hf_openvino,
    "hf in bfloat16": hf_bfloat16,
    "hf in int8": hf_int8,
    "hf distilbert": hf_distilbert,
    "hf distilbert on openvino": hf_distilbert_openvino,
}
