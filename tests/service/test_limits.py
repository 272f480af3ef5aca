import http.client
import json
import socket
import time
from functools import partial

import numpy as np
import pytest

from embedsvc.service.settings import Limits
from tests.service.conftest import local, serving


def test_more_texts_than_allowed_are_413():
    with serving(local(limits=Limits(texts=3))) as running:
        assert running.post("/v1/embeddings", {"input": ["a"] * 3}).status == 200
        answer = running.post("/v1/embeddings", {"input": ["a"] * 4})
        assert answer.status == 413
        assert answer.error["code"] == "too_many_texts"
        assert "4 texts" in answer.error["message"]


def test_more_tokens_than_allowed_are_413():
    with serving(local(limits=Limits(request_tokens=10))) as running:
        assert running.post("/v1/embeddings", {"input": ["a b", "c d"]}).status == 200
        answer = running.post("/v1/embeddings", {"input": ["a b c d", "e f g h i"]})
        assert (answer.status, answer.error["code"]) == (413, "too_many_tokens")


def test_a_lower_limit_of_tokens_cuts_texts():
    with serving(local(limits=Limits(max_tokens=4))) as running:
        (item,) = running.post("/v1/embeddings", {"input": "a b c d e"}).json["data"]
        assert (item["n_tokens"], item["truncated"]) == (4, True)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413(chunked):
    with serving(local(limits=Limits(body_bytes=1000))) as running:
        body = json.dumps({"input": "a" * 2000}).encode()
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        headers = {"content-type": "application/json"}
        if chunked:
            connection.request("POST", "/v1/embeddings", iter([body]), headers, encode_chunked=True)
        else:
            connection.request("POST", "/v1/embeddings", body, headers)
        response = connection.getresponse()
        assert response.status == 413
        assert json.loads(response.read())["error"]["code"] == "body_too_large"
        connection.close()
        assert running.post("/v1/embeddings", {"input": "a"}).status == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b'{"input": "\xff"}', 400, None),
        (b"[1]", 422, "invalid_value"),
        (b"", 422, "invalid_value"),
        (b'{"input": "\\ud800"}', 422, "invalid_value"),
        (b'{"input": ' + b"[" * 100_000, 400, None),
        (b'{"input": ' + b"9" * 10_000 + b"}", 400, None),
        (b'{"input": NaN}', 422, "invalid_value"),
    ],
)
def test_garbage_in_the_body_is_told_apart(fake, body, status, code):
    answer = fake.call("POST", "/v1/embeddings", body)
    assert answer.status == status
    assert code in (None, answer.error["code"])


def test_another_content_type_is_refused(fake):
    """A page of another site can send text/plain without asking first."""
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):  # the latter is what curl -d sends
        answer = fake.post("/v1/embeddings", {"input": "a"}, content_type=content_type)
        assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
        assert "'content-type: application/json'" in answer.error["message"]
    assert fake.post("/v1/embeddings", {"input": "a"}, content_type="application/json; charset=utf-8").status == 200


@pytest.mark.parametrize("body", [b"[1]", b"null", b'"a"'])
def test_a_body_that_is_no_object_is_called_so(fake, body):
    answer = fake.post("/v1/embeddings", body)
    assert (answer.status, answer.error["message"]) == (
        422,
        "the body is no JSON object. GET /docs describes every field.",
    )


def test_unknown_routes_and_methods_have_the_same_shape(fake):
    assert fake.get("/v2/embeddings").error["code"] == "not_found"
    assert fake.get("/v1/embeddings").error["code"] == "method_not_allowed"


def flood(running, bodies):
    """Open requests without waiting for answers."""
    sockets = []
    for body in bodies:
        content = json.dumps(body).encode()
        each = socket.create_connection(("127.0.0.1", running.port), timeout=30)
        each.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(content), content)
        )
        sockets.append(each)
    return sockets


def status_of(sock):
    response = http.client.HTTPResponse(sock)
    response.begin()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


def holds(batcher, tokens):
    return batcher.tokens == tokens


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def measured(running, held, seconds):
    """Let one text of 8 tokens take so long, and no other run until the gate is opened again."""
    (sock,) = flood(running, [{"input": "a b c d e f g"}])
    assert held.begun.acquire(timeout=10)
    time.sleep(seconds)
    held.gate.set()
    assert status_of(sock)[0] == 200
    sock.close()
    held.gate.clear()
    return running.service.batcher.seconds_per_token


