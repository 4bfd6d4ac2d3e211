"""The objectives against a plain-Python float64 reference, and their gradients against finite differences of it."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.settings import RlSection
from trainers import objectives
from trainers.objectives import Tokens

numbers = st.floats(-2.0, 0.0)


@st.composite
def cases(draw):
    count = draw(st.integers(1, 8))

    def column(kind):
        return draw(st.lists(kind, min_size=count, max_size=count))

    rl = RlSection(
        clip_low=draw(st.floats(0.05, 0.4)), clip_high=draw(st.floats(0.05, 0.6)), tis_cap=draw(st.floats(0.5, 4))
    )
    return column(numbers), column(numbers), column(numbers), column(st.floats(-2, 2)), rl


def reference(logp, proximal, behaviour, advantages, rl, normaliser) -> float:
    total = 0.0
    for p, o, b, a in zip(logp, proximal, behaviour, advantages, strict=True):
        ratio = math.exp(p - o)
        clipped = min(max(ratio, 1 - rl.clip_low), 1 + rl.clip_high)
        total -= min(math.exp(o - b), rl.tis_cap) * min(ratio * a, clipped * a)
    return total / normaliser


def tokens(logp, proximal, behaviour, advantages, *, grad=True) -> Tokens:
    def column(values):
        return torch.tensor(values, dtype=torch.float64)

    zeros = column([0.5] * len(logp))
    return Tokens(
        logp=column(logp).requires_grad_(grad),
        proximal=column(proximal),
        behaviour=column(behaviour),
        advantages=column(advantages),
        entropy=zeros,
        sequence=torch.zeros(len(logp), dtype=torch.int64),
    )


@given(cases())
def test_grpo_is_its_formula_and_its_gradient_the_finite_difference(case) -> None:
    logp, proximal, behaviour, advantages, rl = case
    for p, o in zip(logp, proximal, strict=True):  # the clip's corners have no derivative
        assume(min(abs(math.exp(p - o) - 1 + rl.clip_low), abs(math.exp(p - o) - 1 - rl.clip_high)) > 1e-4)
    mine = tokens(logp, proximal, behaviour, advantages)
    loss, _ = objectives.grpo(mine, rl, normaliser=7.0)
    loss.backward()
    assert float(loss) == pytest.approx(reference(*case, 7.0), abs=1e-12)
    for index in range(len(logp)):
        step = 1e-6
        up, down = list(logp), list(logp)
        up[index] += step
        down[index] -= step
        slope = reference(up, *case[1:], 7.0) - reference(down, *case[1:], 7.0)
        assert float(mine.logp.grad[index]) == pytest.approx(slope / (2 * step), abs=1e-6)


@given(cases())
def test_micro_batches_add_up(case) -> None:
    *columns, rl = case
    whole, total = objectives.grpo(tokens(*columns), rl, 5.0)
    parts = [objectives.grpo(tokens(*[[c[i]] for c in columns]), rl, 5.0) for i in range(len(columns[0]))]
    assert float(whole) == pytest.approx(sum(float(loss) for loss, _ in parts), abs=1e-12)
    added = {name: sum(sums[name] for _, sums in parts) for name in total}
    assert added == pytest.approx(total, abs=1e-9)


def test_on_policy_it_is_the_policy_gradient_weighted_by_the_truncated_ratio() -> None:
    rl = RlSection(tis_cap=2.0)
    logp, behaviour = [-0.5, -0.1], [-0.7, -3.0]
    mine = tokens(logp, logp, behaviour, [1.0, -1.0])
    loss, sums = objectives.grpo(mine, rl, 2.0)
    loss.backward()
    assert mine.logp.grad.tolist() == pytest.approx([-math.exp(0.2) / 2, 2.0 / 2])
    assert sums["cut"] == 1.0


def test_with_the_behaviour_as_proximal_the_weight_is_one() -> None:
    rl = RlSection()
    _, sums = objectives.grpo(tokens([-0.5, -1.0], [-0.6, -1.1], [-0.6, -1.1], [1.0, 1.0]), rl, 2.0)
    assert sums["weight"] == 2.0
    assert objectives.metrics(sums)["ess"] == pytest.approx(1.0)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8), st.booleans())
def test_advantages_are_centred(rewards, std) -> None:
    values = objectives.group_advantages(rewards, std=std)
    assert sum(values) == pytest.approx(0, abs=1e-6)
    assert values[rewards.index(max(rewards))] == max(values)
    assert values[rewards.index(min(rewards))] == min(values)
    if not std:
        mean = sum(rewards) / len(rewards)
        assert values == pytest.approx([r - mean for r in rewards])


def test_advantages_of_one_right_answer_in_four() -> None:
    assert objectives.group_advantages([1, -1, -1, -1], std=True) == pytest.approx(
        [3**0.5, *[-(3**-0.5)] * 3], rel=1e-5
    )
    assert objectives.group_advantages([1, 1, 1, 1], std=True) == [0, 0, 0, 0]


@given(cases())
def test_metrics_have_their_ranges(case) -> None:
    *columns, rl = case
    got = objectives.metrics(objectives.grpo(tokens(*columns), rl, 1.0)[1])
    assert got["kl"] >= 0
    assert 0 <= got["clip_share"] <= 1
    assert 0 < got["ess"] <= 1 + 1e-9
    assert got["entropy"] == pytest.approx(0.5)


def test_no_tokens_no_metrics_and_an_unknown_objective_is_named() -> None:
    assert objectives.metrics({}) == {"entropy": 0.0, "kl": 0.0, "clip_share": 0.0, "ess": 0.0}
    with pytest.raises(ValueError, match="there are: grpo"):
        objectives.objective("ppo")


def test_next_token_loss_is_the_mean_negative_log_prob() -> None:
    assert float(objectives.next_token_loss(torch.tensor([-1.0, -3.0]), 2)) == 2.0


def test_learning_rate_warms_up_then_falls_to_a_tenth() -> None:
    rates = [objectives.learning_rate(step, peak=1.0, warmup=4, total=20) for step in range(1, 25)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(a > b for a, b in pairwise(rates[3:20]))
    assert rates[19:] == pytest.approx([0.1] * 5)
    assert objectives.learning_rate(9, peak=2.0, warmup=0, total=0) == 2.0
