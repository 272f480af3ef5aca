"""Let a grid search choose tap, mode and passes for a classifier in scikit-learn."""

import csv
import sys
from pathlib import Path

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from embedsvc.sklearn import TextEmbedder

model = sys.argv[1] if len(sys.argv) > 1 else "minilm-l6"
with Path(__file__).with_name("texts.csv").open(encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))

pipeline = Pipeline([("embed", TextEmbedder(model, seed=7)), ("classify", LogisticRegression(max_iter=2_000))])
grid = [
    {"embed__tap": ["pre_dropout", "mean"]},
    {"embed__tap": ["post_dropout"], "embed__mode": ["head"], "embed__passes": [1, 16]},
]
search = GridSearchCV(pipeline, grid, cv=3)
search.fit([row["text"] for row in rows], [row["topic"] for row in rows])
results = zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True)
for parameters, score in sorted(results, key=lambda each: -each[1]):
    print(f"{score:.3f}  " + ", ".join(f"{name.removeprefix('embed__')}={value}" for name, value in parameters.items()))
