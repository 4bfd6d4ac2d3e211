"""The comparison with TRL is fair and its numbers are what they say; TRL itself runs in the benchmark only."""

import datetime as dt
import json
import sys
from random import Random
from statistics import mean

import pyarrow as pa
import pytest

from benchmarks import train, train_data, train_ours
from benchmarks.train_data import Job
from processors.chat import REFLECTION, RESTART, Chat, count_backtracks, resolve
from processors.dataset import Datasets, app_id
from processors.grading import grade_fast
from schemas.settings import PolicySection
from schemas.tables import TABLES
from schemas.tiny_problems import is_held_out
from trainers.tiny import countdown


@pytest.fixture(scope="module")
def chat():
    return Chat(resolve("tiny"), PolicySection())


def test_examples_are_chains_of_thought_of_the_factory(chat):
    pairs = train_data.examples(200, 0)
    assert pairs == train_data.examples(200, 0)
    backtracks = [count_backtracks(text) for _, text in pairs]
    assert set(backtracks) == {0, 1, 2, 3}
    assert all(text.count(REFLECTION) == n + 1 for (_, text), n in zip(pairs, backtracks, strict=True))
    attempts = [text.split(RESTART)[-1] for _, text in pairs]
    assert all("Answer: " in attempt for attempt in attempts)
    lines = train_data.rows(resolve("tiny"), pairs)
    assert 80 < mean(len(line.ids) for line in lines) < 130
    assert max(len(line.ids) for line in lines) < 256
    question, text = pairs[7]
    assert lines[7].ids[: lines[7].loss_from] == chat.prompt_ids(question)
    assert chat.decode(lines[7].ids[lines[7].loss_from :]) == text
    assert lines[7].ids[-1] == chat.eos_id


def test_a_right_attempt_is_right_and_a_wrong_one_is_not():
    rng = Random(3)
    for _ in range(20):
        lesson = countdown.lesson(rng)
        problem = train_data.problem(lesson)
        assert grade_fast(problem, train_data._attempt(lesson, rng, right=True)[-1]) == "correct"
        assert grade_fast(problem, train_data._attempt(lesson, rng, right=False)[-1]) != "correct"


def test_problems_are_distinct_gradable_and_not_held_out():
    problems = train_data.problems(300, 1)
    assert len({problem.id for problem in problems}) == 300
    assert not any(is_held_out("countdown", json.loads(problem.metadata)) for problem in problems)
    assert grade_fast(problems[0], "Answer: 1 + 1") == "wrong"


def test_both_sides_read_what_was_written(tmp_path):
    job = Job(model="m", steps=7)
    lines = train_data.rows(resolve("tiny"), train_data.examples(3, 0))
    problems = train_data.problems(2, 0)
    train_data.write(tmp_path / "work", job, lines, problems)
    assert train_data.read(tmp_path / "work") == (job, lines, problems)


def test_our_sft_side_counts_the_tokens_of_the_timed_steps(tmp_path):
    job = Job(model=resolve("tiny"), threads=1, dtype="float32", batch_tokens=512, steps=2, warm_steps=1)
    lines = train_data.rows(job.model, train_data.examples(40, 0))
    train_data.write(tmp_path, job, lines, [])
    turns = train_ours.sft(tmp_path)
    assert next(turns)["steps"] == 1, "the warm step"
    for found in (next(turns), next(turns)):
        assert found["seconds"] > 0
        assert 2 * (512 - 256) < found["tokens"] <= 2 * 512


def test_the_factory_of_the_rl_side_has_its_stages_and_sizes(tmp_path):
    job = Job(model=resolve("tiny"), group=4, groups=3, max_tokens=99)
    assert train_ours.settings(tmp_path, job, compiled=False, every=False).rl.parts().dynamic_sampling
    chosen = train_ours.settings(tmp_path, job, compiled=True, every=True)
    assert not chosen.rl.parts().dynamic_sampling
    assert (chosen.engine.args, chosen.rl.compile) == ({"enforce_eager": False}, True)
    assert chosen.engine.dtype == chosen.rl.dtype == job.dtype
    assert set(chosen.factory.stages) == set(train_ours.STAGES)
    assert (chosen.sample.group, chosen.rl.groups, chosen.sample.max_tokens) == (4, 3, 99)
    assert (chosen.rl.threads, chosen.engine.threads) == (1, 1)


@pytest.mark.parametrize(
    ("mixed", "every", "counted"), [(2, False, 16), (9, False, 24), (1, True, 16), (2, True, 24), (9, True, 24)]
)
def test_what_was_sampled_before_the_clock_does_not_count(tmp_path, mixed, every, counted):
    datasets = Datasets(tmp_path / "datasets")
    datasets.create()
    step = {"rollouts": 8, "length": 3.0, "lag_mean": 1.0, "lag_max": 2}
    put(datasets, "training", [{"step": at, "time": 100.0 + at, **step} for at in range(5)])
    whole = {"rollouts": [{}] * 8, "_time": dt.datetime.fromtimestamp(102.5, dt.UTC)}
    groups = [{"rewards": [1.0, -1.0] * 4, **whole}] * mixed + [{"rewards": [1.0] * 8, **whole}]
    put(datasets, "rewards", groups)
    found = train_ours.measured(tmp_path, began=100.5, every=every)
    assert (found["seconds"], found["samples"], found["sampled"]) == (3.0, counted, 8 * len(groups))
    assert found["mixed_share"] == pytest.approx(mixed / len(groups))


def put(datasets, table, rows):
    rows = [{"_topic_id": "u", "_partition": 0, "_offset": at, **row} for at, row in enumerate(rows)]
    datasets.append(table, pa.Table.from_pylist(rows, schema=TABLES[table]), {app_id(table, "u", 0): len(rows)})


def test_a_ratio_is_of_our_fastest_over_theirs():
    run = {
        "sft": {"seconds": 2.0, "tokens": 30},
        "sft_compiled": {"seconds": 2.0, "tokens": 40},
        "sft_packed": {"seconds": 2.0, "tokens": 16, "trl": "1"},
        "sft_padded_18": {"seconds": 1.0, "tokens": 10, "trl": "1"},
    }
    values, ratios = train.figures([run, run, {**run, "sft": {"seconds": 1.0, "tokens": 900}}])
    assert ratios == {"sft_ours_over_trl_tokens": 2.0}
    assert values["sft_ours_compiled_tokens_per_s"] == [20.0] * 3
    assert values["sft_trl_packed_tokens_per_s"] == [8.0] * 3
    rl = {"seconds": 1.0, "samples": 60, "mixed_share": 0.6, "every": False}
    every = {"seconds": 1.0, "samples": 80, "mixed_share": 0.6, "every": True}
    trl = {"seconds": 1.0, "samples": 20, "sampled_samples": 40, "sampled_mixed": 20, "trl": "1"}
    _, ratios = train.figures([{"rl": rl, "rl_transformers_1": trl}])
    assert ratios == {"rl_ours_over_trl_samples": 3.0, "rl_ours_over_trl_mixed": 6.0}
    values, ratios = train.figures([{"rl_every": every, "rl_transformers_1": trl}])
    assert ratios == {"rl_ours_over_trl_samples": 4.0, "rl_ours_over_trl_mixed": pytest.approx(4.8)}
    assert values["rl_ours_every_mixed_per_s"] == [pytest.approx(48.0)]


def test_a_side_that_fails_says_why():
    with pytest.raises(RuntimeError, match="No module named benchmarks"):
        train.Held("sft", [sys.executable, "-m", "benchmarks.nothing", "sft", "work"], 1).turn()
