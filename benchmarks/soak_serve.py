"""The service under faults: slow clients, half-closed sockets, garbage and cancelled requests beside honest ones.

    python benchmarks/soak_serve.py --minutes 15            # the real model
    python benchmarks/soak_serve.py --seconds 20 -m fake:64 # a short one

Every honest answer is compared with what the library gives for the same texts. At the end the service must hold no
request, no queued token and no connection, no more threads and files than after its warm-up, and no memory that kept
growing. It speaks to 127.0.0.1 only, for a bounded time, with a bounded number of requests.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from embedsvc import Text, load_model
from embedsvc.extraction import Settings, extract

sys.path.insert(0, str(Path(__file__).parent))
from serving import Server, post

WORDS = ["the", "film", "was", "good", "bad", "very", "plot", "never", "dull", "music", "and", "story", "of", "a", "!"]


def texts_of(rng: random.Random, count: int) -> list[str]:
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 60))) for _ in range(count)]


class Soak:
    def __init__(self, server: Server, encoder, seconds: float, tap: str) -> None:
        self.server, self.end = server, time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.seconds: list[float] = []
        rng = random.Random(0)
        self.pool = texts_of(rng, 400)
        rows = [Text(text, text) for text in dict.fromkeys(self.pool)]
        settings = Settings((tap, "pre_dropout") if tap != "pre_dropout" else (tap,))
        block = next(extract(rows, encoder, settings))
        self.known = {text.text: block.vectors[f"{tap}.inference"][at] for at, text in enumerate(rows)}

    def until_the_end(self, pause: float, act, seed: int) -> threading.Thread:
        def loop() -> None:
            rng = random.Random(seed)
            while time.monotonic() < self.end:
                try:
                    act(rng)
                except (OSError, http.client.HTTPException):
                    self.counts["connection refused or reset"] += 1
                time.sleep(rng.expovariate(1 / pause))

        thread = threading.Thread(target=loop, name=act.__name__)
        thread.start()
        return thread

    def honest(self, rng: random.Random) -> None:
        texts = rng.sample(self.pool, rng.choice([1, 1, 1, 2, 5, 20]))
        began = time.monotonic()
        status, answer = post(self.server, "/v1/embeddings", {"input": texts, "normalize": False})
        self.seconds.append(time.monotonic() - began)
        self.counts[f"honest {status}"] += 1
        if status == 429:
            return
        if status != 200:
            self.wrong.append(f"status {status}: {answer}")
            return
        found = np.array([item["embedding"] for item in answer["data"]], dtype=np.float32)
        error = max(float(np.abs(row - self.known[text]).max()) for row, text in zip(found, texts, strict=True))
        if error > 1e-5:
            self.wrong.append(f"a vector is off by {error}")

    def variants(self, rng: random.Random) -> None:
        asked = {"texts": rng.sample(self.pool, 2), "modes": ["training", "head"], "passes": 2, "seed": 7}
        first, second = (post(self.server, "/v1/variants", asked) for _ in range(2))
        self.counts[f"variants {first[0]}"] += 1
        if first[0] == second[0] == 200:
            for name, rows in first[1]["vectors"].items():
                if np.abs(np.array(rows) - np.array(second[1]["vectors"][name])).max() > 1e-5:
                    self.wrong.append(f"{name} changed between two requests")

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=30)

    def head(self, body: bytes) -> bytes:
        return (
            b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )

    def slow(self, rng: random.Random) -> None:
        body = json.dumps({"input": rng.choice(self.pool)}).encode()
        with self.raw() as sock:
            for part in (self.head(body)[:20], self.head(body)[20:], body[:5], body[5:]):
                sock.sendall(part)
                time.sleep(rng.uniform(0.1, 1.0))
            self.counts["slow " + sock.recv(65536)[9:12].decode()] += 1

    def stalled(self, rng: random.Random) -> None:
        body = json.dumps({"input": "never finished"}).encode()
        with self.raw() as sock:
            sock.sendall(rng.choice([b"", b"GET /he", self.head(body), self.head(body) + body[:4]]))
            time.sleep(rng.uniform(1, 15))
        self.counts["stalled"] += 1

    def half_closed(self, rng: random.Random) -> None:
        body = json.dumps({"input": rng.sample(self.pool, 10)}).encode()
        with self.raw() as sock:
            sock.sendall(self.head(body) + body)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(65536)
        self.counts["half closed"] += 1

    def cancelled(self, rng: random.Random) -> None:
        body = json.dumps({"input": rng.sample(self.pool, 50)}).encode()
        with self.raw() as sock:
            sock.sendall(self.head(body) + body)
            time.sleep(rng.uniform(0, 0.05))
        self.counts["cancelled"] += 1

    def unread(self, rng: random.Random) -> None:
        body = json.dumps({"input": rng.sample(self.pool, 60)}).encode()
        with self.raw() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(self.head(body) + body)
            time.sleep(rng.uniform(1, 5))
        self.counts["unread"] += 1

    def garbage(self, rng: random.Random) -> None:
        body = rng.choice([b"{", b"\xff\xfe", b'{"input": [[]]}', b'{"input": "\\ud800"}', b"[" * 5000, b"null"])
        with self.raw() as sock:
            sock.sendall(rng.choice([rng.randbytes(300) + b"\r\n\r\n", self.head(body) + body]))
            status = sock.recv(65536)[9:12].decode("latin-1")
        self.counts[f"garbage {status}"] += 1
        if status.startswith("5"):
            self.wrong.append(f"garbage got a {status}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("-m", "--model", default="minilm-l6")
    options = parser.parse_args()
    seconds = options.seconds if options.seconds is not None else 60 * options.minutes
    encoder = load_model(options.model)
    with Server("-m", f"model={options.model}") as server:
        tap = server.get("/v1/models/model")["default_tap"]
        soak = Soak(server, encoder, seconds, tap)
        for _ in range(20):  # every graph is traced and every pool is full before the first look at memory
            soak.honest(random.Random(1))
        soak.variants(random.Random(1))
        memory = [server.memory()]
        before = server.resources()
        pauses = {
            soak.honest: 0.15, soak.variants: 3, soak.slow: 1, soak.stalled: 1, soak.half_closed: 1,
            soak.cancelled: 0.5, soak.unread: 2, soak.garbage: 0.5,
        }  # fmt: skip
        threads = [soak.until_the_end(pause, act, seed) for seed, (act, pause) in enumerate(pauses.items())]
        threads.append(soak.until_the_end(0.15, soak.honest, 99))
        while time.monotonic() < soak.end:
            time.sleep(min(15.0, max(0.5, soak.end - time.monotonic())))
            memory.append(server.memory())
            print(f"{memory[-1] / 1e6:.0f} MB, {sum(soak.counts.values())} requests", file=sys.stderr, flush=True)
        for thread in threads:
            thread.join(60)
        for _ in range(300):  # the last stalled connections have to time out
            time.sleep(0.2)
            after = server.resources()
            if after["active"] == 1 and after["connections"] <= 1 and not after["queued"]:
                break
        # Growth of the last third over the middle one: a leak does not stop, a warm-up does.
        third = len(memory) // 3
        growth = statistics.median(memory[2 * third :]) / statistics.median(memory[third : 2 * third] or memory) - 1
        print(json.dumps({
            "seconds": round(seconds),
            "outcomes": dict(sorted(soak.counts.items())),
            "p50_ms": round(1e3 * statistics.median(soak.seconds), 1),
            "p99_ms": round(1e3 * float(np.percentile(soak.seconds, 99)), 1),
            "wrong": soak.wrong[:5],
            "memory_mb": [round(memory[0] / 1e6), round(memory[len(memory) // 2] / 1e6), round(memory[-1] / 1e6)],
            "growth_of_last_third": round(growth, 4),
            "before": before,
            "after": after,
        }, indent=2))  # fmt: skip
        leaks = [name for name, slack in (("threads", 2), ("files", 4)) if after[name] > before[name] + slack] + [
            name for name, most in (("active", 1), ("queued", 0), ("connections", 1)) if after[name] > most
        ]
        assert not soak.wrong, soak.wrong
        assert not leaks, leaks
        assert seconds < 300 or growth < 0.03, f"memory grew by {growth:.1%}"


if __name__ == "__main__":
    main()
