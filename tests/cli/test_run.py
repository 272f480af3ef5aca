"""``embedsvc run`` and ``embedsvc jobs`` as a user types them."""

import json
import os
import subprocess
import sys

import pytest

JOB = '[extract]\nsources = ["t.txt"]\nmodel = "fake:"\n[project]\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "t.txt").write_text("".join(f"text number {number} of many\n" for number in range(30)))
    (tmp_path / "small.toml").write_text(JOB)
    return tmp_path


def run(*arguments, cwd, **environment):
    command = [sys.executable, "-m", "embedsvc", *map(str, arguments)]
    env = os.environ | {"EMBEDSVC_STATE": str(cwd / "state"), "PYTHONPATH": os.pathsep.join(sys.path)} | environment
    return subprocess.run(command, check=False, cwd=cwd, capture_output=True, timeout=120, text=True, env=env)


def test_a_job_is_planned_run_listed_and_then_done(folder):
    plan = run("run", "small.toml", "--dry-run", cwd=folder)
    assert plan.returncode == 0, plan.stderr
    assert "to do" in plan.stdout
    assert "t.txt" in plan.stdout
    assert not (folder / "small").exists()

    done = run("run", "small.toml", "--log-format", "json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "extract  done" in done.stdout
    assert json.loads(done.stderr.splitlines()[-1])["state"] == "done"

    again = run("run", "small.toml", "--json", "-q", cwd=folder)
    facts = json.loads(again.stdout)
    assert (again.stderr, [step["state"] for step in facts["steps"]]) == ("", ["kept", "kept"])

    for arguments in ([], ["small"]):
        listed = run("jobs", *arguments, "--json", cwd=folder)
        assert [(each["job"], each["state"]) for each in json.loads(listed.stdout)] == [("small", "done")] * 2
    assert "small" in run("jobs", cwd=folder).stdout


def test_the_environment_and_arguments_reach_the_job(folder):
    plan = run("run", "small.toml", "--dry-run", "--json", "-q", cwd=folder, EMBEDSVC_JOB__EXTRACT__SEED="5")
    assert json.loads(plan.stdout)["steps"][0]["settings"]["seed"] == 5
    plan = run("run", "small.toml", "--set", "extract.seed=6", "-o", "x", "--dry-run", "--json", "-q", cwd=folder)
    assert json.loads(plan.stdout)["steps"][0]["settings"]["seed"] == 6
    assert json.loads(plan.stdout)["out"] == "x"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["small.toml", "--set", "extract.sources=absent.txt"], 1, "absent.txt: no such file"),
        (["small.toml", "--set", "extract.pases=3"], 2, "Did you mean 'passes'?"),
        (["absent.toml"], 2, "cannot read the job file absent.toml"),
        (["small.toml", "--engnie", "ray"], 2, "No such option"),
        (["small.toml", "--engine", "rya"], 1, "Did you mean 'ray'?"),
    ],
)
def test_what_is_wrong_is_said_once_and_the_exit_code_tells_how(folder, arguments, code, words):
    done = run("run", "-q", *arguments, cwd=folder)
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_a_locked_folder_may_be_free_later(folder):
    (folder / "small").mkdir()
    code = (
        "import filelock, sys; lock = filelock.FileLock('small/.lock'); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        done = run("run", "small.toml", "-q", cwd=folder)
        other.stdin.close()
    assert done.returncode == 75
    assert "another run works in small" in done.stderr


def test_jobs_of_a_folder_that_is_not_there(folder):
    assert "no such folder" in run("jobs", "absent", cwd=folder).stderr
    assert "No job has run yet" in run("jobs", cwd=folder).stdout
