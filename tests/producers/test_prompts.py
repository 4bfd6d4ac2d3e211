import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from producing import Running, commit, published, records, sinking, until

from processors.dataset import Datasets
from producers import prompts
from producers.sources.held_out import BY_FAMILY, Reserved, held_out
from producers.sources.items import make_problem
from schemas.load import BadSettings
from schemas.messages import Filtered, Node, Prompt, RewardGroup, Rollout, Tree, Weights
from schemas.settings import PromptsSection
from schemas.topics import BY_MESSAGE


def problem(number, **other):
    fields = {"source": "s", "index": number, "question": f"{number}?", "answer": str(number), "grader": "math"}
    return make_problem(**{**fields, **other})


def tree(of, correct, rollouts):
    root = Node(id=0, parent=-1, depth=0, text="", token_ids=[])
    step = Node(id=1, parent=0, depth=1, text="a", token_ids=[1], rollouts=rollouts, rollouts_correct=correct)
    return Tree(
        id=f"tree {of.id}", problem=of, nodes=[root, step], policy_version=0, policy_sha="s", seed=0, iterations=1,
        generated_tokens=1, prompt_tokens=1, requests=1, seconds=1.0, solved=True,
    )  # fmt: skip


def rewarded(of, number, *rewards):
    rollout = Rollout(token_ids=[1], logprobs=[-1.0], spans=[], finish="stop", text="a")
    return RewardGroup(
        id=f"{of.id} {number}", problem=of, round=number, rollouts_sha="x", prompt_ids=[1],
        rollouts=[rollout] * len(rewards), rewards=list(rewards), backtracks=[0] * len(rewards),
        verdicts=["correct" if reward > 0 else "wrong" for reward in rewards],
    )  # fmt: skip


def weights(version, *, handover=False):
    return Weights(
        policy="policy", version=version, parent=version - 1, path="p", sha256=str(version), trainer="sft",
        handover=handover,
    )  # fmt: skip


@pytest.fixture
def settings(factory_settings, tmp_path):
    """One file source without rows, so that nothing is held out."""
    (tmp_path / "s.jsonl").write_text("")
    return factory_settings(
        f'problems.sources=[{{kind="file", name="{tmp_path / "s.jsonl"}"}}]', "prompts.ahead=6", "sink.flush_s=0.2"
    )


@pytest.fixture
def datasets(settings):
    made = Datasets(Path(settings.factory.data) / "datasets")
    made.create()
    return made


@pytest.fixture
def stored(settings, datasets, send_all):
    """stored(message, ...) publishes messages and waits until a sink has written them all."""

    def store(*messages):
        before = Counter()
        for message in messages:
            before[BY_MESSAGE[type(message)].table] += 1
        wanted = {name: count + len(datasets.ids(name)) for name, count in before.items()}
        send_all(*messages)
        with sinking(settings):
            until(lambda: all(len(datasets.ids(name)) == count for name, count in wanted.items()))

    return store


def chosen(datasets, settings, sql="", window=16):
    return prompts.choose(datasets, PromptsSection(sql=sql, window=window), Reserved(settings)).choices


def test_measured_by_the_tree_until_rl_has_measured_it_itself(settings, datasets, stored):
    p = [problem(number) for number in range(7)]
    trees = [tree(p[0], 1, 4), tree(p[1], 0, 4), tree(p[2], 4, 4), tree(p[3], 1, 4), tree(p[4], 4, 4), tree(p[5], 2, 4)]
    groups = [rewarded(p[3], 0, 1, 1, -1, -1), rewarded(p[3], 1, 1, 1, 1, 1), rewarded(p[4], 0, -1, 1),
              rewarded(p[5], 0, 1, 1)]  # fmt: skip
    stored(*p, weights(3), *trees, *groups)
    found = {one.problem.id: one for one in chosen(datasets, settings)}
    assert {one.problem.index: one.pass_rate for one in found.values()} == {0: 0.25, 3: 0.75, 4: 0.5}
    assert all(one.problem == p[one.problem.index] for one in found.values())
    assert found[p[3].id].why == "pass rate 0.750 of 8 rollouts in RL since v3"
    assert found[p[0].id].why == "pass rate 0.250 of 4 rollouts in search"


