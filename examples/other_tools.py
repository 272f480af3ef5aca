"""A set is Parquet: the same vectors in pandas, polars, DuckDB and NumPy."""

import sys
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl

from embedsvc import EmbeddingSet, ReadOptions, extract_files

model = sys.argv[1] if len(sys.argv) > 1 else "minilm-l6"
name = "pre_dropout.inference"
with tempfile.TemporaryDirectory() as folder:
    out = Path(folder) / "texts.parquet"
    extract_files(
        [str(Path(__file__).with_name("texts.csv"))], out, model=model, read_options=ReadOptions(id_column="id")
    )
    ours = EmbeddingSet.read(out)[name]
    vectors = {
        "pandas": np.stack(pd.read_parquet(out)[name].to_list()),
        "polars": pl.read_parquet(out)[name].to_numpy(),
        "duckdb": np.array(duckdb.sql(f"select \"{name}\" from '{out}'").fetchall(), dtype=np.float32)[:, 0],
    }
for tool, theirs in vectors.items():
    print(f"{tool}: {theirs.shape}, the same as ours: {np.array_equal(theirs, ours)}")
