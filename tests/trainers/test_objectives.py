"""The objectives against float64 formulas in numpy, gradients against finite differences, and small sums by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import stepped
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from stepped import response

from schemas.objective import PRESETS, Objective
from trainers import objectives

LOGS = st.floats(-2.0, 0.0)


@st.composite
def steps(draw):
    step = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 4))
        columns = [draw(st.lists(LOGS, min_size=count, max_size=count)) for _ in range(4)]
        step.append(response(*columns, advantage=draw(st.floats(-2, 2))))
    return step


@st.composite
def mixtures(draw):
    """Any parts, also those that the settings refuse."""
    return Objective(
        surrogate=draw(st.sampled_from(["clip", "weight"])),
        ratio=draw(st.sampled_from(["token", "sequence"])),
        clip_low=draw(st.floats(0.05, 1.0)),
        clip_high=draw(st.floats(0.05, 0.6)),
        tis_cap=draw(st.sampled_from([0.0, 0.7, 2.0])),
        normaliser=draw(st.sampled_from(["token_mean", "sequence_mean", "constant"])),
        constant_length=draw(st.integers(1, 9)),
        kl=draw(st.sampled_from([0.0, 0.3])),
        kl_to=draw(st.sampled_from(["behaviour", "reference"])),
    )


def loss(step, parts):
    """Ours, its gradient and its sums."""
    made = stepped.tokens(step)
    value, sums = objectives.loss(made, parts, objectives.normaliser([len(one) for one in step], parts))
    value.backward()
    return float(value.detach()), made.logp.grad.numpy(), sums


def away_from_corners(step, parts) -> bool:
    ratio = np.concatenate([stepped.ratios(one, parts) for one in step])
    return min(abs(ratio - 1 + parts.clip_low).min(), abs(ratio - 1 - parts.clip_high).min()) > 1e-4


@given(steps(), mixtures())
@settings(max_examples=300, deadline=None)
def test_any_mixture_is_its_formula_and_its_gradient_the_finite_difference(step, parts) -> None:
    assume(away_from_corners(step, parts))  # the clip's corners have no derivative
    value, slope, _ = loss(step, parts)
    assert value == pytest.approx(stepped.loss(step, parts), abs=1e-12)
    wanted = stepped.gradient(step, lambda moved: stepped.loss(moved, parts, frozen=step))
    assert slope == pytest.approx(wanted, abs=1e-6)


# Each paper's own formula, with its own numbers, over one group of responses.


def grpo_of_today(step):
    total = 0.0
    for one in step:
        weight = np.minimum(np.exp(one.proximal - one.behaviour), 2.0)
        ratio = np.exp(one.logp - one.proximal)
        total += (weight * np.minimum(ratio * one.advantage, np.clip(ratio, 0.8, 1.28) * one.advantage)).sum()
    return -total / sum(map(len, step))


def dr_grpo(step):
    total = 0.0
    for one in step:
        ratio = np.exp(one.logp - one.behaviour)
        total += np.minimum(ratio * one.advantage, np.clip(ratio, 0.8, 1.2) * one.advantage).sum() / 10
    return -total / len(step)


def dapo(step):
    total = 0.0
    for one in step:
        ratio = np.exp(one.logp - one.behaviour)
        total += np.minimum(ratio * one.advantage, np.clip(ratio, 0.8, 1.28) * one.advantage).sum()
    return -total / sum(map(len, step))


def gspo(step):
    total = 0.0
    for one in step:
        s = (np.exp(one.logp.sum()) / np.exp(one.behaviour.sum())) ** (1 / len(one))
        total += min(s * one.advantage, np.clip(s, 1 - 3e-4, 1 + 4e-4) * one.advantage)
    return -total / len(step)


def cispo(step, frozen):
    total = 0.0
    for one, held in zip(step, frozen, strict=True):
        ratio = np.exp(held.logp - held.behaviour)
        total += (np.minimum(ratio, 5.0) * one.advantage * one.logp).sum()
    return -total / sum(map(len, step))


def decoupled(step):
    total = 0.0
    for one in step:
        weight = np.minimum(np.exp(one.proximal - one.behaviour), 5.0)
        ratio = np.exp(one.logp - one.proximal)
        total += (weight * np.minimum(ratio * one.advantage, np.clip(ratio, 0.8, 1.2) * one.advantage)).sum()
    return -total / sum(map(len, step))


PAPERS = {"grpo": grpo_of_today, "dr_grpo": dr_grpo, "dapo": dapo, "gspo": gspo, "cispo": cispo, "decoupled": decoupled}


def as_the_trainer_hands_it(step, parts):
    """With proximal = 'behaviour' the sampler's log-probs stand in the place of the proximal ones."""
    return (
        [response(o.logp, o.behaviour, o.behaviour, o.reference, o.advantage) for o in step]
        if (parts.proximal == "behaviour")
        else step
    )