def test_a_queue_that_would_take_too_long_sheds_and_says_when_to_come_again(held):
    with serving(local(workers=1, token_budget=16, limits=Limits(queue_seconds=1.5))) as running:
        admitted = 1.5 / measured(running, held, 0.2)  # tokens: 60 and fewer
        sockets = flood(running, [{"input": "a"}])
        assert held.begun.acquire(timeout=10)
        sockets += flood(running, [{"input": "a b c d e f g"}] * 40)
        until(lambda: running.service.metrics._refused.labels("overloaded")._value.get() >= 25)
        refused = running.post("/v1/embeddings", {"input": "a"})
        assert (refused.status, refused.error["code"]) == (429, "overloaded")
        assert "about 1." in refused.error["message"]
        assert refused.headers["retry-after"] == "2"
        assert running.get("/health").status == 200
        # What is being read counts by its bytes, and one more comes in below the limit.
        assert admitted / 2 <= running.service.batcher.tokens <= admitted + 8
        held.gate.set()
        statuses = [status_of(sock)[0] for sock in sockets]
        assert set(statuses) == {200, 429}
        assert running.service.backlog == running.service.arriving == 0
        assert running.post("/v1/embeddings", {"input": "a"}).status == 200
        for sock in sockets:
            sock.close()


def test_a_batch_for_each_worker_may_wait_however_slow_the_model(held):
    with serving(local(workers=1, token_budget=16, limits=Limits(queue_seconds=1e-6))) as running:
        measured(running, held, 0)
        sockets = flood(running, [{"input": "a"}])
        assert held.begun.acquire(timeout=10)
        for waiting in (8, 16):
            sockets += flood(running, [{"input": "a b c d e f g"}])
            until(partial(holds, running.service.batcher, waiting))
        assert running.post("/v1/embeddings", {"input": "a"}).status == 429
        held.gate.set()
        assert [status_of(sock)[0] for sock in sockets] == [200] * 3
        for sock in sockets:
            sock.close()


def test_a_client_that_goes_away_leaves_the_queue(held):
    with serving(local(workers=1, token_budget=16)) as running:
        (first,) = flood(running, [{"input": "a"}])
        assert held.begun.acquire(timeout=10)
        gone = flood(running, [{"input": "b b b"}] * 5)
        until(lambda: running.service.batcher.tokens == 20)
        for sock in gone:
            sock.close()
        until(lambda: running.service.batcher.tokens == 0)
        held.gate.set()
        assert status_of(first)[0] == 200
        first.close()
        until(lambda: running.service.active == 0)
        assert held.batches == [[1]]


def test_the_event_loop_answers_while_a_batch_runs(held):
    with serving(local(workers=1)) as running:
        (first,) = flood(running, [{"input": "a"}])
        assert held.begun.acquire(timeout=10)
        began = time.monotonic()
        assert running.get("/health").status == 200
        assert time.monotonic() - began < 1
        held.gate.set()
        status_of(first)
        first.close()
        assert not [name for name in held.threads if "(serve)" in name]  # conftest's: where the event loop runs


def test_a_body_that_does_not_arrive_is_408():
    with serving(local(limits=Limits(body_seconds=0.2))) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as sock:
            sock.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
            status, headers, body = status_of(sock)
            assert status == 408
            assert headers["connection"] == "close"
            assert json.loads(body)["error"]["type"] == "timeout_error"
        until(lambda: running.service.active == 0)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /he"])
def test_a_head_that_does_not_arrive_costs_the_connection(sent):
    with serving(local(limits=Limits(header_seconds=0.3))) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as sock:
            sock.sendall(sent)
            try:
                while sock.recv(65536):
                    pass
            except ConnectionResetError:
                pass
        until(lambda: not running.server.server_state.connections)


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /health HTTP/1.1\r\nx: ",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /health HTTP/1.1\r\nx: ",
        b"POST /embed HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: ",
    ],
)
def test_a_head_or_trailer_without_end_costs_the_connection(fake, begun):
    with socket.create_connection(("127.0.0.1", fake.port), timeout=10) as sock:
        sock.sendall(begun)
        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            sock.sendall(b"a" * (16 << 20))
    assert fake.get("/health").status == 200


def test_a_long_body_in_small_chunks_is_no_long_head(fake):
    body = json.dumps({"inputs": "a " * 20_000, "truncate": True}).encode()
    chunks = b"".join(b"2\r\n%b\r\n" % body[at : at + 2] for at in range(0, len(body) - 1, 2))
    chunks += b"1\r\n%b\r\n" % body[-1:] if len(body) % 2 else b""
    with socket.create_connection(("127.0.0.1", fake.port), timeout=10) as sock:
        head = b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        sock.sendall(head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert status_of(sock)[0] == 200


def test_a_client_that_does_not_read_its_answer_is_cut_off():
    with serving(local(models={"wide": "fake:1024"}, limits=Limits(send_seconds=0.5))) as running:
        (sock,) = flood(running, [{"input": ["a"] * 1500}])
        until(lambda: running.service.active == 1)
        until(lambda: running.service.active == 0 and not running.server.server_state.connections, 20)
        sock.close()


def test_garbage_on_the_wire_gets_400_and_the_service_goes_on(fake):
    rng = np.random.default_rng(0)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", fake.port), timeout=10) as sock:
            sock.sendall(rng.bytes(200) + b"\r\n\r\n")
            assert b"400" in sock.recv(100)
    assert fake.get("/health").status == 200


def test_limits_must_allow_something():
    from embedsvc.errors import SettingsError

    with pytest.raises(SettingsError, match="texts is 0"):
        Limits(texts=0)
