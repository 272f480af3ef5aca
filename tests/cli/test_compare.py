"""``embedsvc compare`` and ``embedsvc neighbors``, as a user types them."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from click import UsageError
from click.testing import CliRunner

from embedsvc import ReadOptions, Settings, extract_files
from embedsvc.cli import cli
from embedsvc.comparison import DEFAULT_METRICS
from embedsvc.errors import SettingsError
from embedsvc.types import Mode

FAST = ("--permutations", "20", "--bootstrap", "20", "-k", "5")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(2)
    lines = [" ".join(f"w{w}" for w in rng.zipf(1.3, rng.integers(4, 14)) % 500) for _ in range(80)]
    (folder / "texts.csv").write_text("id,text\n" + "".join(f"t{i},{line}\n" for i, line in enumerate(lines)))
    for name, model in (("set", "fake:24"), ("other", "fake:16")):
        settings = Settings(modes=tuple(Mode), passes=1, seed=5)
        reading = ReadOptions(id_column="id")
        extract_files([str(folder / "texts.csv")], folder / name, model=model, settings=settings, read_options=reading)
    return folder


def run(*arguments):
    return CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False, standalone_mode=False).stdout


def test_it_prints_a_table_for_each_pair(made):
    printed = run("compare", made / "set", *FAST)
    assert "post_dropout.inference is pre_dropout.inference, bit for bit." in printed
    assert (
        "pre_dropout.inference  ×  post_dropout.head.0\ndropout alone: one head mask on pre_dropout.inference"
        in printed
    )
    assert "All pairs by knn_overlap_5; every measure of each is below.\n" in printed
    assert printed.count("pre_dropout.inference × post_dropout.head.0 ") == 1, "the overview"
    assert printed.count("knn_overlap_5") == 6 + 1
    assert "Left out: logits.inference" in printed
    assert "Seed 0: 20 permutations, 20 bootstraps, 4 head masks." in printed
    for word in ("observed", "95 % interval", "dropout alone", "chance, 95 %", "by closed form (CKA, cosine)"):
        assert word in printed


def test_json_is_what_the_function_gives(made):
    from embedsvc import EmbeddingSet, compare

    told = json.loads(run("compare", made / "set", *FAST, "--json", "--seed", "9"))
    same = compare(EmbeddingSet.read(made / "set"), ks=[5], n_permutations=20, n_bootstrap=20, seed=9)
    assert told == same.to_json()


def test_scores_go_to_a_parquet_file(made):
    pick = "pre_dropout.inference,post_dropout.training.0"
    run("compare", made / "set", *FAST, "--variants", pick, "--scores", made / "scores.parquet")
    table = pq.read_table(made / "scores.parquet")
    assert table.column_names == [
        "id",
        *(
            f"{name}({pick})"
            for name in (
                *("cosine", "cosine_expected"),
                *("knn_overlap_5", "knn_overlap_5_expected", "knn_excess_change_5", "second_order_cosine"),
            )
        ),
    ]
    assert table["id"].to_pylist() == [f"t{i}" for i in range(80)]
    facts = json.loads(table.schema.metadata[b"embedsvc.scores"])
    assert (facts["n"], facts["seed"]) == (80, 0)
    overlap = table[f"knn_overlap_5({pick})"].to_numpy()
    excess = table[f"knn_overlap_5_expected({pick})"].to_numpy() - overlap
    assert np.allclose(table[f"knn_excess_change_5({pick})"].to_numpy(), excess)


def test_two_sets_are_compared(made):
    printed = run("compare", made / "set", made / "other", *FAST)
    assert "this:pre_dropout.inference  ×  other:pre_dropout.inference\ndropout alone: no theory applies" in printed
    assert "no cosine: this:pre_dropout.inference is 24 wide, other:pre_dropout.inference 16" in printed
    assert "more variants of the two sets" in printed


def test_the_default_metrics_are_those_of_the_function():
    from embedsvc.cli import compare

    assert tuple(compare._DEFAULT.split(",")) == DEFAULT_METRICS


def test_it_tells_each_pair_on_stderr_unless_it_shall_be_quiet(made):
    names = "pre_dropout.inference,post_dropout.training.0,post_dropout.head.0"
    command = ["compare", str(made / "set"), *FAST, "--measures", "cka", "--variants", names]
    told = CliRunner().invoke(cli, command)
    numbers, pairs = zip(*(line.split(": ") for line in told.stderr.splitlines()), strict=True)
    assert sorted(numbers) == ["Pair 1 of 3", "Pair 2 of 3", "Pair 3 of 3"]
    assert set(pairs) == {
        "pre_dropout.inference × post_dropout.training.0 …",
        "pre_dropout.inference × post_dropout.head.0 …",
        "post_dropout.training.0 × post_dropout.head.0 …",
    }
    quiet = CliRunner().invoke(cli, [*command, "-q"])
    assert (quiet.stdout, quiet.stderr) == (told.stdout, "")


def test_a_k_that_is_no_number_is_refused(made):
    with pytest.raises(SettingsError, match="--ks is '5,x'"):
        run("compare", made / "set", "-k", "5,x")


def test_neighbors_are_shown_side_by_side(made):
    printed = run("neighbors", made / "set", "--id", "t3", "-k", "4")
    lines = printed.splitlines()
    assert lines[0].startswith("t3: w")
    assert lines[2].split() == [
        *("pre_dropout.inference", "pre_dropout.training.0", "post_dropout.training.0", "post_dropout.head.0"),
    ]
    assert [line.split()[0] for line in lines[3:7]] == ["1", "2", "3", "4"]
    assert "80 texts; exact cosine neighbours" in printed
    gained, lost = printed.count("+ 0."), printed.count("- 0.")
    assert gained == lost > 0


def test_neighbors_of_a_new_text(made):
    told = json.loads(
        run("neighbors", made / "set", "w1 w2 w3", "-k", "2", "--json", "--variants", "pre_dropout.inference")
    )
    assert told["query"] == {"id": "query", "text": "w1 w2 w3", "label": None}
    assert len(told["variants"]["pre_dropout.inference"]["hits"]) == 2
    alone = run("neighbors", made / "set", "w1 w2 w3", "-k", "2", "--variants", "pre_dropout.inference")
    assert "Nothing gained, nothing lost." in alone
    few = ("-k", "2", "--variants", "pre_dropout.inference")
    assert run("neighbors", made / "set", "--text", "w1 w2 w3", *few) == alone
    with pytest.raises(UsageError, match="the text is given twice"):
        run("neighbors", made / "set", "w1", "--text", "w1 w2 w3", *few)


@pytest.mark.parametrize("arguments", [("compare", "set", *FAST), ("neighbors", "set", "--id", "t3")])
def test_no_model_library_is_loaded(made, arguments):
    code = """
import sys
from embedsvc.cli import main
try:
    main()
except SystemExit as exit:
    assert exit.code in (0, None), exit.code
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=made, capture_output=True, encoding="utf-8", check=True
    )
    loaded = set(done.stderr.split())
    assert "click" in loaded, "the list is that of the command"
    # pyarrow's to_numpy imports pandas where it is installed, which only our tests ask for.
    assert not loaded & {"tensorflow", "keras", "tf_keras", "umap", "numba", "pynndescent", "bokeh", "matplotlib"}
