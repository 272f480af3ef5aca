"""The tokenizer inside the graph gives the ids of the one outside."""

import numpy as np
import pytest

from embedsvc.models.wordpiece import load_tokenizer
from tests.models.tiny_bert import make_tensors, write_folder

pytestmark = pytest.mark.tensorflow

NASTY = [
    *("", " ", "the film was GOOD!", "cafés café", "日本 film", "[CLS] the [SEP] [MASK]", "wait…", "\ufdd0 a"),
    *("ﬁlm", "ｆｉｌｍ", "nul\0l", "soft\u00adhyphen", "a\u0301", "the\u3000film\u2028was", "a" * 100, "a" * 101),
]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    import tensorflow as tf

    from embedsvc.models.tokenizer_graph import GraphTokenizer

    tokenizer = load_tokenizer(write_folder(tmp_path_factory.mktemp("bert"), make_tensors()))
    graph = tf.function(GraphTokenizer(tokenizer).__call__, [tf.TensorSpec([None], tf.string)], autograph=False)
    return tokenizer, lambda texts: graph(tf.constant(texts)).to_list()


def test_nasty_texts_have_the_same_ids(both):
    tokenizer, graph = both
    assert graph(NASTY) == [ids.tolist() for ids in tokenizer.encode_batch(NASTY)]


def test_every_code_point_has_the_same_ids(both):
    tokenizer, graph = both
    points = [point for point in range(0x20000) if not 0xD800 <= point < 0xE000]
    texts = [f"a{chr(point)}film" for point in points]
    assert graph(texts) == [ids.tolist() for ids in tokenizer.encode_batch(texts)]


def test_random_mixtures_have_the_same_ids(both):
    tokenizer, graph = both
    rng = np.random.default_rng(0)
    pool = [" ", "a", "film", "[SEP]", "É", "ß", "…", "本", "\t", "!", "👍", "\u0301"]
    texts = ["".join(rng.choice(pool, 12)) for _ in range(500)]
    assert graph(texts) == [ids.tolist() for ids in tokenizer.encode_batch(texts)]
