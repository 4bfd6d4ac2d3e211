"""The plan: what is equal in all arms is equal, what makes an arm its own is in its settings, and names are checked."""

import json
import os
from pathlib import Path

import pytest

from deploy.cli_reproduce import _resolver
from deploy.reproduce.plan import ABLATIONS, ARMS, ablated, make, told
from deploy.reproduce.record import OtherPlan, add_time, describe, keep
from deploy.reproduce.scales import SCALES
from schemas.load import BadSettings

OUT = Path("there")
EQUAL = (
    "sft.hand_over_steps", "sft.batch_tokens", "sft.lr", "sft.schedule", "sft.max_len", "sft.epochs", "sft.loss_on",
    "rl.max_steps", "rl.groups", "rl.lr", "rl.objective", "rl.batch_tokens", "sample.group", "sample.max_tokens",
    "sample.temperature", "prompts.sql", "policy.path", "problems.sources", "search.policy",
)  # fmt: skip


def planned(scale="smoke", seeds=None, arms=ARMS, ablations=(), sets=(), out=OUT):
    return make(scale, seeds, arms, ablations, out, _resolver("tiny", list(sets)))


def of(plan, name):
    return next(phase for phase in plan.phases if phase.name == name)


def value(settings, key):
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)


@pytest.mark.parametrize("scale", list(SCALES))
def test_all_arms_train_alike_and_are_asked_alike(scale):
    plan = planned(scale, ablations=[name for name in ABLATIONS if name != "no-votes"])
    trains = [phase for phase in plan.phases if phase.name.endswith(": train")]
    assert len(trains) == len(plan.seeds) * (len(plan.arms) - 1)
    for key in EQUAL:
        assert len({json.dumps(value(phase.settings, key), default=str) for phase in trains}) == 1, key
    for settings in (phase.settings for phase in trains):
        assert settings.sample.max_tokens == settings.evaluate.max_tokens
    tests = [phase for phase in plan.phases if phase.name.endswith(": test")]
    assert tests[0].dir == "search"
    assert {(p.settings.evaluate.samples, p.settings.evaluate.max_tokens) for p in tests} == {
        (SCALES[scale].samples, tests[0].settings.evaluate.max_tokens)
    }
    assert {p.settings.evaluate.file for p in tests} == {"there/test.jsonl"}


def test_seeds_are_the_factorys_seeds_and_the_search_is_shared():
    plan = planned("laptop", seeds=[3, 5])
    assert {(p.dir, p.settings.factory.seed) for p in plan.phases} == {
        ("search", 0), ("best_of_n", 0), ("words/direct", 0),
        *((f"seed-{seed}/{arm}", seed) for seed in (3, 5) for arm in ("direct", "best_of_n", "astro")),
    }  # fmt: skip
    forks = {phase.dir: phase.fork for phase in plan.phases if phase.fork}
    assert forks == {
        "words/direct": "search",
        **{
            f"seed-{seed}/{arm}": source
            for seed in (3, 5)
            for arm, source in (("direct", "words/direct"), ("best_of_n", "best_of_n"), ("astro", "search"))
        },
    }
    assert [p.settings.factory.data for p in plan.phases] == [f"there/{p.dir}" for p in plan.phases]


def test_an_arm_starts_only_its_stages():
    plan = planned()
    assert of(plan, "seed 0 best_of_n: train").settings.factory.stages == ["sft", "sink"]
    assert "search" not in of(plan, "seed 0 astro: train").settings.factory.stages
    assert of(plan, "seed 0 astro: test").settings.factory.stages == ["evaluate", "sink"]
    assert [p.name for p in planned(arms=["base"]).phases] == ["search", "base: test"]
    assert [p.dir for p in planned(arms=["base", "direct"]).phases] == [
        "search",
        "search",
        "words/direct",
        "seed-0/direct",
        "seed-0/direct",
    ]
    laptop = planned("laptop", arms=["direct", "best_of_n"], seeds=[1])
    assert [p.name for p in laptop.phases[2:]] == [
        "best_of_n", "best_of_n: traces", "direct: traces",
        "seed 1 direct: train", "seed 1 direct: test", "seed 1 direct: curve",
        "seed 1 best_of_n: train", "seed 1 best_of_n: test",
    ]  # fmt: skip


