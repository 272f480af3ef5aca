"""Variational recurrent dropout, used as Gal & Ghahramani (2016, arXiv:1512.05287) do; and its weights under others.

    python examples/variational_dropout.py [FOLDER]

Trains a bidirectional LSTM on the example texts with one mask a text for all steps, on input and recurrent connection.
Then runs the same weights twenty times over the texts under each policy, dropout live, and prints how far a pass lies
from the pass without dropout, how far their mean, and how often one pass predicts another class than most do (the
head's own dropout is live too).
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

import embedsvc
from embedsvc.training.settings import TrainingSettings

TEXTS = Path(__file__).with_name("texts.csv")
RATE, PASSES = 0.25, 20

# One line for each system of the field; `gal` is what the model was trained with.
POLICIES = {
    "none": "no dropout in the LSTM",
    f"gal={RATE}": "input and state, one mask for all steps (Gal & Ghahramani)",
    f"keras={RATE}": "the same with a mask for each gate (Keras)",
    f"wrapper={RATE}": "input, state and output, a mask for each step (DropoutWrapper)",
    f"input={RATE},variational": "input alone, one mask for all steps",
    f"recurrent={RATE},variational": "state alone, one mask for all steps",
    f"output={RATE},variational": "output alone, one mask for all steps",
    f"semeniuta={RATE}": "the candidate alone (Semeniuta et al.)",
}


def train(folder: Path, epochs: int = 12) -> Path:
    """A small classifier of tone."""
    settings = TrainingSettings(
        encoder=f"recurrent:lstm,units=32,embedding=32,bidirectional,gal={RATE}",
        dropout=RATE,
        epochs=epochs,
        patience=epochs,
        learning_rate=0.01,
        seed=1,
    )
    read = embedsvc.ReadOptions(text_column="text", label_column="label", id_column="id")
    embedsvc.train([str(TEXTS)], folder, settings=settings, read_options=read)
    return folder


def spread(model: Path, policy: str) -> tuple[float, float, float]:
    """Relative distance of a pass and of the mean of all, and share of passes that change the class."""
    encoder = embedsvc.load_model(f"recurrent:{model}#{policy}")
    lines = TEXTS.read_text(encoding="utf-8").splitlines()[1:61]
    texts = [embedsvc.Text(str(number), line) for number, line in enumerate(lines)]
    taps = ["pre_dropout", "logits"]
    still = embedsvc.forward(encoder, texts, taps=taps).vectors
    passes = [
        embedsvc.forward(encoder, texts, taps=taps, pass_=embedsvc.Pass(embedsvc.Mode.TRAINING, index, 7)).vectors
        for index in range(PASSES)
    ]
    pre = np.stack([each["pre_dropout"] for each in passes])
    votes = np.stack([each["logits"].argmax(1) for each in passes])
    most = np.array([np.bincount(column).argmax() for column in votes.T])
    size = np.linalg.norm(still["pre_dropout"], axis=1)
    one = np.linalg.norm(pre - still["pre_dropout"], axis=2) / size
    mean = np.linalg.norm(pre.mean(0) - still["pre_dropout"], axis=1) / size
    return float(one.mean()), float(mean.mean()), float((votes != most).mean())


def main(folder: Path, epochs: int = 12) -> None:
    """Train if there is no model yet, then print the table."""
    model = folder if (folder / "config.json").exists() else train(folder, epochs)
    print(f"{'policy':<28} {'a pass':>7} {'mean':>7} {'class':>7}")
    for policy, words in POLICIES.items():
        one, mean, flips = spread(model, policy)
        print(f"{policy:<28} {one:7.3f} {mean:7.3f} {flips:7.1%}   {words}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary) / "model")
