"""The one form of a benchmark's result, so that docs/benchmarks.md is made from files and never typed.

A result says which commit and machine it was measured on, every value as mean, lowest and highest of its runs, and the
ratios between values of the same run: on a shared machine only those can be compared with another day's.
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Mean, lowest and highest of the runs' values."""
    return {"mean": sum(samples) / len(samples), "min": min(samples), "max": max(samples)}


def write(
    name: str, runs: int, values: Mapping[str, Sequence[float]], ratios: Mapping[str, float], notes: Sequence[str] = ()
) -> Path:
    """Write benchmarks/results/NAME.json, print its ratios, and give the file's path.

    Args:
        name: of the benchmark and its file.
        runs: how often every value was measured.
        values: by name with its unit ('ours_tokens_per_s'), one number a run.
        ratios: by name, numerator first ('ours_over_ceiling_tokens').
        notes: settings and findings that the numbers need to be understood.
    """
    result = {
        "name": name,
        "commit": commit(),
        "machine": machine(),
        "runs": runs,
        "values": {key: spread(samples) for key, samples in values.items()},
        "ratios": dict(ratios),
        "notes": list(notes),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    for key, ratio in ratios.items():
        print(f"{name}: {key} = {ratio:.2f}")
    return path


def commit() -> str:
    """The commit that was measured, with '+' where the tree held changes."""
    here = Path(__file__).parent
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--", "..", ":!results"], cwd=here, capture_output=True, text=True, check=False
    )
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def machine() -> str:
    """Processor, cores and memory in words."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    total = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    gib = total / (1 << 20)
    return f"{model or platform.machine()}, {os.cpu_count()} cores, {gib:.0f} GiB, Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:  # not Linux
        return []