def test_an_ablation_words_the_trees_anew():
    plan = planned(ablations=["k=2", "merge=low_q"], arms=["base"])
    assert plan.arms == ("base", "astro-k2", "astro-merge-low_q")
    words = of(plan, "astro-k2: traces")
    assert (words.settings.linearize.min_wrong, words.settings.linearize.max_wrong) == (2, 2)
    assert words.fork == "search"
    assert {"traces", "examples"} <= set(words.empty)
    assert of(plan, "seed 0 astro-k2: train").fork == "words/astro-k2"
    assert of(plan, "astro-merge-low_q: traces").settings.linearize.merge == "low_q"
    assert ablated("k=0") == "astro-k0"


def test_the_users_settings_win_and_the_goals_follow_them():
    plan = planned(sets=["rl.max_steps=7", "factory.data=elsewhere", "factory.seed=9", 'factory.stages=["rl"]'])
    few = planned(sets=["problems.limit=5"])
    assert [of(few, name).settings.problems.limit for name in ("search", "best_of_n")] == [5, 0]
    train = of(plan, "seed 0 astro: train")
    assert 7 in [goal.of for goal in train.goals]
    assert (train.settings.factory.data, train.settings.factory.seed) == ("there/seed-0/astro", 0)
    assert "sft" in train.settings.factory.stages
    with pytest.raises(BadSettings, match="max_steps"):
        planned(sets=["rl.max_step=7"])


@pytest.mark.parametrize("own", ["sft.sql='select * from examples'", "search.strategy='mcts'"])
def test_what_makes_an_arm_is_not_the_users_to_change(own):
    with pytest.raises(BadSettings, match=own.partition("=")[0]):
        planned(sets=[own])
    with pytest.raises(BadSettings, match="max_wrong"):
        planned(ablations=["k=2"], sets=["linearize.max_wrong=3"])


def test_a_broker_for_all_directories_is_refused():
    with pytest.raises(BadSettings, match="a broker of its own"):
        planned(sets=["broker.bootstrap='kafka:9092'"])


def test_the_environment_is_read_too(monkeypatch):
    monkeypatch.setitem(os.environ, "FACTORY_RL_MAX_LAG", "9")
    assert {phase.settings.rl.max_lag for phase in planned().phases} == {9}


CONTENTS = {"test": b"a\nb\n", "dev": b"c\n"}


def test_a_plan_is_written_once_and_another_one_refused_in_one_sentence(tmp_path):
    plan = planned()
    keep(tmp_path, describe(plan, OUT, CONTENTS))
    written = (tmp_path / "plan.json").read_bytes()
    elsewhere = planned(out=Path("moved"))
    keep(tmp_path, describe(elsewhere, Path("moved"), CONTENTS))
    assert (tmp_path / "plan.json").read_bytes() == written, "a directory may be moved"
    with pytest.raises(OtherPlan, match=r"seeds is \[0\] there, \[0,1\] here"):
        keep(tmp_path, describe(planned(seeds=[0, 1]), OUT, CONTENTS))
    with pytest.raises(OtherPlan, match=r"rl\.lr is 0\.0002 there, 0\.001 here"):
        keep(tmp_path, describe(planned(sets=["rl.lr=1e-3"]), OUT, CONTENTS))
    with pytest.raises(OtherPlan, match=r"test\.sha256"):
        keep(tmp_path, describe(plan, OUT, CONTENTS | {"test": b"b\na\n"}))
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(OtherPlan, match="not readable"):
        keep(tmp_path, describe(plan, OUT, CONTENTS))


def test_plan_json_says_what_the_report_needs(tmp_path):
    plan = planned(seeds=[0, 2], ablations=["no-phrases"])
    keep(tmp_path, describe(plan, OUT, CONTENTS))
    found = json.loads((tmp_path / "plan.json").read_text())
    assert (found["steps"], found["samples"]) == ({"sft": 6, "rl": 4}, 2)
    assert (found["test"]["problems"], found["dev"]["problems"]) == (2, 1)
    assert found["dirs"]["arms"]["seed-2/astro-no-phrases"] == {"seed": 2, "arm": "astro-no-phrases"}
    assert len(found["phases"]) == len(plan.phases)
    assert told(plan.phases[0], OUT)["settings"]["evaluate.file"] == "test.jsonl"


def test_a_resumed_phase_took_the_sum(tmp_path):
    for seconds in (1.5, 2.0):
        add_time(tmp_path, "search", seconds)
    assert json.loads((tmp_path / "timings.json").read_text()) == {"search": 3.5}
