import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest


@contextmanager
def started(*arguments, wait="listening"):
    """The command itself; gives the process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "embedsvc", "serve", "--port", "0", *arguments], stderr=subprocess.PIPE, text=True
    )
    try:
        address, lines = "", []
        for line in process.stderr:
            lines.append(line)
            fields = json.loads(line)
            address = fields.get("address", address)
            if address and (fields.get("message") == wait or fields.get("state") == wait):
                break
        assert address, lines
        yield process, address
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        process.stderr.close()


def fetch(address, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_sigterm_answers_what_is_under_way_and_exits_with_0():
    import threading

    with started("-m", "fake:512", "--token-budget", "64", "--workers", "1", wait="ready") as (process, address):
        answers = []
        body = {"input": ["a b c d e f g h i"] * 2000}
        threads = [
            threading.Thread(target=lambda: answers.append(fetch(address, "/v1/embeddings", body))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        while fetch(address, "/health")[1]["active"] < 4:
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        refused = None
        while refused is None and process.poll() is None:
            try:
                refused = fetch(address, "/v1/embeddings", {"input": "a"})
            except (urllib.error.URLError, ConnectionError):
                break
        for thread in threads:
            thread.join(30)
        assert [status for status, _ in answers] == [200, 200, 200]
        assert all(len(answer["data"]) == 2000 for _, answer in answers)
        assert refused is not None
        assert (refused[0], refused[1]["error"]["code"]) == (503, "draining")
        assert process.wait(30) == 0


def test_sigint_exits_with_0():
    with started("-m", "fake:8", wait="ready") as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "embedsvc", "serve", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_collector_does_not_walk_over_a_loaded_model():
    script = (
        "import gc; from tests.service.conftest import local, serving\n"
        "with serving(local()) as running: print(gc.get_freeze_count() > 20_000, len(gc.get_objects()) < 20_000)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"


def test_a_model_that_is_not_there_ends_the_command():
    done = run("-m", "no-such-model", "--port", "0")
    assert done.returncode == 1
    assert "Error: no model named 'no-such-model'" in done.stderr


def test_a_port_that_is_taken_ends_the_command():
    with started("-m", "fake:8") as (_, address):
        done = run("-m", "fake:8", "--port", address.rpartition(":")[2])
        assert done.returncode == 1
        assert "could not listen" in done.stderr


def test_a_public_address_without_keys_ends_the_command():
    done = run("-m", "fake:8", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 1
    assert "--api-keys" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_new_key_opens_a_service_that_was_given_its_line(tmp_path):
    done = run("--new-key", "alice")
    key, line = (row.split()[1] for row in done.stdout.splitlines())
    (tmp_path / "keys").write_text(line + "\n")
    with started("-m", "fake:8", "--api-keys", str(tmp_path / "keys"), wait="ready") as (_, address):
        assert fetch(address, "/v1/models")[0] == 401
        request = urllib.request.Request(address + "/v1/models", headers={"authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.status == 200


def test_https_works_with_a_certificate(tmp_path):
    import shutil
    import ssl

    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    subprocess.run(made, check=True, capture_output=True)
    with started("-m", "fake:8", "--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key")) as (_, url):
        assert url.startswith("https://")
        context = ssl.create_default_context(cafile=str(tmp_path / "cert"))
        with urllib.request.urlopen(url + "/health", timeout=30, context=context) as response:
            assert response.status == 200
            assert "strict-transport-security" in response.headers
