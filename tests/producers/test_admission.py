"""Admission: groups under way are counted by their fate as rows, whatever RL's committed offset says."""

import pyarrow as pa
import pytest

from processors.dataset import Datasets
from producers import admission
from producers.admission import Admission
from schemas import messages as m
from schemas.tables import TABLES, to_row


@pytest.fixture
def datasets(tmp_path):
    made = Datasets(tmp_path / "datasets")
    made.create()
    return made


def write(datasets, table, *messages):
    datasets.append(table, pa.Table.from_pylist([to_row(one) for one in messages], schema=TABLES[table]), {})


def trained(step, *groups):
    return m.TrainingStep(
        id=f"rl:{step}", run="rl", trainer="rl", step=step, version=1, loss=0.0, lr=0.0, grad_norm=0.0, tokens=1,
        rows=list(groups),
    )  # fmt: skip


def filtered(stage, group):
    return m.Filtered(id=f"{stage}:{group}", stage=stage, input_topic="rewards", input_id=group, why="all_equal")


def test_room_is_what_rl_uses_in_max_lag_versions_less_the_groups_without_a_fate(datasets, make_settings, monkeypatch):
    monkeypatch.setattr(admission, "LOOK_S", 0.0)
    settings = make_settings("rl.max_lag=2", "rl.groups=3", "rl.publish_steps=2")
    gate = Admission(settings, datasets, {"before"})
    assert gate.room() == 2 * 3 * 2 - 1
    gate.admitted({f"g{number}" for number in range(11)})
    assert gate.room() == 0
    write(datasets, "training", trained(1, "g0", "g1", "g2"))
    assert gate.room() == 3
    write(datasets, "filtered", filtered("rl", "g7"), filtered("search", "g8"))
    assert gate.room() == 4, "what another stage filtered is no fate of a group"
    letter = m.DeadLetter(id="d", stage="sample", topic="prompts", error="e", input_id="before")
    write(datasets, "dead_letters", letter)
    assert gate.room() == 5


def test_versions_by_the_clock_may_follow_every_step(datasets, make_settings):
    settings = make_settings("rl.max_lag=2", "rl.groups=3", "rl.publish_steps=5", "rl.publish_s=10")
    assert Admission(settings, datasets, set()).room() == 2 * 3


def test_a_single_unlucky_group_does_not_close_the_gate(datasets, make_settings, monkeypatch):
    """RL's committed offset would stay at `g0` for ever; the gate counts only what has no fate."""
    monkeypatch.setattr(admission, "LOOK_S", 0.0)
    gate = Admission(make_settings("rl.max_lag=1", "rl.groups=4", "rl.publish_steps=1"), datasets, {"g0"})
    for number in range(1, 50):
        assert gate.room() > 0
        gate.admitted({f"g{number}"})
        write(datasets, "filtered", filtered("rl", f"g{number}"))
    assert gate.room() == 3
