"""SFT and RL as processes of the real command, killed at their moments: nothing is lost, no group is trained twice.

`make crash` kills them at every moment and compares the curve with an undisturbed run's (matrix.py).
"""

from collections import Counter
from pathlib import Path

import pytest
from crashing import PATIENCE_S, Crashing, holds, running
from prepared import for_trainers

MOMENTS = ("working", "output", "checkpoint", "saved", "announcement", "announced")
POINTS = (*(f"sft:{at}" for at in MOMENTS), *(f"rl:{at}" for at in MOMENTS), "rl:offsets")
"""The first passage of each: all of one publication, so the trainer dies between any two of its acts."""
SOME = ("sft:output", "sft:checkpoint", "sft:announcement", "rl:working", "rl:saved", "rl:announced")
TREES, GROUPS = 60, 24
HANDED_OVER, LAST = 2, 7
"""Versions: SFT's last, and the last that may train on what HANDED_OVER sampled."""
OPTIONS = (
    'factory.stages=["sft", "rl", "sink"]',
    "factory.restart_limit=1000",
    "sft.min_examples=16",
    "sft.batch_tokens=400",
    "sft.publish_steps=2",
    "sft.hand_over_steps=4",
    "rl.groups=2",
    "rl.publish_steps=1",
    "rl.max_lag=4",
    "sink.flush_s=0.5",
    "evaluate.problems=2",
)


def done(factory: Crashing) -> bool:
    """Whether every group was trained on or refused, and every version is a row."""
    accounted = "SELECT unnest(rows) FROM training WHERE trainer = 'rl' UNION ALL SELECT input_id FROM filtered"
    return factory.count("weights") == LAST + 1 and factory.count("rewards", f"id NOT IN ({accounted})") == 0


def steps(factory: Crashing) -> list[tuple[object, ...]]:
    """Every step of both trainers: what it trained on and what came of it."""
    query = "SELECT trainer, step, version, loss, grad_norm, rows FROM training ORDER BY trainer, step"
    return [(*row[:5], tuple(row[5])) for row in factory.rows(query)]


def shas(factory: Crashing) -> list[tuple[object, ...]]:
    """Every version, and the weights under its name."""
    return factory.rows("SELECT version, parent, trainer, step, sha256, handover FROM weights ORDER BY version")


def check(factory: Crashing) -> None:
    """What must be true after any deaths."""
    holds(factory)
    trained = Counter(key for row in steps(factory) if row[0] == "rl" for key in row[5])
    assert set(trained.values()) == {1}, "no group is trained twice"
    assert len(trained) == 2 * (LAST - HANDED_OVER)
    assert [row[0] for row in shas(factory)] == list(range(LAST + 1))


def run(folder: Path, points: tuple[str, ...]) -> Crashing:
    """Both trainers, through all their work."""
    factory = Crashing(folder, *OPTIONS)
    for_trainers(factory.datasets, factory.settings, TREES, GROUPS, HANDED_OVER)
    with running(factory, 20, points):
        factory.until_fired(points, PATIENCE_S)
        factory.until(lambda: done(factory), PATIENCE_S, "every group's fate")
        factory.stop()
    check(factory)
    return factory


@pytest.mark.slow
def test_trainers_that_die_at_some_of_their_moments(tmp_path: Path) -> None:
    run(tmp_path, SOME)
