"""The service under load on loopback, beside the library offline and beside other servers of the same weights.

    python benchmarks/bench_serve.py --peer-python .peers/bin/python --infinity INFINITY/bin/infinity_emb

Load is open: requests start when they are due (a Poisson process), whether or not earlier ones were answered, and a
latency counts from the moment its request was due. All servers are up for the whole run and measured in turn; idle
ones use no processor. The load generator shares the processors with what it measures, and its own time is told. It
speaks to 127.0.0.1 only, for a bounded time.

A machine may be free for a few minutes at a time only: `--parts` runs some of the parts, `--results` keeps what they
found, and the table in benchmarks/README.md is written once all have run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import os
import platform
import socket
import sys
import time
from collections import Counter
from importlib import metadata
from pathlib import Path

import numpy as np
import uvloop

sys.path.insert(0, str(Path(__file__).parent))
from bench_extract import example_texts
from serving import Process, Server
from tables import put, quote

from embedsvc import Settings, Text, catalog, fetching, load_model
from embedsvc.extraction import extract

HERE = Path(__file__).parent
TAP = "mean"
SIZE = 8  # texts of a request at saturation
Servers = dict[str, tuple[Process, dict]]


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

    async def closed(self, clients: int, seconds: float) -> tuple[float, list[float]]:
        """Texts a second with so many clients that ask again at once, and the latencies."""
        end = time.perf_counter() + seconds
        latencies: list[float] = []

        async def client() -> None:
            while (began := time.perf_counter()) < end:
                if await self.once() == 200:
                    latencies.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return len(latencies) * self.size / (time.perf_counter() - began), latencies

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


def offline(encoder, texts: list[str], seconds: float) -> tuple[float, float]:
    """Texts a second of `extract`, and a text's seconds of a processor."""
    rows = [Text(str(at), text) for at, text in enumerate(texts)]
    done, began, spent = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        for block in extract(rows, encoder, Settings((TAP,))):
            done += len(block.texts)
    return done / (time.perf_counter() - began), (time.process_time() - spent) / done


def percentile(values: list[float], at: float) -> float:
    """In milliseconds."""
    return 1e3 * float(np.percentile(values, at)) if values else float("nan")


async def saturation(servers: Servers, encoder, texts: list[str], options) -> dict:
    """Texts a second with as many requests as they take, and of the same texts through the library in this process."""
    offline(encoder, texts, 2)
    loads = {name: Load(server.port, texts, SIZE, fields) for name, (server, fields) in servers.items()}
    speeds: dict[str, list[float]] = {name: [] for name in ("extract", *loads)}
    costs: dict[str, list[float]] = {name: [] for name in speeds}
    for load in loads.values():
        await load.closed(options.clients, 2)
    for _ in range(options.rounds):
        speed, cost = await asyncio.to_thread(offline, encoder, texts, options.seconds)
        speeds["extract"].append(speed)
        costs["extract"].append(cost)
        for name, load in loads.items():
            spent = servers[name][0].seconds()
            speed, latencies = await load.closed(options.clients, options.seconds)
            speeds[name].append(speed)
            costs[name].append((servers[name][0].seconds() - spent) / (SIZE * len(latencies)))
    for load in loads.values():
        await load.close()
    return {"speeds": speeds, "costs": costs}