def test_rates_follow_the_policy_and_what_rested_is_tried_again(settings, datasets, stored):
    p = [problem(number) for number in range(5)]
    stored(*p, weights(0), *(tree(one, 1, 4) for one in p[:4]))
    stored(weights(1), rewarded(p[0], 0, 1, -1), rewarded(p[1], 0, -1, -1), rewarded(p[4], 0, 1, 1))

    def rates(window):
        return {one.problem.index: round(one.pass_rate, 3) for one in chosen(datasets, settings, window=window)}

    assert rates(1) == rates(2) == {0: 0.5, 2: 0.25, 3: 0.25}
    stored(weights(2), rewarded(p[0], 1, 1, 1), rewarded(p[2], 0, 1, -1, -1, -1, -1))
    # 0 is always right now; what 1 failed at is out of the window: with its search, 1 of 6; 4 was never mixed.
    assert rates(1) == {1: 0.167, 2: 0.2, 3: 0.25}
    assert rates(2) == {0: 0.75, 2: 0.2, 3: 0.25}
    assert rates(16) == rates(2)
    stored(weights(3))
    assert rates(1) == {0: 0.5, 1: 0.167, 2: 0.222, 3: 0.25}, "0: 3 of 4 in RL and 1 of 4 in search"
    why = {one.problem.index: one.why for one in chosen(datasets, settings, window=1)}
    assert why[0] == "pass rate 0.500 of 8 rollouts in search and RL before v3"


def test_a_query_of_ones_own(settings, datasets, stored):
    p = [problem(number) for number in range(5)]
    stored(*p, *(tree(one, one.index, 4) for one in p))
    sql = "with few as (select * from problems where index < 2) select id, null as pass_rate, 'mine' as why from few; "
    found = chosen(datasets, settings, sql)
    assert {(one.problem.index, one.pass_rate, one.why) for one in found} == {(0, -1.0, "mine"), (1, -1.0, "mine")}
    commented = "select id, 1 as pass_rate, '' as why from problems -- all of them"
    assert len(chosen(datasets, settings, commented)) == 5
    hard = "select id, pass_rate, place || ' ' || rollouts as why from measured where pass_rate <= 0.25"
    found = chosen(datasets, settings, hard)
    assert {(one.problem.index, one.pass_rate, one.why) for one in found} == {(0, 0, "search 4"), (1, 0.25, "search 4")}


@pytest.mark.parametrize(
    "sql",
    [
        "select nonsense",
        "select id from problems",
        "drop table problems",
        "select 'a' as id, 'x' as pass_rate, '' as why",
        "select * from read_csv('/etc/passwd')",
    ],
)
def test_a_wrong_query_is_one_sentence_at_the_start(factory_settings, sql):
    with (
        pytest.raises(BadSettings, match=r"prompts\.sql must be a query"),
        Running(prompts.run, factory_settings(f"prompts.sql={sql}", "evaluate.problems=1")) as running,
    ):
        running.waiting("handover")


def test_what_the_evaluation_asks_is_a_row_that_says_why_and_never_a_prompt(factory_settings, stored, send_all):
    tiny = factory_settings("evaluate.problems=3", "prompts.ahead=2", "sink.flush_s=0.2")
    asked, other = held_out(tiny)[:2]
    copied, free = problem(0, question=f"  {other.question.upper()} "), problem(1)
    stored(asked, copied, free, *(tree(one, 1, 2) for one in (asked, copied, free)))
    send_all(weights(2, handover=True))
    for _ in range(2):  # a restart tells nothing twice
        with Running(prompts.run, tiny) as running:
            running.waiting("for the samplers")
        commit(tiny, "sample", "prompts", 2)
    assert {prompt.problem for prompt in published(tiny, Prompt)} == {free}
    rows = published(tiny, Filtered)
    assert {(row.stage, row.input_topic, row.input_id, row.why) for row in rows} == {
        ("prompts", "problems", asked.id, BY_FAMILY),
        ("prompts", "problems", copied.id, f"held_out: the same text as countdown {other.index} of the evaluation"),
    }
    assert len(rows) == 2


