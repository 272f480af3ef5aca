"""The question in twenty lines: how much of a text's vector and of its neighbours survives one pass of dropout?"""

import sys
import tempfile
from pathlib import Path

from embedsvc import EmbeddingSet, Mode, ReadOptions, Settings, compare, extract_files

model = sys.argv[1] if len(sys.argv) > 1 else "minilm-l6"
texts = Path(__file__).with_name("texts.csv")
settings = Settings(modes=(Mode.INFERENCE, Mode.TRAINING, Mode.HEAD), passes=2, seed=7)

with tempfile.TemporaryDirectory() as folder:
    out = Path(folder) / "texts.parquet"
    extract_files([str(texts)], out, model=model, settings=settings, read_options=ReadOptions(id_column="id"))
    found = compare(EmbeddingSet.read(out), measures=["cosine", "knn_overlap"], ks=[10])

for name in ("post_dropout.head.0", "post_dropout.training.0"):
    pair = found.pair("pre_dropout.inference", name)
    cosine, kept = pair.figures["cosine"], pair.figures["knn_overlap_10"]
    print(
        f"{name}: cosine {cosine.observed:.3f}, neighbours kept {kept.observed:.0%} "
        f"(mask alone {kept.expected:.0%}, chance {kept.null.mean:.1%})"
    )
