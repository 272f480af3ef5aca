import json

import pytest

from embedsvc.errors import SettingsError
from embedsvc.service.keys import Keys, new_key
from embedsvc.service.settings import Settings
from tests.service.conftest import local, serving


@pytest.fixture(scope="module")
def guarded():
    key, line = new_key("alice")
    with serving(local(keys=Keys([line, new_key("bob")[1]]))) as running:
        yield running, key


def test_a_key_opens_the_service(guarded):
    running, key = guarded
    assert running.post("/v1/embeddings", {"input": "a"}, authorization=f"Bearer {key}").status == 200


@pytest.mark.parametrize("header", [None, "Bearer ", "Bearer wrong", "Basic YTpi", "Bearer \xff"])
def test_no_key_or_another_one_is_401(guarded, header):
    running, _ = guarded
    headers = {} if header is None else {"authorization": header}
    answer = running.post("/v1/embeddings", {"input": "a"}, **headers)
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/info", "/nowhere"])
def test_everything_but_probes_and_the_page_needs_the_key(guarded, path):
    running, key = guarded
    assert running.get(path).status == 401
    assert running.get(path, authorization=f"Bearer {key}").status in (200, 404)


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_need_no_key(guarded, path):
    assert guarded[0].get(path).status == 200


def test_logs_hold_neither_texts_nor_keys(guarded, caplog):
    import logging

    running, key = guarded
    logging.getLogger("embedsvc").propagate = True
    with caplog.at_level(logging.INFO):
        running.post(
            "/v1/embeddings", {"input": "a secret sentence"}, authorization=f"Bearer {key}", x_request_id="me.1"
        )
        running.post("/v1/embeddings?input=secret", {"input": ["secret"] * 3000}, authorization=f"Bearer {key}")
        running.post("/v1/embeddings", {"inputs": "secret"}, authorization="Bearer secret")
    lines = [json.dumps({**record.__dict__.get("fields", {}), "m": record.getMessage()}) for record in caplog.records]
    assert any('"key": "alice"' in line and '"request_id": "me.1"' in line for line in lines)
    assert not any("secret" in line or key in line for line in lines)


def test_every_answer_has_the_security_headers(fake):
    for answer in (fake.get("/health"), fake.get("/nowhere"), fake.post("/v1/embeddings", {})):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_request_ids_are_passed_on_or_made(fake):
    assert fake.get("/health", x_request_id="abc-1").headers["x-request-id"] == "abc-1"
    assert len(fake.get("/health", x_request_id="a b\u00e9").headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 403), ("evil.example:8080", 403)],
)
def test_a_loopback_service_answers_to_loopback_names_only(fake, host, status):
    assert fake.get("/health", host=host).status == status


def test_other_host_names_can_be_allowed():
    with serving(local(hosts=("box.lan",))) as running:
        assert running.get("/health", host="BOX.lan:8080").status == 200


def test_pages_of_other_origins_are_refused(fake):
    own = {"origin": fake.url}
    assert fake.post("/v1/embeddings", {"input": "a"}, **own).status == 200
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = fake.post("/v1/embeddings", {"input": "a"}, origin=origin)
        assert (answer.status, answer.error["code"]) == (403, "foreign_origin")
    assert fake.call("OPTIONS", "/v1/embeddings", origin="https://evil.example").status == 403


def test_a_public_address_needs_keys():
    with pytest.raises(SettingsError, match=r"0\.0\.0\.0 can be reached from other machines"):
        Settings(models={"a": "fake:"}, host="0.0.0.0")
    assert Settings(models={"a": "fake:"}, host="0.0.0.0", allow_public=True)
    assert Settings(models={"a": "fake:"}, host="0.0.0.0", keys=Keys([new_key("a")[1]]))
    assert Settings(models={"a": "fake:"}, host="::1")


def test_keys_are_kept_as_hashes(tmp_path):
    key, line = new_key("alice")
    assert key not in line
    path = tmp_path / "keys"
    path.write_text(f"# who\n\n{line}\n")
    keys = Keys.read(path)
    assert (keys.owner(key), keys.owner(key + "x"), keys.owner("")) == ("alice", None, None)
    assert key not in repr(keys)
    other = new_key("bob")
    assert Keys.read(None, f"{line},{other[1]}").owner(other[0]) == "bob"
    assert len(Keys.read(None, "")) == 0


def test_a_file_with_plain_keys_is_refused_without_repeating_them(tmp_path):
    key, _ = new_key("alice")
    path = tmp_path / "keys"
    path.write_text(key)
    with pytest.raises(SettingsError, match="line 1 is not of the form name:sha256") as caught:
        Keys.read(path)
    assert key not in str(caught.value)
    path.write_text("")
    with pytest.raises(SettingsError, match="holds no API key"):
        Keys.read(path)