@pytest.mark.parametrize("name", PAPERS)
@given(steps())
@settings(max_examples=60, deadline=None)
def test_a_preset_is_its_papers_formula(name, step) -> None:
    parts = replace(PRESETS[name], constant_length=10)
    step = as_the_trainer_hands_it(step, parts)
    assume(away_from_corners(step, parts))

    def paper(moved):
        return cispo(moved, step) if name == "cispo" else PAPERS[name](moved)

    value, slope, _ = loss(step, parts)
    assert value == pytest.approx(paper(step), abs=1e-12)
    near = stepped.gradient(step, paper)
    assert slope == pytest.approx(near, abs=1e-6)


def test_every_preset_is_held_against_a_paper() -> None:
    assert set(PAPERS) == set(PRESETS)


def logs(*ratios):
    """Log-probs of a policy that is so many times as likely as one with log-probs of -2."""
    return [-2 + math.log(r) for r in ratios], [-2.0] * len(ratios)


def test_dapo_by_hand() -> None:
    up = response(*logs(1.5, 0.5), advantage=1.0)  # 1.28 and 0.5
    down = response(*logs(1.5, 0.5), advantage=-1.0)  # -1.5 and -0.8
    value, slope, sums = loss([up, down], PRESETS["dapo"])
    assert value == pytest.approx(-(1.28 + 0.5 - 1.5 - 0.8) / 4)
    assert slope == pytest.approx([0, -0.5 / 4, 1.5 / 4, 0])
    got = objectives.metrics(sums)
    assert (got["clip_low"], got["clip_high"], got["truncated"], got["clip_share"]) == (0.25, 0.25, 0, 0.5)


def test_gspo_by_hand() -> None:
    even = response(*logs(1.25, 0.8), advantage=3.0)  # the ratios cancel: s = 1
    risen = response(*logs(1.1, 1.1, 1.1), advantage=1.0)  # s = 1.1, held at 1.0004
    fallen = response(*logs(0.9), advantage=1.0)  # s = 0.9: a low ratio is not held where A > 0
    value, slope, sums = loss([even, risen, fallen], PRESETS["gspo"])
    assert value == pytest.approx(-(3 + 1.0004 + 0.9) / 3)
    assert slope == pytest.approx([-3 / 2 / 3, -3 / 2 / 3, 0, 0, 0, -0.9 / 3])
    assert objectives.metrics(sums)["clip_high"] == 0.5


def test_dr_grpo_by_hand() -> None:
    step = [response(*logs(1.0), advantage=2.0), response(*logs(1.0, 1.0, 1.0), advantage=-1.0)]
    value, slope, _ = loss(step, replace(PRESETS["dr_grpo"], constant_length=8))
    assert value == pytest.approx(-(2 - 3) / (2 * 8))
    assert slope == pytest.approx([-2 / 16, 1 / 16, 1 / 16, 1 / 16])


def test_cispo_by_hand_keeps_every_tokens_gradient() -> None:
    step = [response(*logs(6.0, 0.01), advantage=1.0), response(*logs(6.0, 0.01), advantage=-1.0)]
    _, slope, sums = loss(step, PRESETS["cispo"])
    assert slope == pytest.approx([-5 / 4, -0.01 / 4, 5 / 4, 0.01 / 4])
    assert objectives.metrics(sums)["clip_high"] == 0.5
    assert sums["weight"] == pytest.approx(2 * 5.01)