def choices(rates):
    return [prompts.Choice(problem(number), rate, "") for number, rate in enumerate(rates)]


@given(
    rates=st.lists(st.sampled_from([-1.0, 0.1, 0.25, 0.5, 0.75, 0.9]), min_size=1, max_size=8),
    used=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    count=st.integers(0, 30),
    seed=st.integers(0, 3),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_least_used_first_then_nearest_one_half(rates, used, count, seed):  # fmt: skip
    listed = choices(rates)
    start = {one.problem.id: used[one.problem.index] for one in listed}
    rounds = dict(start)
    taken = list(prompts.Rota(listed, rounds, seed).take(count))
    assert len(taken) == count
    assert len({prompt.id for prompt in taken}) == count
    keys = [(prompt.round, abs(prompt.pass_rate - 0.5)) for prompt in taken]
    assert keys == sorted(keys)
    assert rounds == {name: number + sum(p.problem.id == name for p in taken) for name, number in start.items()}
    # Whatever order the tables gave them in, and a rota made anew goes on alike.
    again = dict(start)
    first = list(prompts.Rota(reversed(listed), again, seed).take(count // 2))
    assert [*first, *prompts.Rota(listed, again, seed).take(count - count // 2)] == taken


def test_the_seed_shuffles_what_is_equal():
    orders = {tuple(p.problem.index for p in prompts.Rota(choices([0.5] * 6), {}, seed).take(6)) for seed in range(8)}
    assert len(orders) > 4


def test_it_waits_for_the_handover_then_keeps_so_many_ahead(settings, stored, send_all):
    p = [problem(number) for number in range(4)]
    stored(*p, *(tree(one, 1, 2) for one in p))
    send_all(weights(0), weights(1))
    with Running(prompts.run, settings) as running:
        running.waiting("handover")
        time.sleep(0.5)
        assert not published(settings, Prompt)
        send_all(weights(2, handover=True))
        running.waiting("for the samplers")
        time.sleep(1.5)
        found = published(settings, Prompt)
        assert len(found) == 6
        assert Counter(prompt.round for prompt in found) == {0: 4, 1: 2}
        assert len({record.partition for record in records(settings, Prompt)}) == 6
        commit(settings, "sample", "prompts", 3)
        until(lambda: len(published(settings, Prompt)) == 9)
    assert running.status.read()["records"] == 9


def test_a_restart_goes_on_with_the_next_round(settings, datasets, stored, send_all):
    p = [problem(number) for number in range(4)]
    stored(*p, *(tree(one, 1, 2) for one in p))
    send_all(weights(2, handover=True))
    for total in (6, 12, 18):
        with Running(prompts.run, settings):
            until(lambda total=total: len(published(settings, Prompt)) == total)
        commit(settings, "sample", "prompts", total)
        if total == 6:  # from here on, part of it is in the table
            with sinking(settings):
                until(lambda: len(datasets.ids("prompts")) == 6)
    found = published(settings, Prompt)
    assert len({prompt.id for prompt in found}) == 18
    rounds = Counter((prompt.problem.id, prompt.round) for prompt in found)
    assert rounds.keys() >= {(one.id, number) for one in p for number in range(4)}
    assert max(rounds.values()) == 1


def test_problems_measured_later_are_found(settings, stored, send_all, monkeypatch):
    monkeypatch.setattr(prompts, "RETRY_S", 0.3)
    send_all(weights(2, handover=True))
    with Running(prompts.run, settings) as running:
        running.waiting("for measured problems")
        stored(problem(1), tree(problem(1), 1, 2))
        until(lambda: len(published(settings, Prompt)) == 6)
