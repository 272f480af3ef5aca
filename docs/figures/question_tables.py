"""The tables in docs/questions, made by running what they speak of.

    python docs/figures/question_tables.py

TensorFlow's wrappers run in a process of their own (tests/models/recurrent/wrapper_oracle.py): they need Keras 2.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "questions"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"

_HEADER = (
    "| system | drops | same mask at every step | same for every text of a batch | drawn anew in each call |\n"
    "| --- | --- | --- | --- | --- |\n"
)
_DROPS = {"input": "x_t", "h": "h_t on its way to the next step", "c": "c_t on its way to the next step"}
_KEPT = {"input_keep_prob": ["input"], "state_keep_prob": ["c", "h"], "output_keep_prob": ["input", "c", "h"]}


def main() -> None:
    """Write the tables into their pages."""
    write("cross-entropy", runpy.run_path(str(ROOT / "examples" / "cross_entropy.py"))["table"]())
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, str(ROOT / "tests" / "models" / "recurrent" / "wrapper_oracle.py"), folder],
            env=os.environ | {"TF_USE_LEGACY_KERAS": "1"},
            check=True,
        )
        probes = json.loads((Path(folder) / "probes.json").read_text(encoding="utf-8"))
    write("recurrent-dropout", table(probes))


def shown(page: str) -> str:
    """The table that a page has."""
    return (PAGES / f"{page}.md").read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def write(page: str, table: str) -> None:
    """Put a table in its place."""
    path = PAGES / f"{page}.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    path.write_text(f"{before}{BEGIN}{table}{END}{rest.partition(END)[2]}", encoding="utf-8")


def table(probes: dict[str, dict[str, dict[str, object]]]) -> str:
    """The table, from what the wrappers showed and what Keras and embedsvc show now."""
    rows = [
        row for library, name in (("keras", "Keras 3"), ("tf_keras", "Keras 2")) for row in keras_rows(library, name)
    ]
    rows += [row for name, seen in probes.items() if (row := wrapper_row(name, seen))]
    return _HEADER + "".join(f"| {' | '.join(row)} |\n" for row in [*rows, *own_rows()])


def keras_rows(library: str, name: str) -> list[tuple[str, ...]]:
    """SimpleRNN, GRU and LSTM with each of their two dropouts alone."""
    import numpy as np
    import tensorflow as tf

    from embedsvc.models.observation import Mode, observe
    from embedsvc.models.watched_cells import run_watched

    keras = import_module(library)
    x = tf.constant(np.random.default_rng(0).standard_normal((1, 6, 64)), tf.float32)
    rows = []
    for kind in ("SimpleRNN", "GRU", "LSTM"):
        for argument in ("dropout", "recurrent_dropout"):
            layer = getattr(keras.layers, kind)(64, **{argument: 0.5})
            layer(x)

            def run(mode: Mode, _: int, layer=layer, argument=argument) -> dict[str, object]:
                _, seen = run_watched(layer, lambda: layer(x, training=mode is Mode.TRAINING), x)
                return {argument: seen[0][argument]}

            [seen] = observe(run)
            pair = np.asarray(layer(tf.tile(x, [2, 1, 1]), training=True))
            again = [np.asarray(layer(x, training=True)) for _ in range(2)]
            gates = f", one for each of {seen.gates} gates" if seen.gates > 1 else ""
            rows.append(
                (
                    f"{name} `{kind}({argument}=)`",
                    "x_t" if argument == "dropout" else "h_{t−1} where it meets the weights",
                    yes(seen.shared) + gates,
                    yes(np.array_equal(pair[0], pair[1])),
                    yes(not np.array_equal(*again)),
                )
            )
    return rows


def wrapper_row(name: str, seen: dict[str, dict[str, object]]) -> tuple[str, ...] | None:
    """One keep probability of one of TensorFlow's wrappers."""
    wrapper, keep, *variational = name.split()
    hit = [part for part in _KEPT[keep] if seen[part]["dropped"]]
    assert hit, name
    drops = "h_t on its way out" if keep == "output_keep_prob" else " and ".join(_DROPS[part] for part in hit)
    inner = "LSTMCell" if wrapper == "DropoutWrapper" else "a Keras cell"
    extra = ", variational_recurrent=True" if variational else ""
    answers = [
        yes(all(seen[part][question] for part in hit)) for question in ("same_at_every_step", "same_for_every_row")
    ]
    anew = yes(not all(seen[part]["same_in_every_run"] for part in hit))
    note = "" if anew == "yes" else ": once, when the wrapper is made"
    return (f"TF `{wrapper}({inner}, {keep}={extra})`", drops, *answers, anew + note)


def own_rows() -> list[tuple[str, ...]]:
    """Every kind of embedsvc's, each alone."""
    from embedsvc import masks
    from embedsvc.models.recurrent.config import parse_config
    from embedsvc.models.recurrent.drawing import draw_masks
    from embedsvc.types import Mode, Pass

    names = {
        "input": "x_t",
        "recurrent": "h_{t−1} where it meets the weights",
        "state": "h_t and c_t on their way to the next step",
        "output": "h_t on its way out",
        "update": "the candidate g_t",
    }
    rows = []
    for kind, drops in names.items():
        for variational in ("", ",variational"):
            config = parse_config(f"lstm,units=64,embedding=64,{kind}=0.5{variational}", 10)
            one, two = (
                draw_masks(config, [6, 6], masks.row_keys(["a", "b"]), Pass(Mode.TRAINING, index, 0))[0]
                for index in range(2)
            )
            arguments = f"{kind}={', variational=True' if variational else ''}"
            rows.append(
                (
                    f"embedsvc `RecurrentDropout({arguments})`",
                    drops,
                    yes(bool((one == one[:, :1]).all())),
                    yes(bool((one[0] == one[1]).all())),
                    yes(bool((one != two).any())) + ", by pass and text",
                )
            )
    return rows


def yes(answer: object) -> str:
    """A cell."""
    return "-" if answer is None else "yes" if answer else "no"


if __name__ == "__main__":
    main()
