"""How fast rows go through a topic into a table, how fast they are asked, and what waits does to memory.

1. Search trees on the embedded broker, sunk by the real sink into `trees` and `nodes`; rows are nodes. The ceiling is
   pyarrow writing the same Parquet files (both tables, same codec) from memory.
2. `factory sql` with a group-by over all nodes, and `factory ledger`: the whole command, and the work alone in a
   process that has begun (`_work`), as a shell or a page has it.
3. A long queue of problems before one slow searcher (the real stage, its engine takes a second an answer): the
   resident size of every process in the last fifth of the time over that in the first.

    .venv/bin/python -m benchmarks.stream [--rows 1000000] [--queue 20000] [--seconds 120]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from benchmarks import report
from deploy.broker import EmbeddedBroker
from processors import kafka
from processors.dataset import Datasets
from schemas.load import load
from schemas.settings import Settings

QUERY = "select policy_version, depth, terminal, count(*), avg(q), sum(visits) from nodes group by all order by all"
READY_S = 600.0
GRACE_S = 60.0


@contextmanager
def factory(*flags: str) -> Iterator[tuple[Settings, Path, EmbeddedBroker]]:
    """A data directory with a broker and empty tables; its settings, also as a file."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load(environment={}, flags=[f"factory.data={folder}", *flags])
        Datasets(Path(folder) / "datasets").create()
        path = Path(folder) / "settings.json"
        path.write_bytes(msgspec.json.encode(settings))
        with EmbeddedBroker(settings) as broker:
            kafka.create_topics(settings)
            yield settings, path, broker


def side(part: str, path: Path, *more: str) -> dict[str, float]:
    """What benchmarks/stream_side.py finds in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.stream_side", part, str(path), *more]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def command(*words: str) -> tuple[float, float]:
    """Seconds and largest resident size (MB) of a `factory` command."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "deploy.cli", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def through(rows: int) -> tuple[dict[str, float], list[str]]:
    """Rows into tables, and out again by SQL; values, and what they are of."""
    with factory() as (settings, path, broker):
        nodes = int(side("publish", path, str(rows))["nodes"])
        sunk = side("sink", path)
        bare = side("ceiling", path)
        if bare["nodes_rows"] != nodes:
            raise AssertionError(f"{nodes} nodes were sent, and {bare['nodes_rows']:.0f} are in the table")
        sql_s, sql_mb = command("sql", QUERY, "--data", settings.factory.data)
        ledger_s, ledger_mb = command("ledger", "--data", settings.factory.data)
        asked, books = side("sql", path, QUERY), side("ledger", path)
        values = {
            "sink_rows_per_s": nodes / sunk["s"],
            "ceiling_rows_per_s": nodes / bare["s"],
            "sink_cpu_us_per_row": sunk["cpu_s"] / nodes * 1e6,
            "ceiling_cpu_us_per_row": bare["cpu_s"] / nodes * 1e6,
            "sink_rss_mb": sunk["rss_mb"],
            "broker_rss_mb": broker.rss_mb(),
            "sql_s": sql_s,
            "sql_rss_mb": sql_mb,
            "sql_work_s": asked["s"],
            "ledger_s": ledger_s,
            "ledger_rss_mb": ledger_mb,
            "ledger_work_s": books["s"],
        }
        notes = [f"{nodes:,} node rows in {bare['trees_rows']:,.0f} trees; both tables are written on both sides"]
    return values, notes


def waiting(queue: int, seconds: float) -> tuple[dict[str, float], list[str]]:
    """The resident size (MB) of every process at the beginning and the end of a time with a full queue."""
    flags = (f"problems.ahead={queue}", "engine.max_model_len=512", "search.trees_in_flight=4")
    with factory(*flags) as (settings, path, broker):
        stages = {
            "producer": ["deploy.cli", "produce", "--settings", str(path)],
            "sink": ["deploy.cli", "sink", "--settings", str(path)],
            "searcher": ["benchmarks.stream_side", "searcher", str(path)],
        }
        started = {name: subprocess.Popen([sys.executable, "-m", *words]) for name, words in stages.items()}
        try:
            fill(settings, queue)
            assert broker.process
            pids = {"broker": broker.process.pid} | {name: process.pid for name, process in started.items()}
            sizes = watch(pids, seconds)
            lag = kafka.lag(settings, "search", "problems")
        finally:
            for process in started.values():
                process.send_signal(signal.SIGTERM)
            for process in started.values():
                process.wait(GRACE_S)
    fifth = max(1, min(map(len, sizes.values())) // 5)
    ends = {name: (sum(found[:fifth]) / fifth, sum(found[-fifth:]) / fifth) for name, found in sizes.items()}
    values = {f"waiting_{name}_rss_mb": last for name, (_, last) in ends.items()}
    values |= {f"waiting_{name}_grown_mb": last - first for name, (first, last) in ends.items()}
    return values, [f"{lag:,} problems waited at the end of {seconds:g} s"]


def fill(settings: Settings, queue: int) -> None:
    """Wait until the queue is full and the searcher works."""
    deadline = time.monotonic() + READY_S
    while kafka.lag(settings, "search", "problems") < queue * 0.99 or not kafka.committed(settings, "search"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{queue} problems did not come to wait within {READY_S:g} s")
        time.sleep(1.0)


def watch(pids: dict[str, int], seconds: float) -> dict[str, list[float]]:
    """The resident size (MB) of each process, every second or so."""
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    sizes: dict[str, list[float]] = {name: [] for name in pids}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name, process in processes.items():
            sizes[name].append(process.memory_info().rss / 2**20)
        time.sleep(min(1.0, seconds / 20))
    return sizes


def main() -> None:
    """Measure and write benchmarks/results/stream.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="Node rows.")
    parser.add_argument("--queue", type=int, default=20_000, help="Problems that wait; 0 = leave this part out.")
    parser.add_argument("--seconds", type=float, default=120.0, help="How long memory is watched.")
    parser.add_argument("--runs", type=int, default=1, help="Of the first two parts.")
    told = parser.parse_args()
    runs: list[dict[str, float]] = []
    notes: list[str] = []
    for _ in range(told.runs):
        values, notes = through(told.rows)
        runs.append(values)
    measured: dict[str, Any] = {name: [run[name] for run in runs] for name in runs[0]}
    if told.queue:
        sizes, more = waiting(told.queue, told.seconds)
        measured |= {name: [size] for name, size in sizes.items()}
        notes += more
    report.write("stream", told.runs, measured, ratios(measured), notes)
    for name, samples in measured.items():
        print(f"{name:32} {sum(samples) / len(samples):12.2f}")


def ratios(measured: dict[str, list[float]]) -> dict[str, float]:
    """The sink against the ceiling; times against what was asked; memory at the end over that at the beginning."""
    mean = {name: sum(samples) / len(samples) for name, samples in measured.items()}
    found = {
        "sink_over_ceiling_rows": mean["sink_rows_per_s"] / mean["ceiling_rows_per_s"],
        "sql_command_s": mean["sql_s"],
        "sql_work_s": mean["sql_work_s"],
        "ledger_command_s": mean["ledger_s"],
    }
    for name, size in mean.items():
        if name.startswith("waiting_") and name.endswith("_grown_mb"):
            last = mean[name.replace("_grown_", "_rss_")]
            found[name.replace("_grown_mb", "_end_over_start")] = last / (last - size)
    return found


if __name__ == "__main__":
    main()
