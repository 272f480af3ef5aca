"""The service under load on loopback, beside the library offline and beside other servers of the same weights.

    python benchmarks/bench_serve.py --peer-python PEERS/bin/python --infinity INFINITY/bin/infinity_emb

Load is open: requests start when they are due (a Poisson process), whether or not earlier ones were answered, and a
latency counts from the moment its request was due. All servers are up for the whole run and measured in turn; idle
ones use no processor. The load generator shares the two processors with what it measures. It speaks to 127.0.0.1
only, for a bounded time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import socket
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from bench_extract import example_texts
from serving import Process, Server

from embedsvc import Settings, Text, catalog, fetching, load_model
from embedsvc.extraction import extract

HERE = Path(__file__).parent


class Load:
    """Requests of `size` texts to one server, over connections that are kept."""

    def __init__(self, port: int, texts: list[str], size: int, fields: dict) -> None:
        self.port, self.size = port, size
        groups = [texts[at : at + size] for at in range(0, len(texts) - size + 1, size)]
        self._requests = itertools.cycle([self._bytes({"input": group, **fields}) for group in groups])
        self._free: list = []
        self.outcomes: Counter[int] = Counter()

    @staticmethod
    def _bytes(body: dict) -> bytes:
        content = json.dumps(body).encode()
        head = "POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content

    async def once(self) -> int:
        request, head = next(self._requests), b""
        while not head:
            kept = bool(self._free)
            reader, writer = self._free.pop() if kept else await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(request)
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionResetError):
                writer.close()
                if not kept:  # one that the server closed while it was idle is no failure
                    raise
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        status = int(head[9:12])
        self.outcomes[status] += 1
        if b"connection: close" in lower:
            writer.close()
        else:
            self._free.append((reader, writer))
        return status

    async def close(self) -> None:
        for _, writer in self._free:
            writer.close()

    async def closed(self, clients: int, seconds: float) -> float:
        """Texts a second with so many clients that ask again at once."""
        end = time.perf_counter() + seconds
        done = 0

        async def client() -> None:
            nonlocal done
            while time.perf_counter() < end:
                if await self.once() == 200:
                    done += self.size

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return done / (time.perf_counter() - began)

    async def open(self, rate: float, seconds: float, seed: int = 0) -> dict[int, list[float]]:
        """Latencies by status, of requests that are due at `rate` a second whatever happens."""
        rng = np.random.default_rng(seed)
        due = np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
        latencies: dict[int, list[float]] = {}
        began = time.perf_counter()
        tasks = []

        async def request(at: float) -> None:
            try:
                status = await asyncio.wait_for(self.once(), 60)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                status = 0
            latencies.setdefault(status, []).append(time.perf_counter() - began - at)

        for at in due.tolist():
            wait = began + at - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(request(at)))
        await asyncio.gather(*tasks)
        return latencies


def offline(encoder, tap: str, texts: list[str], seconds: float) -> float:
    """Texts a second of `extract`."""
    rows = [Text(str(at), text) for at, text in enumerate(texts)]
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for block in extract(rows, encoder, Settings((tap,))):
            done += len(block.texts)
    return done / (time.perf_counter() - began)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def percentile(values: list[float], at: float) -> float:
    return 1e3 * float(np.percentile(values, at)) if values else float("nan")


async def measure(options, servers: dict[str, tuple[Process, dict]], encoder, texts: list[str]) -> dict:
    found: dict = {"saturation": {}, "lone_ms": {}, "half_load": {}, "overload": {}}
    tap, seconds, size = options.tap, options.seconds, options.size
    speeds: dict[str, list[float]] = {}
    offline(encoder, tap, texts, 2)
    loads = {name: Load(server.port, texts, size, fields) for name, (server, fields) in servers.items()}
    for load in loads.values():
        await load.closed(8, 2)
    for _ in range(options.rounds):
        # The same texts through the library, in this process, in turn with the servers.
        speeds.setdefault("extract", []).append(await asyncio.to_thread(offline, encoder, tap, texts, seconds))
        for name, load in loads.items():
            speeds.setdefault(name, []).append(await load.closed(options.clients, seconds))
    found["saturation"] = {name: [round(each, 1) for each in values] for name, values in speeds.items()}
    for name, (server, fields) in servers.items():
        one = Load(server.port, texts, options.half_size, fields)
        lone = []
        for _ in range(60):
            began = time.perf_counter()
            await one.once()
            lone.append(time.perf_counter() - began)
        found["lone_ms"][name] = round(percentile(lone[10:], 50), 1)
        rate = options.load * statistics.median(speeds[name]) / options.half_size
        latencies = await one.open(rate, 2 * seconds)
        good = latencies.get(200, [])
        found["half_load"][name] = {
            "requests_a_second": round(rate, 1),
            "p50_ms": round(percentile(good, 50), 1),
            "p99_ms": round(percentile(good, 99), 1),
            "p99_over_lone": round(percentile(good, 99) / found["lone_ms"][name], 2),
            "outcomes": {status: len(each) for status, each in latencies.items()},
        }
        await one.close()
    print(json.dumps(found), file=sys.stderr, flush=True)
    server, fields = servers["embedsvc"]
    rate = 10 * statistics.median(speeds["embedsvc"]) / options.half_size
    memory = server.memory()
    flood = Load(server.port, texts, options.half_size, fields)
    began = time.perf_counter()
    latencies = await flood.open(min(rate, 1000), seconds)
    lasted = time.perf_counter() - began
    await flood.close()  # or the service would still count its connections, and turn away the next
    await asyncio.sleep(1)
    after = Load(server.port, texts, options.half_size, fields)
    assert await after.once() == 200
    found["overload"] = {
        "requests_a_second": round(min(rate, 1000)),
        "outcomes": {status: len(each) for status, each in latencies.items()},
        "admitted_a_second": round(len(latencies.get(200, [])) / lasted, 1),
        "admitted_p50_ms": round(percentile(latencies.get(200, []), 50)),
        "admitted_p99_ms": round(percentile(latencies.get(200, []), 99)),
        "refused_p50_ms": round(percentile(latencies.get(429, []), 50), 1),
        "memory_mb": [round(memory / 1e6), round(server.memory() / 1e6)],
    }
    for load in (*loads.values(), after):
        await load.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6, help="Of each measurement.")
    parser.add_argument("--size", type=int, default=8, help="Texts of a request at saturation.")
    parser.add_argument("--half-size", type=int, default=1, help="Texts of a request at half load.")
    parser.add_argument("--load", type=float, default=0.5)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--texts", type=int, default=480)
    parser.add_argument("--peer-python", help="An environment with sentence-transformers, fastapi and uvicorn.")
    parser.add_argument("--infinity", help="The program infinity_emb.")
    options = parser.parse_args()
    options.tap = "mean"
    encoder = load_model("minilm-l6")
    folder = str(fetching.fetch(catalog.MODELS["minilm-l6"]))
    texts = example_texts(encoder, options.texts)
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Server("-m", "minilm-l6"))
        servers: dict[str, tuple[Process, dict]] = {"embedsvc": (ours, {"encoding_format": "base64"})}
        env = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "PYTHONPATH": ""}
        if options.peer_python:
            port = free_port()
            command = [options.peer_python, str(HERE / "peers" / "sentence_transformers_server.py"), folder, str(port)]
            peer = stack.enter_context(Process(command, port, env))
            peer.wait("/ready")
            servers["sentence-transformers"] = (peer, {})
        if options.infinity:
            port = free_port()
            command = [
                options.infinity, "v2", "--model-id", folder, "--served-model-name", "m", "--port", str(port),
                "--host", "127.0.0.1", "--engine", "torch", "--device", "cpu", "--no-bettertransformer",
                "--batch-size", "32", "--url-prefix", "/v1",
            ]  # fmt: skip
            peer = stack.enter_context(Process(command, port, env | {"INFINITY_ANONYMOUS_USAGE_STATS": "0"}))
            peer.wait("/health")
            servers["infinity"] = (peer, {"model": "m", "encoding_format": "base64"})
        print(json.dumps(asyncio.run(measure(options, servers, encoder, texts)), indent=2))


if __name__ == "__main__":
    main()
