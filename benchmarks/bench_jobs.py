"""What a job costs beside its encoder: rows/s by workers and engine, and whether memory grows with the rows.

    python benchmarks/bench_jobs.py --rows 20000,200000              # numpy encoder, in this process and on Ray
    python benchmarks/bench_jobs.py --rows 1444 --model minilm-l6 --workers 1,2 --rounds 3

Each round runs every setting once, one after the other, each in a process of its own; printed are medians. The first
and last tenth of a run say whether the rate falls as rows grow; the log has a line every ten seconds, so look at them
for runs of minutes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_RUN = """
import json, resource, sys
from embedsvc.jobs import load_job, run_job
done = run_job(load_job(sys.argv[1], settings=sys.argv[2:]))
events = [json.loads(line) for line in done.log_path.read_text().splitlines()]
points = [(event["rows"] / event["rows_per_second"], event["rows"]) for event in events if event["event"] == "rows"]
(seconds, rows), whole = points[-1], [(0.0, 0), *points]
begin = next(point for point in points if point[1] >= rows / 10)
end = [point for point in whole if point[1] <= rows * 9 / 10][-1]
rates = {
    "rate": rows / seconds,
    "first": begin[1] / begin[0],
    "last": (rows - end[1]) / (seconds - end[0]),
}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(rates | {"peak": peak}))
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


def measure(folder: Path, source: str, model: str, engine: str, workers: int) -> dict[str, float]:
    """One job in a process of its own and an empty folder."""
    (folder / "job.toml").write_text(f'[extract]\nsources = ["{source}"]\nmodel = "{model}"\nmodes = ["inference"]\n')
    with tempfile.TemporaryDirectory(dir=folder) as out:
        settings = [f"out={out}", f"engine={engine}", f"workers={workers}"]
        environment = os.environ | {"EMBEDSVC_STATE": str(folder / "state")}
        command = [sys.executable, "-c", _RUN, str(folder / "job.toml"), *settings]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="20000,200000")
    parser.add_argument("--model", default="fake:64")
    parser.add_argument("--engines", default="local")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = [
            (int(rows), engine, int(workers))
            for rows in arguments.rows.split(",")
            for engine in arguments.engines.split(",")
            for workers in arguments.workers.split(",")
        ]
        sources = {rows: texts(folder, rows) for rows, _, _ in settings}
        found: dict[tuple[int, str, int], list[dict[str, float]]] = {setting: [] for setting in settings}
        for _ in range(arguments.rounds):
            for rows, engine, workers in settings:
                found[rows, engine, workers].append(measure(folder, sources[rows], arguments.model, engine, workers))
        print(f"{'rows':>10} engine workers   rows/s  in the first and last tenth  peak MB of the driver")
        for (rows, engine, workers), results in found.items():
            middle = {name: statistics.median(result[name] for result in results) for name in results[0]}
            tenths = f"{middle['first']:>8,.0f} {middle['last']:>8,.0f}"
            print(f"{rows:>10,} {engine:<6} {workers:>7} {middle['rate']:>8,.0f} {tenths:>28} {middle['peak']:>22,.0f}")


if __name__ == "__main__":
    main()