async def latency(servers: Servers, encoder, texts: list[str], options) -> dict:
    """Requests of one text: alone, and at half of the rate that the same requests reach at saturation."""
    found: dict[str, dict] = {}
    loads = {name: Load(server.port, texts, 1, fields) for name, (server, fields) in servers.items()}
    for name, load in loads.items():
        await load.closed(2, 1)
        rate, _ = await load.closed(2 * options.clients, options.seconds)
        found[name] = {"saturated": rate, "lone": [], "half": [], "outcomes": Counter(), "generator": 0.0}
    for round_ in range(options.rounds):
        for name, load in loads.items():
            one = found[name]
            for _ in range(len(texts) // options.rounds):
                began = time.perf_counter()
                await load.once()
                one["lone"].append(time.perf_counter() - began)
            began = time.process_time()
            latencies = await load.open(one["saturated"] / 2, 4 * options.seconds, seed=round_)
            one["generator"] += time.process_time() - began
            one["half"] += latencies.get(200, [])
            one["outcomes"] += Counter({status: len(each) for status, each in latencies.items()})
    for load in loads.values():
        await load.close()
    return found


async def overload(servers: Servers, encoder, texts: list[str], options) -> dict:
    """Ten times more requests than the service can answer, beside its latency at saturation."""
    server, fields = servers["embedsvc"]
    found = {}
    for size in (SIZE, 1):
        load = Load(server.port, texts, size, fields)
        speed, calm = await load.closed(options.clients * SIZE // size, options.seconds)
        memory, spent, began = server.memory(), time.process_time(), time.perf_counter()
        rate = 10 * speed / size
        latencies = await load.open(rate, 2 * options.seconds)
        lasted = time.perf_counter() - began
        found[size] = {
            "rate": rate,
            "calm": calm,
            "capacity": speed / size,
            "answered": len(latencies.get(200, [])) / lasted,
            "latencies": latencies,
            "memory": [memory, server.memory()],
            "generator": (time.process_time() - spent) / lasted,
        }
        await load.close()  # or the service would still count its connections, and turn away the next
        await asyncio.sleep(1)
    after = Load(server.port, texts, 1, fields)
    assert await after.once() == 200
    await after.close()
    return found


PARTS = {"saturation": saturation, "latency": latency, "overload": overload}


def table(found: dict) -> list[str]:
    """What the parts found, as the README shows it."""
    speeds, costs = (
        {name: np.array(values) for name, values in found["saturation"][what].items()} for what in ("speeds", "costs")
    )
    ours, cost = speeds.pop("embedsvc"), costs.pop("embedsvc")
    rows = [("texts/s of `extract` offline, here and now", f"{np.median(speeds['extract']):.0f}", "")]
    for name, theirs in speeds.items():
        what = "`extract` offline" if name == "extract" else f"the server of {name}"
        rows.append((f"saturated service ÷ {what}, {SIZE} texts a request", quote(ours / theirs), GOALS.get(name, "")))
        rows.append((f"processor time of a text there, ours ÷ that of {what}", quote(cost / costs[name]), ""))
    for name, one in found["latency"].items():
        lone, half, outcomes = one["lone"], one["half"], one["outcomes"]
        p50, p99 = percentile(lone, 50), percentile(lone, 99)
        mine = name == "embedsvc"
        rows += [
            (f"{name}: p50, p99 of a lone text", f"{p50:.1f}, {p99:.1f} ms", ""),
            (
                f"{name}: p50, p99 at half of its {one['saturated']:.0f} texts/s, one text a request",
                f"{percentile(half, 50):.1f}, {percentile(half, 99):.1f} ms",
                "",
            ),
            (
                f"{name}: p99 at half load ÷ p99 and ÷ p50 of a lone text",
                f"{percentile(half, 99) / p99:.2f} and {percentile(half, 99) / p50:.2f}",
                "≤ 3" if mine else "",
            ),
        ]
        if not mine and (failed := sum(n for status, n in outcomes.items() if status != "200")):
            rows.append((f"{name}: requests not answered there", f"{failed} of {sum(outcomes.values())}", ""))
    one = found["latency"]["embedsvc"]
    spent = f"{1e3 * one['generator'] / sum(one['outcomes'].values()):.2f} ms of a processor a request"
    rows.append(("the load generator's own time there", spent, ""))
    for size, one in found["overload"].items():
        good, refused = (one["latencies"].get(status, []) for status in ("200", "429"))
        bad = {status: len(each) for status, each in one["latencies"].items() if status not in ("200", "429")}
        rows += [
            (
                f"{one['rate']:.0f} requests/s of {size} texts, ten times the capacity: answered, ÷ capacity",
                f"{one['answered']:.1f} a second, {one['answered'] / one['capacity']:.2f}",
                "",
            ),
            (
                "their p50, p99; at saturation without overload",
                f"{percentile(good, 50):.0f}, {percentile(good, 99):.0f} ms; "
                f"{percentile(one['calm'], 50):.0f}, {percentile(one['calm'], 99):.0f} ms",
                "",
            ),
            (
                "refused with 429, their p50; anything else",
                f"{len(refused)}, {percentile(refused, 50):.0f} ms; {bad or 'none'}",
                "none",
            ),
            ("memory before and after", " and ".join(f"{each / 1e6:.0f}" for each in one["memory"]) + " MB", "flat"),
            ("the load generator's own time there", f"{one['generator']:.2f} of a processor", ""),
        ]
    return ["| what | figure | goal |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]


GOALS = {"extract": "≥ 0.9"}


def write(lines: list[str], peers: str) -> None:
    """Put the table into benchmarks/README.md, between its marks."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("openvino", "fastapi", "uvicorn"))
    cores = len(os.sched_getaffinity(0))
    machine = f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, {versions}{peers}"
    put("bench_serve", [*lines, "", f"Machine: {machine}."])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start(stack: contextlib.ExitStack, options) -> Servers:
    """Ours, and those of the peers that there are environments for."""
    folder = str(fetching.fetch(catalog.MODELS["minilm-l6"]))
    servers: Servers = {"embedsvc": (stack.enter_context(Server("-m", "minilm-l6")), {"encoding_format": "base64"})}
    env = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "PYTHONPATH": ""}
    if options.peer_python:
        port = free_port()
        command = [options.peer_python, str(HERE / "peers" / "sentence_transformers_server.py"), folder, str(port)]
        peer = stack.enter_context(Process(command, port, env))
        peer.wait("/ready", 300)
        servers["sentence-transformers"] = (peer, {})
    if options.infinity:
        port = free_port()
        command = [
            options.infinity, "v2", "--model-id", folder, "--served-model-name", "m", "--port", str(port),
            "--host", "127.0.0.1", "--engine", "torch", "--device", "cpu", "--no-bettertransformer",
            "--batch-size", "32", "--url-prefix", "/v1", "--no-model-warmup",
        ]  # fmt: skip
        peer = stack.enter_context(Process(command, port, env | {"INFINITY_ANONYMOUS_USAGE_STATS": "0"}))
        peer.wait("/health", 300)
        servers["infinity-emb"] = (peer, {"model": "m", "encoding_format": "base64"})
    return servers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"Out of {', '.join(PARTS)}.")
    parser.add_argument("--results", type=Path, help="JSON of what was found before, and of what is found now.")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6, help="Of each measurement.")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--texts", type=int, default=480)
    parser.add_argument("--peer-python", help="An environment with sentence-transformers, fastapi and uvicorn.")
    parser.add_argument("--infinity", help="The program infinity_emb.")
    options = parser.parse_args()
    encoder = load_model("minilm-l6")
    texts = example_texts(encoder, options.texts)
    found = json.loads(options.results.read_text()) if options.results and options.results.exists() else {}
    gc.collect()
    gc.freeze()  # a pause of the generator would be taken for one of the servers
    with contextlib.ExitStack() as stack, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        servers = start(stack, options)
        for part in options.parts.split(","):
            # As JSON has it: keys are strings.
            found[part] = json.loads(json.dumps(runner.run(PARTS[part](servers, encoder, texts, options))))
            if options.results:
                options.results.write_text(json.dumps(found))
    if all(part in found for part in PARTS):
        peers = "; infinity-emb and sentence-transformers with torch" if len(servers) > 1 else ""
        write(table(found), peers)


if __name__ == "__main__":
    main()
