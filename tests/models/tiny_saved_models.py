"""Tiny SavedModels as TF Hub has them: a preprocessing model, BERT encoders plain and odd, and whole classifiers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

WORDS = ("the", "a", "film", "was", "good", "bad", "very", "plot", "actor", "und", "日", "本", "?", "!", ".", "##s")
WIDTH, HEADS, POSITIONS, PADDED = 32, 4, 32, 24

Odd = Literal["", "scaled", "folded", "no dropout"]


def save_preprocess(folder: Path) -> Path:
    """With ``tokenize`` and ``bert_pack_inputs``; called on texts it pads to 24."""
    import tensorflow as tf
    import tensorflow_text as text

    folder.parent.mkdir(parents=True, exist_ok=True)
    vocab = folder.parent / f"{folder.name}-vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]) + "\n", encoding="utf-8")
    ragged = tf.RaggedTensorSpec([None, None, None], tf.int32, ragged_rank=2)

    class Preprocess(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokenizer = text.BertTokenizer(str(vocab), lower_case=True, token_out_type=tf.int32)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def tokenize(self, texts: Any) -> Any:
            return self.tokenizer.tokenize(texts)

        @tf.function(input_signature=[[ragged], tf.TensorSpec([], tf.int32)])
        def bert_pack_inputs(self, inputs: Any, seq_length: Any) -> Any:
            pieces = inputs[0].merge_dims(1, 2)[:, : seq_length - 2]
            n = pieces.nrows()
            ids = tf.concat([tf.fill([n, 1], 2), pieces, tf.fill([n, 1], 3)], 1)
            ids, mask = text.pad_model_inputs(ids, seq_length)
            return {"input_word_ids": ids, "input_mask": mask, "input_type_ids": tf.zeros_like(ids)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts: Any) -> Any:
            packed = self.bert_pack_inputs([self.tokenize(texts)], tf.constant(PADDED))
            return {name: tf.ensure_shape(value, [None, PADDED]) for name, value in packed.items()}

    tf.saved_model.save(Preprocess(), str(folder))
    return folder


def save_encoder(folder: Path, seed: int, *, odd: Odd = "", activation: str = "gelu", rate: float = 0.1) -> Path:
    """A BERT of two layers with the variable names of Google's exporter.

    `odd` makes it no standard BERT: "scaled" has a variable more, "folded" drops over (batch x tokens, width).
    """
    import tensorflow as tf
    import tf_keras as keras

    layers = keras.layers
    rate = 0.0 if odd == "no dropout" else rate

    class Position(layers.Layer):
        def build(self, _: Any) -> None:
            self.table = self.add_weight(name="embeddings", shape=(POSITIONS, WIDTH))

        def call(self, x: Any) -> Any:
            return x + self.table[: tf.shape(x)[1]]

    class Block(layers.Layer):
        def __init__(self, name: str) -> None:
            super().__init__(name=name)
            self.attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, dropout=rate, name="self_attention")
            self.norms = [
                layers.LayerNormalization(epsilon=1e-12, name=f"{which}_layer_norm")
                for which in ("self_attention", "output")
            ]
            act = {"gelu_tanh": lambda x: tf.nn.gelu(x, approximate=True)}.get(activation, activation)
            self.inner = layers.Dense(48, activation=act, name="intermediate")
            self.outer = layers.Dense(WIDTH, name="output")
            self.dropouts = [layers.Dropout(rate), layers.Dropout(rate)]

        def call(self, inputs: Any, training: bool | None = None) -> Any:
            x, mask = inputs
            attended = self.attention(x, x, attention_mask=mask[:, None, :], training=training)
            x = self.norms[0](x + self.dropouts[0](attended, training=training))
            return self.norms[1](x + self.dropouts[1](self.outer(self.inner(x)), training=training))

    class Odd(layers.Layer):
        def build(self, _: Any) -> None:
            self.dropout = layers.Dropout(0.3)
            if odd == "scaled":
                self.scale = self.add_weight(name="scale", shape=(WIDTH,), initializer="ones")

        def call(self, x: Any, training: bool | None = None) -> Any:
            if odd == "scaled":
                return x * self.scale
            return tf.reshape(self.dropout(tf.reshape(x, [-1, WIDTH]), training=training), tf.shape(x))

    names = ("input_word_ids", "input_mask", "input_type_ids")
    inputs = {name: keras.Input((None,), dtype=tf.int32, name=name) for name in names}
    x = layers.Embedding(4 + len(WORDS), WIDTH, name="word_embeddings")(inputs["input_word_ids"])
    x = Position(name="position_embedding")(x)
    x = x + layers.Embedding(2, WIDTH, name="type_embeddings")(inputs["input_type_ids"])
    x = layers.LayerNormalization(epsilon=1e-12, name="embeddings/layer_norm")(x)
    if odd in {"scaled", "folded"}:
        x = Odd()(x)
    x = layers.Dropout(rate)(x)
    outputs = []
    for number in range(2):
        x = Block(f"transformer/layer_{number}")((x, inputs["input_mask"]))
        outputs.append(x)
    pooled = layers.Dense(WIDTH, activation="tanh", name="pooler_transform")(x[:, 0])
    model = keras.Model(
        inputs, {"pooled_output": pooled, "sequence_output": x, "encoder_outputs": outputs, "default": pooled}
    )
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(variable + rng.normal(0, 0.1, variable.shape))
    # Not model.save: it traces every layer four times over, and takes ten times as long.
    call = tf.function(lambda inputs, training=False: model(inputs, training=training), autograph=False)
    specs = {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in names}
    root = tf.train.Checkpoint()
    root.variables, root.trainable_variables, root.__call__ = model.weights, model.trainable_weights, call
    for training in (False, True):
        call.get_concrete_function(specs, training=training)
    # Signatures cannot hold the list of layers.
    flat = tf.function(lambda inputs: {name: call(inputs)[name] for name in ("pooled_output", "sequence_output")})
    tf.saved_model.save(root, str(folder), {"serving_default": flat.get_concrete_function(specs)})
    return folder


def save_classifier(folder: Path, seed: int, *, trainable: bool = True, odd: Odd = "") -> Path:
    """Text → preprocess → encoder → Dropout(.2) → Dense(3), as TensorFlow's BERT tutorial builds it."""
    import tensorflow as tf
    import tensorflow_hub as hub
    import tf_keras as keras

    preprocess = save_preprocess(folder.parent / "preprocess")
    encoder = save_encoder(folder.parent / "encoder", seed, odd=odd)
    texts = keras.Input((), dtype=tf.string, name="text")
    packed = hub.KerasLayer(str(preprocess), name="preprocessing")(texts)
    outputs = hub.KerasLayer(str(encoder), trainable=trainable, name="BERT_encoder")(packed)
    x = keras.layers.Dropout(0.2, name="head_dropout")(outputs["pooled_output"])
    keras.utils.set_random_seed(seed)
    x = keras.layers.Dense(3, name="classifier")(x)
    keras.Model(texts, x).save(str(folder), save_format="tf", include_optimizer=False)
    return folder


def call_plainly(preprocess: Path, encoder: Path, texts: Sequence[str], length: int) -> dict[str, NDArray[np.float32]]:
    """The two models one after the other, everything padded to one length, as the tutorials do."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401

    pre = tf.saved_model.load(str(preprocess))
    packed = pre.bert_pack_inputs([pre.tokenize(tf.constant(list(texts)))], seq_length=tf.constant(length))
    out = tf.saved_model.load(str(encoder))(packed, training=False)
    mask = packed["input_mask"].numpy()[:, :, None].astype(np.float32)
    layers = {f"layer.{k}": layer.numpy() for k, layer in enumerate(out["encoder_outputs"])}
    layers["mean"] = out["sequence_output"].numpy()
    means = {tap: (layer * mask).sum(1) / mask.sum(1) for tap, layer in layers.items()}
    return means | {"pooled_output": out["pooled_output"].numpy(), "cls": out["sequence_output"].numpy()[:, 0]}
