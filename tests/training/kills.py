"""Kills trainings of a tiny BERT, finishes each in another process, and says whether the weights are the same bytes.

Run as ``python -m tests.training.kills FOLDER KILLS``. TensorFlow is imported once, here, and starts its threads in the
forks only: each process to be killed is a fork of this one.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

import keras  # noqa: F401 - imported here so that forks need not
import sklearn.metrics  # noqa: F401
import tensorflow_text  # noqa: F401

from embedsvc import ReadOptions
from embedsvc.models import bert_network, learner  # noqa: F401
from embedsvc.training import TrainingSettings, Watch, train
from tests.models.tiny_bert import make_tensors, write_folder
from tests.training.reviews import write_reviews

EPOCHS = 3
STEPS = 3 * 11


def settings(folder: Path) -> TrainingSettings:
    return TrainingSettings(
        encoder=str(folder / "encoder"), epochs=EPOCHS, batch_size=4, learning_rate=3e-3, seed=5, checkpoint_seconds=0.0
    )


def run(folder: Path, out: Path, die_at_step: int | None = None, die_at_change: int | None = None) -> int:
    """Exit code of a fork that trains; it kills itself after a step, or right before its n-th change to the disk."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        changes = 0

        def dying(real):
            def call(*args, **kwargs):
                nonlocal changes
                changes += 1
                if changes == die_at_change:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            return call

        for name in ("fsync", "replace"):
            setattr(os, name, dying(getattr(os, name)))

        def progress(status):
            if status.step == die_at_step:
                os.kill(os.getpid(), signal.SIGKILL)

        columns = ReadOptions(label_column="stars")
        train(
            [str(folder / "reviews.csv")],
            out,
            settings=settings(folder),
            read_options=columns,
            watch=Watch(progress=progress),
        )
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def weights(out: Path) -> tuple[bytes, object]:
    record = json.loads((out / "training.json").read_text())
    return (out / "model.safetensors").read_bytes(), (record["history"], record["scores"])


def main(folder: Path, kills: int) -> None:
    """Print how many kills were survived."""
    write_folder(folder / "encoder", make_tensors(pooler=True))
    write_reviews(folder / "reviews.csv", 60)
    assert run(folder, folder / "unbroken") == 0
    expected = weights(folder / "unbroken")
    rng = random.Random(20261124)
    survived = 0
    while survived < kills:
        out = folder / f"killed-{survived}"
        # Within the first epoch, at its end, and somewhere in between, by step and by change to the disk.
        codes = [run(folder, out, die_at_step=rng.randint(1, STEPS // 3))]
        codes.append(run(folder, out, die_at_change=rng.randint(1, 80)))
        codes.append(run(folder, out))
        assert codes[0] == -signal.SIGKILL, codes
        assert codes[-1] == 0, codes
        assert weights(out) == expected, f"other weights after {codes}"
        survived += sum(code == -signal.SIGKILL for code in codes)
    print(f"survived {survived}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
