"""What Tab offers, as bash, zsh and fish are told."""

import pytest
from click.shell_completion import ShellComplete

from embedsvc import catalog, clusterers, metrics
from embedsvc.cli import cli


def offered(line: str) -> list[tuple[str, str]]:
    """Kind and value of each completion of the last word."""
    *before, last = line.split(" ")
    items = ShellComplete(cli, {}, "embedsvc", "_EMBEDSVC_COMPLETE").get_completions(before, last)
    return [(item.type, item.value) for item in items]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("comp", ["compare"]),
        ("extract --mod", ["--model", "--modes"]),
        ("extract --on-error ", ["fail", "skip"]),
        ("cluster --method ", sorted(clusterers.CLUSTERERS)),
        ("extract --model mini", sorted(catalog.MODELS)[-2:]),
        ("compare set --metrics cka,k", ["cka,knn_overlap"]),
        ("compare set --metrics ", sorted(metrics.METRICS)),
        ("report --also html,m", ["html,markdown"]),
    ],
)
def test_words_are_completed(line, values):
    assert offered(line) == [("plain", value) for value in values]


@pytest.mark.parametrize(
    "line", ["extract rev", "compare rev", "report set -o rep", "extract -m mod", "inspect mod", "run job"]
)
def test_paths_are_left_to_the_shell(line):
    assert offered(line) == [("file", line.rpartition(" ")[2])]
