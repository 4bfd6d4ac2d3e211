"""A `factory up` in which processes die at named points, and what must hold when it has ended all the same."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from commands import FACTORY, ask, twice

from processors import linearizer, verifier
from processors.dataset import Datasets, NoDatasets
from processors.grading import Grader
from processors.status import read_all
from producers.problems import interleave
from producers.sources.held_out import Reserved
from producers.sources.opening import open_all
from schemas import messages as m
from schemas.codec import content_sha, encode
from schemas.killpoints import FIRED, VARIABLE, check
from schemas.load import load
from schemas.settings import Settings
from schemas.tables import from_row

STOP_S = 240
PATIENCE_S = float(os.environ.get("CRASH_PATIENCE_S", "300"))
"""For the next thing to come about; a machine that is busy with other work needs more."""


class Crashing:
    """A running `factory up` and the folder of its kill points.

    Args:
        folder: empty; gets data/, points/ and up.log.
        options: settings, as section.key=value.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.data, self.points, self.log = folder / "data", folder / "points", folder / "up.log"
        self.points.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.settings = load(environment={}, flags=[f"factory.data={self.data}", *options])
        self.datasets = Datasets(self.data / "datasets")
        self.child: subprocess.Popen[bytes] | None = None
        self.began = time.monotonic()

    def arm(self, point: str, nth: int = 1, pid: int | None = None) -> None:
        """Let the nth passage of a point from now on kill the passing process, or another."""
        check([point])
        (self.points / f"{point}.passed").unlink(missing_ok=True)
        draft = self.points.with_name(f"{point}.draft")
        draft.write_text(f"{nth} {pid or ''}")
        draft.replace(self.points / point)

    def fired(self) -> list[str]:
        """The points that killed, in order."""
        with contextlib.suppress(FileNotFoundError):
            return [line.split()[0] for line in (self.points / FIRED).read_text().splitlines()]
        return []

    def start(self, minutes: float) -> None:
        """Start it; it ends by itself after so many minutes, whatever becomes of the test."""
        flags = [part for option in self.options for part in ("--set", option)]
        environment = {**os.environ, VARIABLE: str(self.points)}
        with self.log.open("ab") as out:
            command = [*FACTORY, "up", "--data", str(self.data), *flags, "--for", f"{int(minutes * 60)}s"]
            self.child = subprocess.Popen(command, stdout=out, stderr=out, env=environment)

    def until(self, true: Callable[[], Any], seconds: float, what: str) -> Any:
        """Wait for something to come about while it runs; the log's end says why where it does not."""
        deadline = time.monotonic() + seconds
        while not (found := true()):
            assert self.child is not None
            assert self.child.poll() is None, f"the factory ended while waiting for {what}:\n{self.tail()}"
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}; fired {self.fired()}\n{self.tail()}"
            time.sleep(0.5)
        return found

    def until_fired(self, points: Iterable[str], seconds: float) -> None:
        """Wait for every point to have killed, at most so long for the next one; each is told of when it is seen."""
        told: list[str] = []
        while missing := sorted(set(points) - set(told)):
            fresh = self.until(lambda: self.fired()[len(told) :], seconds, f"one of {missing}")
            for point in fresh:
                told.append(point)
                print(f"[{time.monotonic() - self.began:6.0f} s] killed at {point}", flush=True)

    def tail(self) -> str:
        """The last words of every process."""
        logs = [self.log, *sorted((self.data / "logs").glob("*.log"))]
        return "\n".join(f"--- {log.name}\n{log.read_text('utf-8', 'replace')[-600:]}" for log in logs if log.exists())

    def stop(self) -> str:
        """Ctrl-C: it must end well. Returns all that it printed."""
        assert self.child is not None
        self.child.send_signal(signal.SIGINT)
        assert self.child.wait(STOP_S) == 0, self.tail()
        return self.log.read_text("utf-8")

    def close(self) -> None:
        """Whatever happened, leave nothing running."""
        if self.child is not None and self.child.poll() is None:
            pids = [status["pid"] for status in read_all(self.data)] + [self.broker()["pid"]]
            self.child.kill()
            for pid in filter(None, pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def broker(self) -> dict[str, Any]:
        """The embedded broker's announcement; pid 0 where there is none."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.data / "broker.json").read_bytes())
        return {"pid": 0}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query over the tables gives; nothing while there are none."""
        with contextlib.suppress(NoDatasets), self.datasets.connect() as connection:
            return connection.execute(query).fetchall()
        return []

    def count(self, table: str, where: str = "true") -> int:
        """Rows of a table."""
        found = self.rows(f'SELECT count(*) FROM "{table}" WHERE {where}')
        return found[0][0] if found else 0


@contextlib.contextmanager
def running(factory: Crashing, minutes: float, points: tuple[str, ...] = ()) -> Iterator[Crashing]:
    """It runs for as long as the block lasts; points as 'name nth', armed before it starts."""
    for point in points:
        name, _, nth = point.partition(" ")
        factory.arm(name, int(nth or 1))
    factory.start(minutes)
    try:
        yield factory
    finally:
        factory.close()


def holds(factory: Crashing) -> None:
    """What must be true of the tables of a factory that has stopped, whatever died before.

    The ledger closes, no id is there twice, and the deterministic stages made of their inputs (those that they are
    done with) just what their pure functions make of them in one undisturbed go.
    """
    named = factory.settings.broker.bootstrap
    ledger = ask(factory.data, "ledger", *(["--broker", named] if named else []))
    assert ledger["closes"] is True, ledger
    assert twice(factory.data) == {}
    differences = asyncio.run(other_than_undisturbed(factory))
    assert differences == {}, differences


async def other_than_undisturbed(factory: Crashing) -> dict[str, list[str]]:
    """By stage, up to ten outputs that an undisturbed run has not, and inputs whose outputs are not all there."""
    settings, wrong = factory.settings, {}
    grader = Grader(settings)
    try:
        for stage, table, make in (
            ("linearize", "trees", lambda tree, sha: as_list(linearizer.traces(tree, sha, settings))),
            ("verify", "traces", lambda trace, sha: judged(trace, sha, grader, settings)),
            ("verify", "rollouts", lambda group, sha: paid(group, sha, grader)),
        ):
            wrong[f"{stage} {table}"] = [key async for key in _wrong(factory, stage, table, make)][:10]
    finally:
        grader.close()
    return {name: keys for name, keys in wrong.items() if keys}


async def as_list(messages: list[m.Message]) -> list[m.Message]:
    """As the others come: awaited."""
    return messages


async def judged(trace: m.Trace, sha: str, grader: Grader, settings: Settings) -> list[m.Message]:
    """What verify makes of a trace."""
    return [await verifier.judge(trace, sha, grader, settings.verify)]


async def paid(group: m.RolloutGroup, sha: str, grader: Grader) -> list[m.Message]:
    """What verify makes of a group."""
    return [verifier.refused(group) if verifier.is_aborted(group) else await verifier.rewarded(group, sha, grader)]


async def _wrong(factory: Crashing, stage: str, table: str, make: Callable[..., Any]) -> Any:
    """The ids of the inputs of which the tables hold part of the outputs only, or others than there should be."""
    kind = {"trees": m.Tree, "traces": m.Trace, "rollouts": m.RolloutGroup}[table]
    answers = {"trees": ("traces", "tree_id"), "traces": ("examples", "id"), "rollouts": ("rewards", "id")}[table]
    there: dict[str, set[str]] = {}
    query = (
        f"SELECT {answers[1]}, _sha FROM {answers[0]} "
        f"WHERE id NOT IN (SELECT id FROM superseded WHERE \"table\" = '{answers[0]}') UNION ALL "
        f"SELECT input_id, _sha FROM filtered WHERE stage = '{stage}' AND input_topic = '{table}'"
    )
    for key, sha in factory.rows(query):
        there.setdefault(key, set()).add(sha)
    buried = {key for (key,) in factory.rows(f"SELECT input_id FROM dead_letters WHERE stage = '{stage}'")}
    for row in factory.datasets.rows(table):
        message = from_row(row, kind)
        made = {content_sha(encode(one)) for one in await make(message, row["_sha"])}
        got = there.pop(message.id, set())
        if message.id not in buried and got and got != made:
            yield f"{message.id}: {len(got & made)} of {len(made)}, {len(got - made)} others"
    for key in there:
        yield f"{key}: an answer to nothing"


def problems(settings: Settings, count: int) -> set[str]:
    """The content shas of the first problems that an undisturbed producer sends."""
    reserved, found = Reserved(settings), set[str]()
    for item in interleave(open_all(settings), {}):
        if item.problem is not None and not item.held_out and not reserved.why(item.problem):
            found.add(content_sha(encode(item.problem)))
        if len(found) == count:
            break
    return found


class Killer:
    """Kills at random, as its seed says.

    Args:
        factory: running.
        seed: of the choice of moments and victims.
        between: seconds between two kills, from and to.
    """

    STAGES = ("produce", "search", "linearize", "sink", "sft", "rl", "prompts", "broker")
    """search: the process that samples and evaluates, too, where the engine is shared; linearize: and verifies."""

    def __init__(self, factory: Crashing, seed: int, between: tuple[float, float]) -> None:
        self.factory, self.random, self.between = factory, random.Random(seed), between
        self.killed: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """Kill for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(self.random.uniform(*self.between), left))
            stage = self.random.choice(self.STAGES)
            assert self.factory.child is not None
            assert self.factory.child.poll() is None, f"the factory ended\n{self.factory.tail()}"
            pid = self._pid(stage)
            with contextlib.suppress(ProcessLookupError):
                if pid:
                    os.kill(pid, signal.SIGKILL)
                    self.killed[stage] += 1
            print(f"{left:7.1f} s left: {stage} {f'killed ({pid})' if pid else 'was not there'}", flush=True)

    def _pid(self, stage: str) -> int:
        if stage == "broker":
            return int(self.factory.broker()["pid"])
        return next((status["pid"] for status in read_all(self.factory.data) if status["stage"] == stage), 0)


def kill_at_a_torn_table(factory: Crashing, seconds: float) -> None:
    """SIGKILL the sink when a table has a new Parquet file that its log does not name yet; again until it was so."""
    logs = factory.data / "datasets"

    def unnamed() -> set[Path]:
        return {path for path in logs.glob("*/*.parquet") if path.name not in named(path.parent)}

    def torn() -> bool:
        before = set(logs.glob("*/*.parquet"))
        pid = next((one["pid"] for one in read_all(factory.data) if one["stage"] == "sink"), 0)
        deadline = time.monotonic() + 5
        while pid and time.monotonic() < deadline:
            if set(logs.glob("*/*.parquet")) - before:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.2)
                return bool(unnamed() - before)
        return False

    factory.until(torn, seconds, "a Parquet file that no log names")


def named(table: Path) -> str:
    """The text of a table's log: every file that it names stands there (checkpoints are of files named before)."""
    return "".join(path.read_text("utf-8") for path in (table / "_delta_log").glob("*.json"))
