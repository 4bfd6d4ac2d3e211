"""RL on a real broker and real tables: every group ends in one place, and a crash trains no group twice."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from rewarded import group, sampled_at
from running import until

from processors import kafka
from schemas.messages import Filtered, TrainingStep, Weights
from schemas.objective import Objective
from trainers import groups as cohort
from trainers import model as policy
from trainers import rl
from trainers import weights as published
from trainers.intake import Intake
from trainers.journal import Journal
from trainers.session import Session

FLAGS = (
    "rl.groups=3",
    "rl.lr=0.001",
    "rl.publish_steps=2",
    "rl.max_lag=2",
    "rl.batch_tokens=200",
)


def handover(factory) -> Weights:
    path = factory.settings.policy.path
    return Weights(policy="policy", version=5, parent=4, path=path, sha256="s", trainer="sft", handover=True)


def steps_of(factory) -> list[TrainingStep]:
    return factory.topic(TrainingStep)


def test_every_group_ends_in_one_place(make_factory, start) -> None:
    factory = make_factory(*FLAGS)
    trainer = start(rl.run, factory.settings, "rl")
    until(lambda: "hands over" in trainer.status.read().get("waiting", ""))
    assert trainer.status.read()["idle"], "what waits for it is no alert"
    factory.send(handover(factory))
    good = [group(i, version=5) for i in range(7)]
    refused = {
        "all_equal": group(20, version=5, rewards=(1, 1)),
        "stale": group(21, version=2),
        "aborted": group(22, version=5, finish="abort"),
        "malformed": group(23, version=5, logprobs=[-1.0]),
    }
    factory.table(*refused.values(), *good, good[0])
    trainer.until(lambda: len(factory.topic(Weights)) == 2 and len(factory.topic(Filtered)) == 4)
    assert not trainer.status.read()["idle"]
    trainer.end()

    steps = steps_of(factory)
    assert [(row.step, row.version) for row in steps] == [(1, 5), (2, 5)]
    trained = [key for row in steps for key in row.rows]
    assert len(set(trained)) == len(trained) == 6
    assert set(trained) < {g.id for g in good}
    told = {row.why: row for row in factory.topic(Filtered)}
    for why, wanted in refused.items():
        row = told[why]
        assert (row.stage, row.input_topic, row.input_id) == ("rl", "rewards", wanted.id)
        assert (row.rollouts, row.tokens) == (len(wanted.rollouts), cohort.tokens(wanted))
        assert (row.source, row.difficulty) == ("test", 0.5)
    assert sum(row.tokens for row in steps) == sum(cohort.tokens(g) for g in good if g.id in trained)
    assert sum(row.rollouts for row in steps) == 6 * 2
    new = factory.topic(Weights)[-1]
    assert (new.version, new.parent, new.trainer, new.step, new.handover) == (6, 5, "rl", 2, False)


def test_the_metrics_are_of_the_groups_trained_on(make_factory, start) -> None:
    factory = make_factory(*FLAGS, "rl.max_steps=1")
    factory.send(handover(factory))
    groups = [group(i, version=5 - i) for i in range(3)]
    factory.table(*groups)
    trainer = start(rl.run, factory.settings, "rl")
    trainer.until(lambda: len(factory.topic(Weights)) == 2)
    trainer.until(lambda: trainer.status.read().get("idle"))
    trainer.end()
    (row,) = steps_of(factory)
    sizes = [cohort.tokens(g) for g in groups]
    assert row.lag_max == 2
    assert row.lag_mean == pytest.approx((sizes[1] + 2 * sizes[2]) / sum(sizes))
    assert row.reward == 0.0
    assert row.length == pytest.approx(sum(sizes) / 6)
    assert row.backtracks == pytest.approx(0.5)
    assert row.entropy > 1
    assert row.kl > 0
    assert 0 < row.ess <= 1
    assert 0 <= row.clip_share <= 1


def test_a_step_of_several_updates_is_clipped_against_where_it_began(make_factory, start) -> None:
    parts = ("rl.clip_low=0", "rl.clip_high=0", "rl.kl=0.1", "rl.kl_to=reference", "rl.mask_overlong=true")
    factory = make_factory(*FLAGS, *parts, "rl.updates=3", "rl.warmup=1", "rl.max_steps=1")
    factory.send(handover(factory))
    groups = [group(i, version=5) for i in range(3)]
    late = groups[0].rollouts[1]
    groups[0] = replace(groups[0], rollouts=[groups[0].rollouts[0], replace(late, finish="length")])
    overlong = group(9, version=5, finish="length")
    factory.table(overlong, *groups)
    trainer = start(rl.run, factory.settings, "rl")
    trainer.until(lambda: len(factory.topic(Weights)) == 2)
    trainer.end()
    (row,) = steps_of(factory)
    assert row.tokens == sum(cohort.tokens(one) for one in groups) - len(late.token_ids)
    assert row.rollouts == 6
    assert row.clip_low + row.clip_high > 0, "the second update's ratios are not 1"
    assert row.clip_share >= max(row.clip_low, row.clip_high, row.truncated)
    told = msgspec.json.decode(row.objective, type=Objective)
    assert (told.clip_high, told.kl_to, told.tis_cap, told.normaliser) == (0, "reference", 2, "token_mean")
    (dropped,) = factory.topic(Filtered)
    assert (dropped.input_id, dropped.why) == (overlong.id, "overlong")


def test_without_dynamic_sampling_an_equal_group_has_its_place_in_a_step(make_factory, start) -> None:
    factory = make_factory(*FLAGS, "rl.dynamic_sampling=false", "rl.max_steps=1")
    factory.send(handover(factory))
    groups = [group(1, version=5), group(2, version=5, rewards=(1, 1)), group(3, version=5, rewards=(-1, -1))]
    factory.table(*groups)
    trainer = start(rl.run, factory.settings, "rl")
    trainer.until(lambda: len(factory.topic(Weights)) == 2)
    trainer.end()
    (row,) = steps_of(factory)
    assert set(row.rows) == {one.id for one in groups}
    assert (row.rollouts, row.tokens) == (6, sum(cohort.tokens(one) for one in groups))
    assert row.entropy > 0
    assert '"dynamic_sampling":false' in row.objective
    assert not factory.topic(Filtered)


def test_a_constant_length_that_is_not_set_is_the_largest_response(make_factory, start) -> None:
    factory = make_factory(*FLAGS, "rl.objective=dr_grpo", "sample.max_tokens=77", "rl.max_steps=1")
    factory.send(handover(factory))
    factory.table(*[group(i, version=5) for i in range(3)])
    trainer = start(rl.run, factory.settings, "rl")
    trainer.until(lambda: steps_of(factory))
    trainer.end()
    assert '"constant_length":77' in steps_of(factory)[0].objective


def test_the_temperature_is_the_groups_own_and_not_todays_setting(make_factory, start) -> None:
    factory = make_factory(*FLAGS, "rl.max_steps=1", "sample.temperature=0.3")
    factory.send(handover(factory))
    sampler = policy.load(factory.settings.policy.path)
    factory.table(*[sampled_at(group(i, version=5), sampler, 1.5) for i in range(3)])
    trainer = start(rl.run, factory.settings, "rl")
    trainer.until(lambda: steps_of(factory))
    trainer.end()
    (row,) = steps_of(factory)
    assert row.kl < 1e-5
    assert row.ess == pytest.approx(1)


def test_groups_that_became_stale_while_they_waited_are_filtered(make_factory, start) -> None:
    factory = make_factory(*FLAGS, "rl.publish_steps=1", "rl.max_lag=0")
    factory.send(handover(factory))
    factory.table(*[group(i, version=5) for i in range(4)])
    trainer = start(rl.run, factory.settings, "rl")
    trainer.until(lambda: factory.topic(Filtered))
    trainer.end()
    (row,) = factory.topic(Filtered)
    (step,) = steps_of(factory)
    assert row.why == "stale"
    assert row.input_id not in step.rows


def test_a_group_is_not_trained_on_before_it_is_a_row(make_factory, start) -> None:
    factory = make_factory(*FLAGS)
    factory.stopping.set()
    factory.thread.join()
    factory.send(handover(factory), *[group(i, version=5) for i in range(3)])
    trainer = start(rl.run, factory.settings, "rl")
    until(lambda: "waiting_groups" in trainer.status.read())
    until(lambda: kafka.lag(factory.settings, "rl", "rewards") == 3, 5)
    assert trainer.status.read()["waiting_groups"] == 0
    factory.start()
    trainer.until(lambda: steps_of(factory))
    trainer.end()


def test_a_planned_step_waits_for_groups_that_a_power_cut_took(make_factory, start, monkeypatch, capfd) -> None:
    """The plan is on the disk; of the rewards that it names some are not, and no mended table has them."""
    monkeypatch.setattr(rl, "PATIENCE_S", 1.0)
    factory = make_factory(*FLAGS, "rl.max_steps=1")
    factory.send(handover(factory))
    groups = [group(i, version=5) for i in range(7)]
    planned = [groups[6], groups[2], groups[4]]
    with Journal(Path(factory.settings.factory.data) / "checkpoints" / "rl" / "plan.jsonl") as journal:
        journal.append(1, [one.id for one in planned])
    factory.table(*groups[:4])
    trainer = start(rl.run, factory.settings, "rl")
    trainer.until(lambda: trainer.status.read().get("waiting") == "for the planned groups of step 1")
    trainer.end()  # it hears that it is to stop
    assert steps_of(factory) == []

    again = start(rl.run, factory.settings, "rl")
    again.until(lambda: f"for group {planned[0].id}" in again.status.read().get("waiting", ""))
    before = factory.datasets.table("rewards").version()
    factory.table(*groups[4:])
    again.until(lambda: steps_of(factory))
    again.end()
    (step,) = steps_of(factory)
    assert step.rows == [one.id for one in planned]
    assert step.table_version > before, "the version that has them all"
    assert again.status.read()["waiting"] == ""
    said = [line for line in capfd.readouterr().err.splitlines() if "rl waits for group" in line]
    assert len(said) == 1
    assert f"group {planned[0].id}, which step 1 was planned with and the table rewards has lost" in said[0]


CRASHES = {
    "before a step": (cohort, "train", 3),
    "after a step": (Session, "finish", 3),
    "before the checkpoint": (Session, "save", 2),
    "between checkpoint and announcement": (Session, "_announce", 2),
    "after the directory was written": (published, "commit", 2),
    "before the offsets": (Intake, "commit", 1),
}


class Crash(BaseException):
    pass


def crash_at(monkeypatch, place, name: str, call: int) -> None:
    real, calls = getattr(place, name), []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            if name == "commit" and place is published:
                real(*args, **kwargs)
            raise Crash
        return real(*args, **kwargs)

    monkeypatch.setattr(place, name, wrapped)


def finished(factory) -> bool:
    return any(row.version == 8 for row in factory.topic(Weights))


@pytest.fixture(scope="module")
def curves() -> dict:
    return {}


@pytest.mark.parametrize("what", ["nothing", *CRASHES])
def test_a_crash_anywhere_changes_no_bit_and_trains_no_group_twice(
    make_factory, start, monkeypatch, curves, what
) -> None:
    factory = make_factory(*FLAGS, "rl.max_steps=6", "rl.max_lag=9", "topics.default_partitions=1")
    factory.send(handover(factory))
    groups = [group(i, version=5, rewards=(1, 1) if i % 5 == 0 else (1, -1)) for i in range(24)]
    factory.table(*groups)
    if what != "nothing":
        with monkeypatch.context() as patched:
            crash_at(patched, *CRASHES[what])
            trainer = start(rl.run, factory.settings, "rl")
            until(lambda: trainer.error is not None)
            assert isinstance(trainer.error, Crash)
        factory.send(*groups[:4])  # and the broker delivers some again
    trainer = start(rl.run, factory.settings, "rl")
    trainer.until(lambda: finished(factory))
    trainer.end()

    told: dict[int, tuple] = {}
    for row in steps_of(factory):
        assert told.setdefault(row.step, (row.loss, row.grad_norm, row.rows)) == (row.loss, row.grad_norm, row.rows)
    shas = {}
    for row in factory.topic(Weights):
        assert shas.setdefault(row.version, row.sha256) == row.sha256, "a version number was used twice"
    assert sorted(told) == [1, 2, 3, 4, 5, 6]
    assert sorted(shas) == [5, 6, 7, 8]
    assert curves.setdefault("steps", told) == told
    assert curves.setdefault("shas", shas) == shas
    trained = [key for _, _, rows in told.values() for key in rows]
    filtered = {row.input_id for row in factory.topic(Filtered)}
    assert len(trained) == len(set(trained)) == 18
    assert not filtered & set(trained)
    assert filtered <= {g.id for g in groups if g.rewards == [1, 1]}
    done = kafka.committed(factory.settings, "rl")["rewards", 0]
    assert {g.id for g in groups[:done]} <= filtered | set(trained)
    assert done > 0
