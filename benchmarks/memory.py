"""Whether the main job's memory stays flat: `factory up` for an hour, the resident size of each of its processes.

A process is compared with itself: the mean of the last fifth of its time over that of the second fifth (the first is
starting up). The broker keeps what it was sent and is recycled at its limit, so its size rises and falls.

    .venv/bin/python -m benchmarks.memory [--minutes 60]
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

from benchmarks import report
from processors import status

EVERY_S = 5.0
STOP_S = 300.0
ROWS = """
select (select count(*) from trees) as trees, (select count(*) from traces) as traces,
  (select count(*) from rollouts) as groups, (select count(*) from training) as steps
"""

Sizes = dict[str, list[float]]
"""Resident MB, every EVERY_S, by the stages of a process and its pid: 'linearize_verify_1234'."""


def watch(data: Path, minutes: float) -> Sizes:
    """Run `factory up` in `data` and watch it.

    Raises:
        RuntimeError: it ended by itself; with its last words.
    """
    command = [sys.executable, "-m", "deploy.cli", "up", "--data", str(data)]
    sizes: dict[int, list[float]] = defaultdict(list)
    stages: dict[int, set[str]] = defaultdict(set)
    with (data / "up.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as factory:
        try:
            until = time.monotonic() + 60 * minutes
            while time.monotonic() < until:
                time.sleep(EVERY_S)
                if factory.poll() is not None:
                    raise RuntimeError((data / "up.log").read_text("utf-8", "replace")[-2000:])
                for name, pid in processes(data):
                    stages[pid].add(name)
                for pid in stages:
                    if psutil.pid_exists(pid):
                        sizes[pid].append(psutil.Process(pid).memory_info().rss / 2**20)
        finally:
            factory.send_signal(signal.SIGINT)
            factory.wait(STOP_S)
    return {"_".join([*sorted(stages[pid]), str(pid)]): found for pid, found in sizes.items()}


def processes(data: Path) -> list[tuple[str, int]]:
    """Every stage with the pid of its process, the embedded broker among them."""
    found = [(str(row["stage"]), int(row["pid"])) for row in status.read_all(data, clean=False)]
    announced = data / "broker.json"
    return [*found, ("broker", json.loads(announced.read_bytes())["pid"])] if announced.exists() else found


def growth(sizes: list[float]) -> float:
    """The mean of the last fifth over that of the second."""
    fifth = max(1, len(sizes) // 5)
    begun, ended = sizes[fifth : 2 * fifth] or sizes, sizes[-fifth:]
    return (sum(ended) / len(ended)) / (sum(begun) / len(begun))


def main() -> None:
    """Measure and write benchmarks/results/memory.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder:
        sizes = watch(Path(folder), minutes)
        rows = subprocess.check_output([sys.executable, "-m", "deploy.cli", "sql", ROWS, "--json", "--data", folder])
    longest = max(map(len, sizes.values()))
    values, ratios = {}, {}
    notes = [f"{minutes:g} minutes of `factory up`; rows at the end: {rows.decode().strip()}"]
    for process, found in sorted(sizes.items()):
        name = process.rpartition("_")[0]
        if len(found) < longest * 0.9:
            notes.append(f"{name}: one lived for {len(found) * EVERY_S / 60:.0f} minutes, {max(found):.0f} MB at most")
            continue
        values[f"{name}_mb"] = found
        ratios[f"{name}_last_over_second_fifth"] = growth(found)
    report.write("memory", 1, values, ratios, notes)


if __name__ == "__main__":
    main()
