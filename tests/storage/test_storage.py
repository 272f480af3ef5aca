"""Places on a disk and in an object store, and locks on them."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from embedsvc.errors import LockedError, MissingExtraError, SettingsError, StorageError, UnreachableError
from embedsvc.processes import Process
from embedsvc.storage import ObjectPath, atomic_file, entries, locked, locks, objects, place, size_of
from tests.objects import needs_s3


def test_an_address_of_no_known_form_is_refused():
    with pytest.raises(SettingsError, match="the scheme 'ftp' is not known"):
        place("ftp://host/texts.csv")
    with pytest.raises(SettingsError, match="names no bucket"):
        place("s3:///texts.csv")


def test_a_missing_package_is_named_by_its_extra(monkeypatch):
    monkeypatch.setattr(objects, "find_spec", lambda name: None)
    objects._need.cache_clear()
    with pytest.raises(MissingExtraError, match=r'pip install "embedsvc\[gs\]"'):
        place("gs://bucket/texts.csv")
    objects._need.cache_clear()


@needs_s3
def test_a_folder_is_what_lies_in_it(bucket):
    bucket.put("in/a.txt", "one")
    bucket.put("in/deep/b.txt", "two")
    folder = place(f"{bucket.address}/in/")
    assert (folder.exists(), folder.is_dir(), folder.is_file()) == (True, True, False)
    assert [entry.name for entry in entries(folder)] == ["a.txt", "deep"]
    file = folder / "a.txt"
    assert (file.exists(), file.is_dir(), file.is_file(), size_of(file)) == (True, False, True, 3)
    assert not (folder / "a").exists(), "the beginning of a name is no name"
    assert list((folder / "nothing").iterdir()) == []
    assert [str(found) for found in ObjectPath(f"{bucket.address}/**/*.txt").glob()] == [
        f"{bucket.address}/in/a.txt",
        f"{bucket.address}/in/deep/b.txt",
    ]
    assert (file.parent, file.stem, file.suffix, str(file.with_name("c"))) == (
        folder,
        "a",
        ".txt",
        f"{bucket.address}/in/c",
    )


@needs_s3
def test_what_others_put_is_seen_at_once(bucket):
    folder = place(f"{bucket.address}/in")
    assert entries(folder) == []
    bucket.put("in/a.txt", "one")
    assert [entry.read_bytes() for entry in entries(folder)] == [b"one"]
    bucket.put("in/a.txt", "other")
    assert (folder / "a.txt").read_bytes() == b"other"
    assert size_of(folder / "a.txt") == 5


@needs_s3
def test_a_stretch_of_an_object_is_read_as_of_a_file(bucket):
    bucket.put("x", bytes(range(100)))
    with place(f"{bucket.address}/x").open() as stream:
        assert stream.read(3) == bytes([0, 1, 2])
        assert stream.seek(-2, os.SEEK_END) == 98
        assert stream.read() == bytes([98, 99])
        assert stream.read() == b""


@needs_s3
def test_an_object_is_put_whole_or_not_at_all(bucket):
    target = place(f"{bucket.address}/x")

    def fail():
        with atomic_file(target) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert bucket.objects() == {}
    with atomic_file(target) as file:
        file.write(b"whole")
    assert bucket.objects() == {"x": b"whole"}


@needs_s3
def test_what_a_store_refuses_is_no_sign_of_damage(bucket, monkeypatch):
    """Neither an OSError nor a StoreError, which stand for torn files in much of the code."""
    with pytest.raises(StorageError, match="there is no bucket 'no-such-bucket'") as caught:
        ObjectPath("s3://no-such-bucket/x").put(b"x")
    assert not isinstance(caught.value, UnreachableError)

    def refuse(*args, **kwargs):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(ObjectPath("s3://b/x")._system, "info", refuse)
    with pytest.raises(StorageError, match="access refused: Access Denied"):
        place(f"{bucket.address}/x").exists()
    monkeypatch.setattr(ObjectPath("s3://b/x")._system, "info", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        place(f"{bucket.address}/x").exists()


@needs_s3
@pytest.mark.slow
def test_a_store_that_does_not_answer_is_said_to_perhaps_answer_later():
    script = "from embedsvc.storage import place; place('s3://bucket/x').exists()"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    env |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert "UnreachableError: s3://bucket/x: the store does not answer" in done.stderr


@pytest.fixture(params=["disk", pytest.param("objects", marks=needs_s3)])
def folder(request, tmp_path):
    if request.param == "disk":
        return tmp_path / "folder"
    return place(f"{request.getfixturevalue('bucket').address}/folder")


def test_of_two_that_want_a_folder_one_gets_it(folder):
    with locked(folder, "somebody works there", "Wait."):
        with pytest.raises(LockedError, match="somebody works there"), locked(folder, "somebody works there", "Wait."):
            pass
        # The refusal took nothing from the holder.
        with pytest.raises(LockedError), locked(folder, "somebody works there", "Wait."):
            pass
    with locked(folder, "somebody works there", "Wait."):
        pass
    assert not folder.exists(), "it looks as if nobody had been there"


def lease(bucket, process: Process) -> None:
    bucket.put("folder/.lock.abc", json.dumps(asdict(process)))


@needs_s3
def test_the_lease_of_a_process_that_died_here_is_passed_over(bucket):
    this = Process.this()
    with subprocess.Popen(["true"]) as other:
        other.wait()
    lease(bucket, Process(this.host, this.space, other.pid, 1))
    with locked(place(f"{bucket.address}/folder"), "taken", ""):
        assert len(bucket.objects("folder")) == 1, "the dead one is removed"


@needs_s3
@pytest.mark.parametrize("space", ["another machine", ""], ids=["elsewhere", "unknown"])
def test_the_lease_of_a_process_elsewhere_holds_until_it_was_not_renewed_for_long(bucket, monkeypatch, space):
    lease(bucket, Process("elsewhere", space, 1, 1))
    folder = place(f"{bucket.address}/folder")
    with pytest.raises(LockedError, match="taken"), locked(folder, "taken", ""):
        pass
    assert set(bucket.objects("folder")) == {".lock.abc"}
    monkeypatch.setattr(locks, "_LEASE", 1.0)
    with locked(folder, "taken", "", timeout=20):
        pass


@needs_s3
def test_a_lease_is_renewed_while_it_is_held(bucket, monkeypatch):
    monkeypatch.setattr(locks, "_LEASE", 2.0)
    monkeypatch.setattr(locks, "_RENEWAL", 0.3)
    # Its process would be known to live here.
    monkeypatch.setattr(locks.Process, "this", classmethod(lambda cls: Process("elsewhere", "there", 1, 1)))
    folder = place(f"{bucket.address}/folder")
    with locked(folder, "held", ""), pytest.raises(LockedError), locked(folder, "held", "", timeout=5):
        pass
