import pytest

from embedsvc.errors import SettingsError
from embedsvc.jobs import load_job

FILE = """
out = "here"
[extract]
sources = "a.txt,b.txt"
passes = 3
[cluster]
k = 5
"""


@pytest.fixture
def path(folder):
    (folder / "nightly.toml").write_text(FILE)
    return folder / "nightly.toml"


def test_what_is_not_said_is_as_on_the_command_line(path):
    job = load_job(path)
    extract, cluster = job.steps
    assert (job.name, job.out, job.engine) == ("nightly", "here", "local")
    assert extract.values["sources"] == ("a.txt", "b.txt")
    assert extract.values["modes"] == ("inference", "head")
    assert cluster.values["method"] == "kmeans"


def test_arguments_win_over_the_environment_that_over_the_file_that_over_defaults(path):
    environment = {"EMBEDSVC_JOB__EXTRACT__PASSES": "4", "EMBEDSVC_JOB__EXTRACT__MAX_TOKENS": "9", "PATH": "/bin"}
    values = load_job(path, environment=environment, settings=["extract.passes=5"]).steps[0].values
    assert (values["passes"], values["max-tokens"], values["token-budget"]) == (5, 9, 1024)
    assert load_job(path, environment=environment).steps[0].values["passes"] == 4
    assert load_job(path).steps[0].values["passes"] == 3


def test_keys_above_the_steps_follow_the_same_order(path):
    assert load_job(path, environment={"EMBEDSVC_JOB__OUT": "there"}).out == "there"
    assert load_job(path, environment={"EMBEDSVC_JOB__OUT": "there"}, settings=["out=third"]).out == "third"
    assert load_job(path, settings=["out=third"], arguments={"out": "last", "engine": None}).out == "last"


def test_sub_tables_are_steps_that_share_what_stands_above_them(path):
    path.write_text(
        '[extract]\nsources = ["t.txt"]\nseed = 3\n[extract.before]\nmodel = "fake:8"\n[extract.after]\nseed = 4\n'
        '[compare]\nset = "before"\nother-set = "after"\n'
    )
    before, after, compare = load_job(path, settings=["extract.before.passes=2"]).steps
    assert (before.name, before.values["model"], before.values["seed"], before.values["passes"]) == (
        *("extract.before", "fake:8", 3, 2),
    )
    assert (after.name, after.values["model"], after.values["seed"]) == ("extract.after", "minilm-l6-sentiment", 4)
    assert compare.values["other-set"] == "after"


def test_steps_run_in_one_order_however_the_file_has_them(path):
    path.write_text('[report]\n[cluster]\n[extract]\nsources = ["t.txt"]\n')
    assert [step.kind for step in load_job(path).steps] == ["extract", "cluster", "report"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[extract]\nsources = ["a"]\npases = 3', "there is no key 'pases'\nDid you mean 'passes'?"),
        ('[extract]\nsources = ["a"]\nid_column = "x"', "Did you mean 'id-column'?"),
        ('[extract]\nsources = ["a"]\n[clusters]\nk = 3', "there is no key 'clusters'\nDid you mean 'cluster'?"),
        ('[extract]\nsources = ["a"]\npasses = "3"', 'extract.passes is "3"\nExpected a whole number'),
        ('[extract]\nsources = ["a"]\npasses = true', "Expected a whole number"),
        ('[extract]\nsources = ["a"]\npasses = 0', "Expected 1 or more"),
        ('[extract]\nsources = ["a"]\non-long = "cut"', "Expected one of: truncate, fail, chunk-mean"),
        ('[extract]\nsources = ["a"]\n[cluster]\nk = "many"', "a whole number, or auto"),
        ('[extract]\nsources = ["a"]\n[compare]\nks = [0]', "Expected 1 or more"),
        ("[extract]\nseed = 3", "extract has no sources"),
        ("[cluster]\nk = 3", "has no extract step"),
        ("cluster = 3", "expected a table"),
        ('name = "a/b"\n[extract]\nsources = ["a"]', "Use letters, digits"),
        ('[extract]\nsources = ["a"]\n["extract"."../x"]\nseed = 1', "Use letters, digits"),
        ('[extract.a]\nsources = ["a"]\n[extract.b]\nsources = ["a"]\n[cluster]', "which set it works on"),
        ('[extract]\nsources = ["a"]\n[cluster]\nset = "b"', "The sets are: extract"),
        ("[extract", "is no TOML"),
        pytest.param("[extract]\nsources = " + "[" * 3000, "is no TOML", id="deep"),
        ("", "has no steps"),
    ],
)
def test_what_is_wrong_is_said_with_a_suggestion(path, text, words):
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_job(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("extract.pases=3", "--set extract.pases: there is no key 'pases'\nDid you mean 'passes'?"),
        ("extract.passes=many", 'is "many"\nExpected a whole number'),
        ("extract.passes", "there is no ="),
        pytest.param("extract.passes=" + "[" * 3000, "Expected a whole number", id="deep"),
        ("compare.ks=3", "has no step 'compare'"),
        ("extract.other.passes=3", "has no step 'extract.other'"),
        ("egnine=ray", "Did you mean 'engine'?"),
    ],
)
def test_settings_from_outside_are_checked_alike(path, setting, words):
    with pytest.raises(SettingsError) as caught:
        load_job(path, settings=[setting])
    assert words in str(caught.value)


def test_an_unknown_variable_of_ours_is_an_error(path):
    with pytest.raises(SettingsError, match="EMBEDSVC_JOB__EXTRACT__PASES"):
        load_job(path, environment={"EMBEDSVC_JOB__EXTRACT__PASES": "3"})


@pytest.mark.parametrize(
    ("text", "value"),
    [("a,b", ("a", "b")), ('["a", "b"]', ("a", "b")), ('"a"', ("a",)), ("a = b, c", ("a = b", "c"))],
)
def test_lists_may_be_written_as_on_the_command_line(path, text, value):
    assert load_job(path, settings=[f"extract.sources={text}"]).steps[0].values["sources"] == value


def test_a_file_that_is_not_there_is_named(folder):
    with pytest.raises(SettingsError, match=r"absent\.toml: No such file"):
        load_job(folder / "absent.toml")
