"""Tables and text on a terminal of eighty columns, and in a pipe."""

import re
import sys

import pytest
from click.testing import CliRunner

from embedsvc.cli import cli
from embedsvc.cli.tables import print_pairs, print_table, print_text

VARIANTS = ["pre_dropout.inference", "post_dropout.training.0", "post_dropout.head.0"]


@pytest.fixture
def terminal(monkeypatch, capsys):
    """What is printed on a terminal of so many columns, as lines."""

    def printed(columns, call, *arguments):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        call(*arguments)
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()

    return printed


def pairs_table():
    rows = [(f"{a} × {b}", "0.380", "0.296", "0.968 (0.902 … 1.000)") for a in VARIANTS for b in VARIANTS]
    return ("variants", "ARI", "AMI", "ARI by the mask alone"), rows


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_a_table_fits_and_breaks_no_word(terminal, columns):
    header, rows = pairs_table()
    lines = terminal(columns, print_table, header, rows)
    assert max(map(len, lines)) <= columns
    words = {word for line in lines for word in line.split()}
    assert words == {word for row in [header, *rows] for cell in row for word in cell.split()}


def test_a_long_path_breaks_at_its_slashes(terminal):
    path = "layer.*/attention/probabilities/dropout"
    lines = terminal(50, print_table, ("path", "seen by"), [(path, "the output under this site's mask alone")])
    assert [line[:22].strip() for line in lines[1:]] == ["layer.*/attention/", "probabilities/dropout"]


def test_a_name_without_an_end_is_broken_all_the_same(terminal):
    lines = terminal(40, print_table, ("name", "what"), [("x" * 60, "y" * 60)])
    assert max(map(len, lines)) <= 40
    assert sum(line.count("x") for line in lines) == sum(line.count("y") for line in lines) == 60


def test_pairs_wrap_under_themselves(terminal):
    lines = terminal(40, print_pairs, [("stored", ", ".join(VARIANTS)), ("texts", "361")])
    assert [line[:8] for line in lines] == ["stored  ", "        ", "        ", "texts   "]


def test_text_wraps_at_words_under_its_indent(terminal):
    lines = terminal(30, print_text, "A heading\n  Take pre_dropout.inference: it is the same at every run.")
    assert lines == ["A heading", "  Take pre_dropout.inference:", "  it is the same at every run."]


def test_in_a_pipe_a_row_is_a_line(capsys):
    header, rows = pairs_table()
    print_table(header, rows)
    print_text("word " * 60)
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 2


def test_help_says_every_first_sentence_to_its_end():
    shown = CliRunner().invoke(cli, ["--help"], terminal_width=80).output
    assert "..." not in shown.partition("Commands:")[2]
    assert max(map(len, shown.splitlines())) <= 80
