"""The user's commands, as a user types them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processors.dataset import Datasets, NoDatasets

QUICK = {
    "sft.min_examples": 24,
    "sft.publish_steps": 6,
    "sft.hand_over_steps": 12,
    "rl.groups": 4,
    "rl.publish_steps": 1,
    "evaluate.problems": 16,
    "sink.flush_s": 2,
}
TABLES = (
    "problems", "trees", "nodes", "traces", "examples", "prompts", "rollouts", "rewards", "weights", "evaluations",
)  # fmt: skip
FACTORY = [sys.executable, "-m", "deploy.cli"]
CLUSTER = os.environ.get("KAFKA_BOOTSTRAP", "")
"""HOST:PORT of a cluster to use instead of the embedded broker."""


def flags(data: Path, **changes: Any) -> list[str]:
    """The options of `factory up` with small settings; sink__flush_s=1 changes one."""
    wanted = QUICK | {name.replace("__", "."): value for name, value in changes.items()}
    cluster = ["--broker", CLUSTER] if CLUSTER else []
    return ["--data", str(data), *cluster, *(part for name, v in wanted.items() for part in ("--set", f"{name}={v}"))]


def ask(data: Path, *arguments: str) -> Any:
    """What a reading command answers."""
    command = [*FACTORY, *arguments, "--data", str(data), "--json"]
    environment = {**os.environ, "FACTORY_BROKER_BOOTSTRAP": CLUSTER}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def look(data: Path, query: str) -> tuple[Any, ...]:
    """The first line of an answer, asked often: without a command that would take a core from the factory."""
    try:
        with Datasets(data / "datasets").connect() as connection:
            return next(iter(connection.execute(query).fetchall()), ())
    except NoDatasets:
        return ()


def counts(data: Path, *tables: str) -> dict[str, int]:
    """Rows of the tables."""
    query = "select " + ", ".join(f"(select count(*) from {table}) as {table}" for table in tables or TABLES)
    return dict(ask(data, "sql", query)[0])


def twice(data: Path) -> dict[str, int]:
    """For each table that holds a key more than once: how many rows too many."""
    keys = {"nodes": "tree_id || ':' || id", "weights": "version"}
    queries = (
        f"select '{table}' as name, count(*) - count(distinct {keys.get(table, 'id')}) as more from {table}"
        for table in TABLES
    )
    return {row["name"]: row["more"] for row in ask(data, "sql", " union all ".join(queries)) if row["more"]}


def goes_round(data: Path) -> bool:
    """Whether two SFT and two RL versions were published and every version has its evaluation."""
    query = (
        "select count(*) filter (trainer = 'sft') as sft, count(*) filter (trainer = 'rl') as rl, "
        "(select max(version) from evaluations) as evaluated from weights"
    )
    sft, rl, evaluated = look(data, query) or (0, 0, 0)
    return bool(sft >= 2 and rl >= 2 and (evaluated or 0) >= 4)


def until(true: Callable[[], bool], seconds: float, child: "subprocess.Popen[bytes]", what: str) -> None:
    """Wait for something to come about while a factory runs."""
    deadline = time.monotonic() + seconds
    while not true():
        assert child.poll() is None, f"the factory ended while waiting for {what}"
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(1.0)
