"""What can befall a job: killed, disk full, read-only, inputs that go or grow, damaged parts. Nothing is lost."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from embedsvc import extract
from embedsvc.errors import InputError, StoreError
from embedsvc.jobs import engines, load_job, plan_job, run_job
from tests.jobs.conftest import lines, results
from tests.jobs.test_run import encoded, full_set, set_of, states

PROJECT = '[project]\nvariants = "pre_dropout.inference"\n'


def kills(how: str, place: Path) -> str:
    command = [sys.executable, "-m", "tests.jobs.kills", how, str(place)]
    here = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_killed_at_any_moment_ends_with_the_same_bytes(tmp_path):
    assert kills("moments", tmp_path / "place").strip() == "survived 50"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_killed_while_sets_change_places_ends_with_the_same_bytes(tmp_path):
    assert int(kills("changes", tmp_path / "place").split()[1]) > 10


@contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """A small file system of its own; skips where that is not allowed."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "embedsvc-test", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip(f"mounting needs root: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_said_and_costs_nothing_that_was_done(folder, job):
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    (folder / "texts/big.txt").write_text(lines(3, 3000))
    settings = ("extract.rows-per-part=200", "extract.model=fake:64")
    run_job(job(*settings))
    expected = results(folder / "out")
    with mounted(folder / "disk", "size=1m") as disk:
        command = [sys.executable, "-m", "embedsvc", "run", "job.toml", "-q", "-o", str(disk / "out")]
        for setting in settings:
            command += ["--set", setting]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 75, done.stderr
        assert "No space left" in done.stderr
        assert "Free some space and run the same command again" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        again = run_job(load_job("job.toml", settings=settings, arguments={"out": str(disk / "out")}))
        assert 0 < encoded(again)["extract"] < 3080, "finished parts were kept"
        assert results(disk / "out") == expected


def test_a_read_only_output_is_named(folder, job):
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    with mounted(folder / "disk", "ro,size=1m") as disk, pytest.raises(StoreError) as caught:
        run_job(load_job(job_file(job), arguments={"out": str(disk / "out")}))
    assert "cannot write" in caught.value.problem
    assert "The file system is read-only: choose another path." in caught.value.hint


def job_file(job) -> str:
    job()
    return "job.toml"


def test_a_file_stands_where_the_folder_should_be(folder, job):
    (folder / "out").write_text("mine")
    with pytest.raises(StoreError, match="cannot write out"):
        run_job(job())
    assert (folder / "out").read_text() == "mine"


def test_foreign_files_in_the_folder_stay(folder, job):
    (folder / "out").mkdir()
    (folder / "out/notes.txt").write_text("mine")
    run_job(job())
    assert (folder / "out/notes.txt").read_text() == "mine"


def test_a_vanished_input_is_named_and_all_is_well_when_it_is_back(folder, job):
    def vanish(event):
        if event["event"] == "model-loaded":
            (folder / "texts/b.txt").rename(folder / "b.txt")

    with pytest.raises(InputError, match=r"texts/b\.txt"):
        run_job(job(), listener=vanish)
    (folder / "b.txt").rename(folder / "texts/b.txt")
    done = run_job(job())
    assert encoded(done)["extract"] < 80, "parts written before it vanished are kept"
    assert set_of(folder / "out") == full_set(folder)


def test_a_file_that_grows_while_it_is_read_is_named_and_then_taken_whole(folder, job, monkeypatch):
    def growing(*args, **kwargs):
        blocks = extract(*args, **kwargs)
        yield from islice(blocks, 1)
        with (folder / "texts/b.txt").open("a") as file:
            file.write("one more\n")
        yield from blocks

    with monkeypatch.context() as patched:
        patched.setattr(engines, "extract", growing)
        with pytest.raises(InputError, match=r"texts/b\.txt: the file changed while it was being used"):
            run_job(job())
    done = run_job(job())
    assert encoded(done)["extract"] < 81, "rows of the stopped run were taken over"
    assert set_of(folder / "out") == full_set(folder)
    assert len(set_of(folder / "out")) == 6


def damage(path: Path) -> None:
    """One bit of a vector, where no footer tells."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def log_of(done) -> list[dict]:
    return [json.loads(line) for line in done.log_path.read_text().splitlines()]


def test_a_damaged_part_is_found_before_it_is_read_named_and_made_again(folder, job):
    run_job(job(steps=PROJECT))
    before = results(folder / "out")
    damage(folder / "out/extract/part-00001.parquet")
    plan = plan_job(job("project.seed=3", steps=PROJECT))
    assert not plan.steps[0].done
    assert "part-00001.parquet" in plan.steps[0].why
    done = run_job(job("project.seed=3", steps=PROJECT))
    assert encoded(done) == {"extract": 20}, "that part and no other"
    named = [event["part"] for event in log_of(done) if event["event"] == "damaged-part"]
    assert [Path(name).name for name in named] == ["part-00001.parquet"]
    run_job(job(steps=PROJECT))
    assert results(folder / "out") == before


def test_verify_finds_damage_though_nothing_is_to_be_done(folder, job):
    run_job(job(steps=PROJECT))
    before = results(folder / "out")
    damage(folder / "out/extract/part-00002.parquet")
    assert states(run_job(job(steps=PROJECT)))["extract"] == "kept", "a look at footers does not find it"
    assert encoded(run_job(job(steps=PROJECT), verify=True)) == {"extract": 20}
    assert results(folder / "out") == before


@pytest.mark.parametrize("how", ["gone", "short"])
def test_a_part_that_is_gone_or_short_is_made_again(folder, job, how):
    run_job(job())
    before = results(folder / "out")
    path = folder / "out/extract/part-00001.parquet"
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:-50])
    assert encoded(run_job(job())) == {"extract": 20}
    assert results(folder / "out") == before


def test_a_part_damaged_in_an_unfinished_set_is_named_and_made_again(folder, job, monkeypatch):
    def three_blocks(*args, **kwargs):
        yield from islice(extract(*args, **kwargs), 3)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(engines, "extract", three_blocks)
        with pytest.raises(KeyboardInterrupt):
            run_job(job())
    damage(folder / "out/.extract.next/part-00001.parquet")
    done = run_job(job())
    assert encoded(done) == {"extract": 40}
    assert [event["part"] for event in log_of(done) if event["event"] == "damaged-part"] == ["part-00001.parquet"]
    assert set_of(folder / "out") == full_set(folder)