def test_decoupled_by_hand() -> None:
    policy, proximal = logs(1.5, 1.0, 1.0)
    behaviour = [-2 - math.log(2), -2 - math.log(7), -2 + math.log(2)]  # w: 2, 7 held at 5, 0.5
    value, slope, sums = loss([response(policy, proximal, behaviour)], PRESETS["decoupled"])
    assert value == pytest.approx(-(2 * 1.2 + 5 * 1 + 0.5) / 3)
    assert slope == pytest.approx([0, -5 / 3, -0.5 / 3])
    got = objectives.metrics(sums)
    assert (got["clip_high"], got["truncated"]) == pytest.approx((1 / 3, 1 / 3))
    assert got["ess"] == pytest.approx((2 * 1.5 + 5 + 0.5) ** 2 / (3 * ((2 * 1.5) ** 2 + 25 + 0.25)))


def test_the_paper_grpo_by_hand_with_its_kl_term() -> None:
    parts = Objective(
        proximal="behaviour", tis_cap=0, clip_high=0.2, normaliser="sequence_mean", kl=0.5, kl_to="reference"
    )
    short = response([-1.0], reference=[-1.0 + math.log(2)], advantage=1.0)  # k3 = 2 - 1 - log 2
    long = response([-1.0, -2.0], advantage=-1.0)  # the reference is the policy: k3 = 0
    value, slope, _ = loss([short, long], parts)
    assert value == pytest.approx(-((1 - 0.5 * (1 - math.log(2))) + (-1)) / 2)
    assert slope == pytest.approx([-(1 + 0.5 * (2 - 1)) / 2, 1 / 4, 1 / 4])


def test_a_reference_that_is_not_there_is_told() -> None:
    made = stepped.tokens([response([-1.0])])
    bare = objectives.Tokens(**{**vars(made), "reference": None})
    with pytest.raises(ValueError, match="reference policy"):
        objectives.loss(bare, Objective(kl=0.1, kl_to="reference"), 1.0)


@given(steps(), mixtures())
@settings(deadline=None)
def test_at_ratio_one_every_objective_is_the_plain_policy_gradient(step, parts) -> None:
    step = [response(one.logp, one.logp, one.logp, advantage=one.advantage) for one in step]
    parts = replace(parts, tis_cap=1.0)
    _, slope, sums = loss(step, parts)
    total, plain = sum(map(len, step)), []
    for one in step:
        share = {
            "token_mean": 1 / total,
            "sequence_mean": 1 / (len(one) * len(step)),
            "constant": 1 / (parts.constant_length * len(step)),
        }
        plain += [-one.advantage * share[parts.normaliser]] * len(one)
    assert slope == pytest.approx(plain, abs=1e-12)
    assert sums["cut"] == 0
    assert objectives.metrics(sums)["ess"] == pytest.approx(1)
    assert objectives.metrics(sums)["kl"] == 0


@given(steps(), steps(), mixtures())
@settings(deadline=None)
def test_under_a_constant_a_response_does_not_feel_the_lengths_of_the_others(step, others, parts) -> None:
    parts = replace(parts, normaliser="constant")
    others = [*others, *step][: len(step)]
    first = [loss([step[0], *rest[1:]], parts)[1][: len(step[0])] for rest in (step, others)]
    assert first[0] == pytest.approx(first[1], abs=1e-12)


@given(steps(), mixtures())
@settings(deadline=None)
def test_the_clip_never_makes_a_step_look_better(step, parts) -> None:
    parts = replace(parts, surrogate="clip")
    free = replace(parts, clip_low=1.0, clip_high=1e9)
    assert loss(step, parts)[0] >= loss(step, free)[0] - 1e-12


@given(steps(), mixtures())
@settings(deadline=None)
def test_truncation_never_makes_a_token_count_for_more(step, parts) -> None:
    weights = [loss(step, replace(parts, tis_cap=cap))[2]["weight"] for cap in (0.5, 2.0, 1e9)]
    assert weights == sorted(weights)


