"""The cells that need no engine: a short run of the real command in which each process dies at each of its moments."""

from pathlib import Path

from crashing import PATIENCE_S, Crashing, holds, problems, running
from prepared import for_words

TREES, GROUPS, PROBLEMS = 150, 40, 90
POINTS = (
    "produce:working 1",
    "produce:output 1",
    "linearize:working 15",
    "linearize:output 40",
    "verify:working 60",
    "verify:output 90",
    "sink:working 3",
    "sink:output 8",
)
OURS = "source <> 'test'"
"""The problems that were not prepared."""
OPTIONS = (
    'factory.stages=["produce", "linearize", "verify", "sink"]',
    "factory.restart_limit=1000",
    "sink.flush_s=0.3",
    "broker.session_timeout_ms=3000",
    "evaluate.problems=2",
    "topics.default_partitions=2",
)
ANSWERS = (("trees", "traces", "tree_id"), ("traces", "examples", "id"), ("rollouts", "rewards", "id"))


def prepared(folder: Path, trees: int, groups: int, *options: str) -> Crashing:
    """A factory with work, whose own problems count, too."""
    count = PROBLEMS + trees + groups
    factory = Crashing(folder, *OPTIONS, f"problems.limit={count}", f"problems.ahead={count}", *options)
    for_words(factory.datasets, trees, groups)
    return factory


def done(factory: Crashing) -> bool:
    """Whether every input has an answer in the tables."""
    unanswered = [
        factory.count(table, f"id NOT IN (SELECT {key} FROM {answers}) AND id NOT IN (SELECT input_id FROM filtered)")
        for table, answers, key in ANSWERS
    ]
    return factory.count("problems", OURS) == PROBLEMS and not any(unanswered)


def test_every_process_without_an_engine_dies_at_each_of_its_moments(tmp_path: Path) -> None:
    factory = prepared(tmp_path, TREES, GROUPS)
    with running(factory, 15, POINTS):
        factory.until_fired([point.split()[0] for point in POINTS], PATIENCE_S)
        factory.until(lambda: done(factory), PATIENCE_S, "answers to everything")
        factory.stop()
    holds(factory)
    assert {sha for (sha,) in factory.rows(f"SELECT _sha FROM problems WHERE {OURS}")} == problems(
        factory.settings, PROBLEMS
    )
