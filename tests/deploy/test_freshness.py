"""How old the weights were that a trained token was sampled under: SQL over the tables, with a known answer here."""

from pathlib import Path

import pyarrow as pa
import pytest

from deploy import questions, sql
from processors.dataset import Datasets
from schemas import messages as m
from schemas.tables import TABLES, to_row


def problem(name, difficulty):
    return m.Problem(id=name, question="q", answer="a", source="s", difficulty=difficulty)


def rollout(*spans):
    """(version, tokens), ..."""
    found, at = [], 0
    for version, tokens in spans:
        found.append(m.Span(version=version, sha=f"sha{version}", start=at, stop=at + tokens))
        at += tokens
    return m.Rollout(token_ids=[1] * at, logprobs=[0.0] * at, spans=found, finish="stop", text="")


def group(name, difficulty, *rollouts):
    return m.RewardGroup(
        id=name, problem=problem(f"p{name}", difficulty), round=0, rollouts_sha="", prompt_ids=[],
        rollouts=list(rollouts), rewards=[1.0, -1.0][: len(rollouts)], verdicts=["correct", "wrong"][: len(rollouts)],
        backtracks=[0, 0][: len(rollouts)],
    )  # fmt: skip


def step(number, version, rows, trainer="rl"):
    return m.TrainingStep(
        id=f"{trainer}:{number}", run=trainer, trainer=trainer, step=number, version=version, loss=0.0, lr=0.0,
        grad_norm=0.0, tokens=1, rows=rows,
    )  # fmt: skip


def stale(name):
    return m.Filtered(id=f"f{name}", stage="rl", input_topic="rewards", input_id=name, why="stale", rollouts=2)


@pytest.fixture
def settings(make_settings):
    made = make_settings()
    datasets = Datasets(Path(made.factory.data) / "datasets")
    datasets.create()

    def keep(table, *rows):
        datasets.append(table, pa.Table.from_pylist([to_row(row) for row in rows], schema=TABLES[table]), {})

    keep(
        "rewards",
        group("g0", 1.0, rollout((3, 5)), rollout((3, 2), (4, 6))),  # the weights changed while it was sampled
        group("g1", 2.0, rollout((4, 7)), rollout((5, 1))),
        group("g2", 2.0, rollout((1, 9)), rollout((1, 9))),
        group("g3", 1.0, rollout((5, 4)), rollout((5, 4))),
    )
    keep("training", step(1, 5, ["c0", "g0"], "sft"), step(1, 4, ["g0"]), step(2, 6, ["g1"]))
    keep("filtered", stale("g2"), m.Filtered(id="x", stage="rl", input_topic="", input_id="g3", why="all_equal"))
    return made


def asked(settings, query):
    return [tuple(row.values()) for row in sql.query(settings, query).to_pylist()]


def test_every_trained_rollout_with_its_weights_its_lag_its_reward_and_its_step(settings):
    assert asked(settings, questions.TRAINED) == [
        (1, "g0", 1, 1.0, 3, "sha3", 1, 5),
        (1, "g0", 2, -1.0, 3, "sha3", 1, 2),
        (1, "g0", 2, -1.0, 4, "sha4", 0, 6),
        (2, "g1", 1, 1.0, 4, "sha4", 2, 7),
        (2, "g1", 2, -1.0, 5, "sha5", 1, 1),
    ]


def test_how_many_trained_tokens_lag_how_far(settings):
    assert asked(settings, questions.LAGS) == [(0, 6), (1, 8), (2, 7)]


def test_the_stale_rate_by_difficulty(settings):
    assert asked(settings, questions.STALE) == [("s", 1.0, 4, 0.0), ("s", 2.0, 4, 0.5)]


def test_the_shown_queries_are_answered_by_empty_tables(make_settings):
    made = make_settings()
    Datasets(Path(made.factory.data) / "datasets").create()
    for name, query in vars(questions).items():
        if name.isupper():
            assert asked(made, query) == [], name
