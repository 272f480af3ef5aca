"""What a job costs beside its encoder: rows/s and CPU by workers, engine and nodes; whether memory grows with the rows.

    python benchmarks/bench_jobs.py --rows 20000,200000              # numpy encoder, in this process and on Ray
    python benchmarks/bench_jobs.py --rows 1444 --model minilm-l6 --workers 1,2 --rounds 3
    python benchmarks/bench_jobs.py --rows 2888 --model minilm-l6 --engines ray --nodes 1,2,4 --rows-per-part 64

Each round runs every setting once, one after the other, each in a process of its own; printed are medians. Rates are
taken from the times at which parts were finished: from the first to the last, so without what a start costs, and for
the first and the last tenth of them, which differ where rows slow down what comes after them. Nodes are Ray nodes of
one processor each, on the loopback of this machine: they share its cores, so that more of them than cores cannot be
faster; what they show is whether a row costs more CPU as nodes are added.

CPU and memory are those of the driver and of every process of the cluster together (Linux only). Memory is private
memory (RssAnon), at the first tenth of the parts, at the last and at its highest; the object store, which is shared
and bounded, is not in it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import NamedTuple

_RUN = "import sys; from embedsvc.jobs import load_job, run_job; run_job(load_job(sys.argv[1], settings=sys.argv[2:]))"
_TICKS = os.sysconf("SC_CLK_TCK")


def texts(folder: Path, rows: int) -> str:
    """So many rows, made of the example texts, each different."""
    import csv

    with open(Path(__file__).parents[1] / "examples" / "texts.csv", encoding="utf-8") as file:
        samples = [" ".join(row["text"].split()) for row in csv.DictReader(file)]
    path = folder / f"{rows}.txt"
    with path.open("w", encoding="utf-8") as out:
        for row in range(rows):
            out.write(f"{samples[row % len(samples)]} {row}\n")
    return str(path)


class Sample(NamedTuple):
    """What some processes and all their descendants use at one moment."""

    time: float
    cpu: float  # seconds since the start, of those that ended as well
    megabytes: float
    driver_megabytes: float


@contextmanager
def watched(driver: int, others: Collection[int], seconds: float = 0.5) -> Iterator[list[Sample]]:
    """Samples of a driver and other processes, taken until the end of the block."""
    from tests.jobs.ray_cluster import family

    samples: list[Sample] = []
    cpu: dict[tuple[int, str], float] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(seconds):
            memory = {}
            for pid in {member for root in (driver, *others) for member in family(root)}:
                with suppress(OSError, ValueError, IndexError):
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    cpu[pid, fields[19]] = (int(fields[11]) + int(fields[12])) / _TICKS
                    status = Path(f"/proc/{pid}/status").read_text()
                    memory[pid] = int(status.partition("RssAnon:")[2].split()[0]) / 1024
            samples.append(Sample(time.time(), sum(cpu.values()), sum(memory.values()), memory.get(driver, 0.0)))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def use(samples: list[Sample], times: list[float], rows_per_part: int) -> dict[str, float]:
    """CPU of a row, and memory, from the first finished part to the last."""
    during = [sample for sample in samples if times[0] <= sample.time <= times[-1]]
    if len(during) < 2:
        return dict.fromkeys(("cpu", "early", "late", "highest", "driver"), float("nan"))
    tenth = max(1, len(during) // 10)
    share = (during[-1].time - during[0].time) / (times[-1] - times[0])
    return {
        # Microseconds a row.
        "cpu": (during[-1].cpu - during[0].cpu) / share / ((len(times) - 1) * rows_per_part) * 1e6,
        "early": statistics.median(sample.megabytes for sample in during[tenth : 2 * tenth] or during),
        "late": statistics.median(sample.megabytes for sample in during[-tenth:]),
        "highest": max(sample.megabytes for sample in during),
        "driver": max(sample.driver_megabytes for sample in samples),
    }


def rates(times: list[float], rows_per_part: int) -> dict[str, float]:
    """Rows/s from the first finished part to the last, and over the first and last tenth of them."""
    tenth = max(1, len(times) // 10)

    def rate(part: list[float]) -> float:
        return (len(part) - 1) * rows_per_part / max(part[-1] - part[0], 1e-9) if len(part) > 1 else float("nan")

    return {"rate": rate(times), "first": rate(times[: tenth + 1]), "last": rate(times[-tenth - 1 :])}


def measure(
    folder: Path, source: str, arguments: argparse.Namespace, engine: str, workers: int, nodes: int
) -> dict[str, float]:
    """One job in a process of its own and an empty folder."""
    (folder / "job.toml").write_text(
        f'[extract]\nsources = ["{source}"]\nmodel = "{arguments.model}"\nmodes = ["inference"]\n'
        f"rows-per-part = {arguments.rows_per_part}\n"
    )
    with ExitStack() as stack:
        out = stack.enter_context(tempfile.TemporaryDirectory(dir=folder))
        environment = os.environ | {"EMBEDSVC_STATE": str(folder / "state")}
        nodes_pids: list[int] = []
        settings = [f"out={out}", f"engine={engine}", f"workers={nodes or workers}"]
        if nodes:
            from tests.jobs.ray_cluster import cluster

            started = stack.enter_context(cluster(*(f"node-{number}" for number in range(nodes))))
            environment |= started.environment
            settings += [f"address={started.address}"]
            nodes_pids = [process.pid for process in started.nodes.values()]
        command = [sys.executable, "-c", _RUN, str(folder / "job.toml"), *settings]
        began = time.perf_counter()
        driver = subprocess.Popen(command, env=environment)
        with watched(driver.pid, nodes_pids) as samples:
            if driver.wait():
                sys.exit(f"the job ended with {driver.returncode}")
        seconds = time.perf_counter() - began
        times = sorted(part.stat().st_mtime for part in Path(out).glob("extract/part-*"))
    return rates(times, arguments.rows_per_part) | use(samples, times, arguments.rows_per_part) | {"seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="20000,200000")
    parser.add_argument("--model", default="fake:64")
    parser.add_argument("--engines", default="local")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--nodes", default="0", help="of a Ray cluster, one actor on each; 0 starts none")
    parser.add_argument("--rows-per-part", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()

    def numbers(words: str) -> list[int]:
        return [int(word) for word in words.split(",")]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = list(
            product(
                numbers(arguments.rows),
                arguments.engines.split(","),
                numbers(arguments.workers),
                numbers(arguments.nodes),
            )
        )
        sources = {rows: texts(folder, rows) for rows, *_ in settings}
        found: dict[tuple[int, str, int, int], list[dict[str, float]]] = {setting: [] for setting in settings}
        for _ in range(arguments.rounds):
            for setting in settings:
                found[setting].append(measure(folder, sources[setting[0]], arguments, *setting[1:]))
        print(
            "| rows | engine | workers | nodes | rows/s | first tenth | last tenth | CPU of a row | "
            "memory in the first tenth | in the last | highest | the driver's alone | seconds in all |"
        )
        print("| --- " * 13 + "|")
        for (rows, engine, workers, nodes), results in found.items():
            middle = {name: statistics.median(result[name] for result in results) for name in results[0]}
            speeds = " | ".join(f"{middle[name]:,.0f}" for name in ("rate", "first", "last"))
            memory = " | ".join(f"{middle[name]:,.0f} MB" for name in ("early", "late", "highest", "driver"))
            print(
                f"| {rows:,} | {engine} | {nodes or workers} | {nodes or ''} | {speeds} | {middle['cpu']:,.0f} µs | "
                f"{memory} | {middle['seconds']:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
