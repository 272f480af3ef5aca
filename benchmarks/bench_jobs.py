"""What a job costs beside its encoder: rows/s by workers, engine and nodes, and whether memory grows with the rows.

    python benchmarks/bench_jobs.py --rows 20000,200000              # numpy encoder, in this process and on Ray
    python benchmarks/bench_jobs.py --rows 1444 --model minilm-l6 --workers 1,2 --rounds 3
    python benchmarks/bench_jobs.py --rows 2888 --model minilm-l6 --engines ray --nodes 1,2,4 --rows-per-part 64

Each round runs every setting once, one after the other, each in a process of its own; printed are medians. Rates are
taken from the times at which parts were finished: from the first to the last, so without what a start costs, and for
the first and the last tenth of them, which differ where rows slow down what comes after them. Nodes are Ray nodes of
one processor each, on the loopback of this machine: they share its cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import product
from pathlib import Path

_RUN = """
import json, resource, sys
from embedsvc.jobs import load_job, run_job
run_job(load_job(sys.argv[1], settings=sys.argv[2:]))
print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


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
        settings = [f"out={out}", f"engine={engine}", f"workers={nodes or workers}"]
        if nodes:
            from tests.jobs.ray_cluster import cluster

            started = stack.enter_context(cluster(*(f"node-{number}" for number in range(nodes))))
            environment |= started.environment
            settings += [f"address={started.address}"]
        command = [sys.executable, "-c", _RUN, str(folder / "job.toml"), *settings]
        began = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - began
        times = sorted(part.stat().st_mtime for part in Path(out).glob("extract/part-*"))
    return json.loads(done.stdout) | rates(times, arguments.rows_per_part) | {"seconds": seconds}


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
            "| rows | engine | workers | nodes | rows/s | first tenth | last tenth | seconds in all | driver's peak |"
        )
        print("| --- " * 9 + "|")
        for (rows, engine, workers, nodes), results in found.items():
            middle = {name: statistics.median(result[name] for result in results) for name in results[0]}
            speeds = " | ".join(f"{middle[name]:,.0f}" for name in ("rate", "first", "last", "seconds"))
            actors = f"{nodes or workers} | {nodes or ''}"
            print(f"| {rows:,} | {engine} | {actors} | {speeds} | {middle['peak']:,.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
