"""The cells of `make crash` that need the engine, the trainers or the death of the broker, all of them the real ones.

`make crash` runs this file, test_killed_words.py (as `make test` does) and faults.py. What dies by itself is armed
before the start; what needs something to be there first (a broker's process id) when it is there. Each kill is printed
when it is seen.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import test_killed_trainers as trainers
import test_killed_words as words
from cells import CELLS, listed
from crashing import PATIENCE_S, Crashing, holds, kill_at_a_torn_table, problems, running
from prepared import for_trainers

PROBLEMS = 40
ENGINE = (
    'factory.stages=["produce", "prompts", "search", "sample", "evaluate", "linearize", "verify", "sink"]',
    "factory.restart_limit=1000",
    f"problems.limit={PROBLEMS}",
    "prompts.start=weights",
    "evaluate.problems=8",
    "sink.flush_s=1",
)
POINTS = (
    "base:announcement 1",
    "engine:announcement 1",
    "search:working 2",
    "search:output 6",
    "prompts:working 1",
    "prompts:output 1",
    "sample:working 1",
    "sample:output 2",
    "evaluate:working 1",
    "evaluate:output 1",
)

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module", autouse=True)
def matrix() -> None:
    print(f"\n{listed()}\n", flush=True)


def kill_broker(factory: Crashing, moment: str, nth: int = 1) -> None:
    """Kill the embedded broker while another process is at a point, and wait until there is another."""
    (point,) = CELLS["broker", moment]
    pid = factory.until(lambda: factory.broker()["pid"], PATIENCE_S, "a broker")
    before = len(factory.fired())
    factory.arm(point, nth, pid)
    factory.until(lambda: len(factory.fired()) > before, PATIENCE_S, f"broker x {moment} at {point}")
    print(f"killed the broker at {point} (broker x {moment})", flush=True)
    factory.until(lambda: factory.broker()["pid"] not in {0, pid}, PATIENCE_S, "another broker")


def trees(factory: Crashing) -> dict[str, dict[str, Any]]:
    """Each visible tree by its id, without the seconds that it took."""
    found = {}
    for row in factory.datasets.rows("trees"):
        body = {name: value for name, value in row.items() if name != "seconds" and not name.startswith("_")}
        found[row["id"]] = json.loads(json.dumps(body, default=str))
    return found


def told(factory: Crashing) -> Counter[tuple[Any, ...]]:
    """What the examples of the visible trees say; their ids cover the tree's seconds."""
    query = (
        "SELECT e.tree_id, e.arm, e.text FROM examples e JOIN traces t USING (id) JOIN trees r ON r.id = t.tree_id "
        "WHERE t.tree_sha = r._sha"
    )
    return Counter(factory.rows(query))


def searched(folder: Path, points: tuple[str, ...]) -> Crashing:
    """All problems searched, their trees put into words, and version 0 evaluated."""
    factory = Crashing(folder, *ENGINE)
    with running(factory, 60, points):
        factory.until_fired([point.split()[0] for point in points], PATIENCE_S)
        if points:
            kill_broker(factory, "working")
        factory.until(lambda: factory.count("trees") == PROBLEMS, PATIENCE_S, "the last trees")
        factory.until(lambda: factory.count("evaluations", "source = 'all'"), PATIENCE_S, "an evaluation")
        factory.stop()
    holds(factory)
    assert {sha for (sha,) in factory.rows("SELECT _sha FROM problems")} == problems(factory.settings, PROBLEMS)
    return factory


def test_processes_that_share_an_engine_and_the_broker_under_them(tmp_path: Path) -> None:
    disturbed = searched(tmp_path / "disturbed", POINTS)
    plain = searched(tmp_path / "plain", ())
    assert trees(disturbed) == trees(plain)
    assert told(disturbed) == told(plain)


def test_the_broker_dies_under_stages_and_sink(tmp_path: Path) -> None:
    factory = words.prepared(tmp_path, 1000, words.GROUPS)
    with running(factory, 60):
        kill_broker(factory, "output", 40)
        kill_broker(factory, "table commit", 8)
        kill_at_a_torn_table(factory, PATIENCE_S)
        print("killed the sink at a Parquet file that no log names", flush=True)
        factory.until(lambda: words.done(factory), PATIENCE_S, "answers to everything")
        factory.stop()
    holds(factory)


def test_trainers_that_die_at_each_of_their_moments_give_the_curve_of_an_undisturbed_run(tmp_path: Path) -> None:
    killed, plain = trainers.run(tmp_path / "killed", trainers.POINTS), trainers.run(tmp_path / "plain", ())
    assert trainers.steps(killed) == trainers.steps(plain)
    assert trainers.shas(killed) == trainers.shas(plain)


def test_the_broker_dies_under_trainers(tmp_path: Path) -> None:
    factory = Crashing(tmp_path, *trainers.OPTIONS)
    for_trainers(factory.datasets, factory.settings, trainers.TREES, trainers.GROUPS, trainers.HANDED_OVER)
    with running(factory, 60):
        kill_broker(factory, "checkpoint")
        kill_broker(factory, "announcement")
        factory.until(lambda: trainers.done(factory), PATIENCE_S, "every group's fate")
        factory.stop()
    trainers.check(factory)