@given(steps(), mixtures())
@settings(deadline=None)
def test_micro_batches_of_whole_responses_add_up(step, parts) -> None:
    value, slope, sums = loss(step, parts)
    total = objectives.normaliser([len(one) for one in step], parts)
    alone = [stepped.tokens([one]) for one in reversed(step)]
    parted = [objectives.loss(made, parts, total) for made in alone]
    for part, _ in parted:
        part.backward()
    assert value == pytest.approx(sum(float(part.detach()) for part, _ in parted), abs=1e-12)
    assert slope == pytest.approx(np.concatenate([made.logp.grad.numpy() for made in reversed(alone)]), abs=1e-12)
    added = {name: sum(some[name] for _, some in parted) for name in sums}
    assert added == pytest.approx(sums, abs=1e-9)


@given(steps(), mixtures())
@settings(deadline=None)
def test_metrics_have_their_ranges(step, parts) -> None:
    got = objectives.metrics(loss(step, parts)[2])
    assert got["kl"] >= 0
    assert 0 < got["ess"] <= 1 + 1e-9
    assert got["entropy"] == pytest.approx(0.5)
    ends = [got[name] for name in ("clip_low", "clip_high", "truncated")]
    assert 0 <= max(ends) <= got["clip_share"] <= min(1, sum(ends)) + 1e-12


def test_kl_and_ess_by_hand() -> None:
    step = [response([-1.0, -1.0], behaviour=[-1.0, -1.0 - math.log(3)])]  # q = 1 and 3; w = 1 and 2
    got = objectives.metrics(loss(step, replace(PRESETS["grpo"]))[2])
    assert got["kl"] == pytest.approx((0 + 3 - 1 - math.log(3)) / 2)
    assert got["ess"] == pytest.approx(3**2 / (2 * 5))
    assert objectives.metrics({}) == dict.fromkeys(got, 0.0)


REWARDS = st.lists(st.floats(-3, 3), min_size=2, max_size=8)


@given(REWARDS, st.booleans(), st.sampled_from(["mean", "leave_one_out"]))
def test_advantages_are_centred(rewards, std, baseline) -> None:
    values = objectives.group_advantages(rewards, std=std, baseline=baseline)
    assert sum(values) == pytest.approx(0, abs=1e-6)
    assert values[rewards.index(max(rewards))] == max(values)
    assert values[rewards.index(min(rewards))] == min(values)


@given(REWARDS, st.booleans())
def test_leaving_one_out_is_the_mean_times_n_over_n_less_one(rewards, std) -> None:
    count = len(rewards)
    mean = objectives.group_advantages(rewards, std=std)
    out = objectives.group_advantages(rewards, std=std, baseline="leave_one_out")
    assert out == pytest.approx([value * count / (count - 1) for value in mean], rel=1e-9, abs=1e-9)
    if not std:
        others = [(sum(rewards) - reward) / (count - 1) for reward in rewards]
        assert out == pytest.approx([r - o for r, o in zip(rewards, others, strict=True)], abs=1e-9)


def test_advantages_by_hand() -> None:
    assert objectives.group_advantages([1, -1, -1, -1], std=True) == pytest.approx(
        [3**0.5, *[-(3**-0.5)] * 3], rel=1e-5
    )
    assert objectives.group_advantages([1, 1, 1, 1], std=True) == [0, 0, 0, 0]
    assert objectives.group_advantages([0.1, 0.1, 0.1], std=True) == [0, 0, 0], "the mean of three is not 0.1"
    assert objectives.group_advantages([1, 0, 0], std=False) == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert objectives.group_advantages([1, 0, 0], std=False, baseline="leave_one_out") == pytest.approx([1, -0.5, -0.5])
    assert objectives.group_advantages([5], std=False, baseline="leave_one_out") == [0]


def test_next_token_loss_is_the_mean_negative_log_prob() -> None:
    assert float(objectives.next_token_loss(torch.tensor([-1.0, -3.0]), 2)) == 2.0


def test_learning_rate_warms_up_then_falls_to_a_tenth() -> None:
    rates = [objectives.learning_rate(step, peak=1.0, warmup=4, total=20) for step in range(1, 25)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(a > b for a, b in pairwise(rates[3:20]))
    assert rates[19:] == pytest.approx([0.1] * 5)
    assert objectives.learning_rate(9, peak=2.0, warmup=0, total=0) == 2.0
