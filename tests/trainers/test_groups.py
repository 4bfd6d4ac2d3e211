"""What RL makes of groups: refusals, rows, and a gradient that makes the rewarded response likelier."""

import dataclasses

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rewarded import group, sampled_at

from schemas.messages import Span
from schemas.objective import PRESETS, Objective
from schemas.settings import RlSection
from trainers import groups, model
from trainers.weights import score

change = msgspec.structs.replace
GRPO = Objective()
OVERLONG = Objective(mask_overlong=True)
EVERY = Objective(dynamic_sampling=False)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 5))
def test_stale_is_more_than_max_lag_behind(version, behaviour, max_lag) -> None:
    why = groups.refusal(group(1, version=behaviour), version=version, max_lag=max_lag, parts=GRPO)
    assert why == ("stale" if version - behaviour > max_lag else "")


def test_one_old_span_makes_a_group_stale() -> None:
    made = group(1, version=5)
    first = made.rollouts[0]
    spans = [Span(version=1, sha="a", start=0, stop=2), Span(version=5, sha="b", start=2, stop=len(first.token_ids))]
    made = change(made, rollouts=[change(first, spans=spans), *made.rollouts[1:]])
    assert groups.refusal(made, version=5, max_lag=3, parts=GRPO) == "stale"
    assert groups.refusal(made, version=5, max_lag=4, parts=GRPO) == ""
    assert groups.lags(made, 5)[4] == 2


@pytest.mark.parametrize(
    "broken",
    [
        {"rewards": [1.0]},
        {"rollouts": []},
        {"prompt_ids": []},
        {"rollouts": [change(r, spans=r.spans[:0]) for r in group(1, version=0).rollouts]},
        {"rollouts": [change(r, logprobs=r.logprobs[1:]) for r in group(1, version=0).rollouts]},
        {"rollouts": [change(r, token_ids=[], logprobs=[], spans=[]) for r in group(1, version=0).rollouts]},
        {"rollouts": [change(r, logprobs=[-1e300] * len(r.logprobs)) for r in group(1, version=0).rollouts]},
        {"rollouts": [change(r, logprobs=[0.5] * len(r.logprobs)) for r in group(1, version=0).rollouts]},
        {"rollouts": [change(r, token_ids=[-1] * len(r.token_ids)) for r in group(1, version=0).rollouts]},
        {"rewards": [1e308] * len(group(1, version=0).rewards)},
        {"temperature": 0.0},
        {"temperature": float("nan")},
    ],
)
def test_what_does_not_fit_or_cannot_be_is_refused(broken) -> None:
    assert groups.refusal(change(group(1, version=0), **broken), version=0, max_lag=0, parts=GRPO) == "malformed"


def test_rows_carry_the_group_token_for_token() -> None:
    made = group(1, version=0, rewards=(1, -1, -1, -1), size=4)
    rows = groups.rows([made], GRPO)
    for row, rollout in zip(rows, made.rollouts, strict=True):
        assert list(row.ids) == [*made.prompt_ids, *rollout.token_ids]
        assert row.trained == len(rollout.token_ids)
        assert list(row.behaviour) == rollout.logprobs
    assert [round(row.advantage, 3) for row in rows] == [1.732, -0.577, -0.577, -0.577]


@pytest.mark.parametrize("name", PRESETS)
def test_steps_make_the_rewarded_response_likelier(llama, name) -> None:
    model.prepare(1, 0)
    policy = model.load(llama())
    opt = model.optimizer(policy, lr=1e-3, weight_decay=0.0)
    made = sampled_at(group(3, version=0), policy, 1.0)
    parts = change(PRESETS[name], constant_length=10)

    def likelihoods() -> list[float]:
        prompt = len(made.prompt_ids)
        return [sum(score(policy, [*made.prompt_ids, *r.token_ids])[prompt - 1 :]) for r in made.rollouts]

    before = likelihoods()
    settings = RlSection(batch_tokens=20)
    for _ in range(3):
        groups.train(policy, groups.rows([made], parts), parts, settings)
        model.apply_gradients(policy, opt, lr=1e-3, clip=1.0)
    after = likelihoods()
    assert after[0] > before[0]
    assert after[1] < before[1]


@pytest.mark.parametrize("parts", [GRPO, PRESETS["gspo"], change(GRPO, kl=0.1, normaliser="sequence_mean")])
def test_micro_batches_give_the_whole_batchs_gradient(llama, parts) -> None:
    policy = model.load(llama())
    made = [sampled_at(group(i, version=0), policy, 0.5 + i) for i in range(4)]
    rows = groups.rows(made, parts)
    gradients = []
    for budget in (10_000, 30):
        policy.zero_grad()
        loss, sums = groups.train(policy, rows, parts, RlSection(batch_tokens=budget))
        gradients.append([p.grad.clone() for p in policy.parameters()])
    for whole, cut in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, cut, atol=1e-6, rtol=1e-4)
    assert max(float(whole.abs().max()) for whole in gradients[0]) > 1e-4
    assert sums["tokens"] == sum(row.trained for row in rows)
    assert torch.isfinite(torch.tensor(loss))


def test_fixed_log_probs_stand_for_the_policies_they_were_taken_from(llama) -> None:
    model.prepare(1, 0)
    policy = model.load(llama())
    made = [change(group(i, version=0), temperature=0.5 + i) for i in range(3)]
    parts = change(GRPO, kl=0.5, kl_to="reference")
    rows, settings = groups.rows(made, parts), RlSection(batch_tokens=30)
    start = groups.logps(policy, rows, parts, settings)
    assert [len(start[at]) for at in range(len(rows))] == [row.trained for row in rows]
    fixed = {"proximal": start, "reference": start}
    same = groups.train(policy, rows, parts, settings, fixed)
    plain = groups.train(policy, rows, GRPO, settings)
    assert same == plain, "nothing has moved yet: every ratio is 1 and the KL term 0, bit for bit"
    policy.zero_grad()
    with torch.no_grad():
        policy.get_input_embeddings().weight.mul_(1.5)
    moved, sums = groups.train(policy, rows, change(parts, kl=0.0), settings, fixed)
    anchored, _ = groups.train(policy, rows, parts, settings, fixed)
    assert moved != plain[0]
    assert sums["low"] + sums["high"] > 0, "the clip holds against where the step began"
    assert anchored > moved


def test_a_step_is_cut_into_even_shares_in_order() -> None:
    made = [group(i, version=0) for i in range(7)]
    cut = groups.shares(made, 3)
    assert [len(share) for share in cut] == [2, 2, 3]
    assert [one for share in cut for one in share] == made
    assert groups.shares(made, 1) == [made]


def test_under_the_overlong_filter_a_cut_off_response_counts_and_is_not_trained_on() -> None:
    made = group(1, version=0, rewards=(1, -1, -1), size=3)
    made = change(made, rollouts=[*made.rollouts[:2], change(made.rollouts[2], finish="length")])
    kept = groups.rows([made], OVERLONG)
    assert [row.advantage for row in kept] == [row.advantage for row in groups.rows([made], GRPO)[:2]]
    assert groups.refusal(made, version=0, max_lag=0, parts=OVERLONG) == ""
    every = group(1, version=0, finish="length")
    assert groups.refusal(every, version=0, max_lag=0, parts=OVERLONG) == "overlong"
    assert groups.refusal(every, version=0, max_lag=0, parts=GRPO) == ""


@pytest.mark.parametrize("parts", [EVERY, *(change(parts, dynamic_sampling=False) for parts in PRESETS.values())])
def test_without_dynamic_sampling_an_equal_group_weighs_in_the_normaliser_and_costs_nothing(llama, parts) -> None:
    model.prepare(1, 0)
    policy = model.load(llama())
    made = [group(1, version=0), group(2, version=0, rewards=(1, 1)), group(3, version=0)]
    assert groups.refusal(made[1], version=0, max_lag=0, parts=GRPO) == "all_equal"
    assert groups.refusal(made[1], version=0, max_lag=0, parts=parts) == ""
    parts = change(parts, constant_length=50)
    rows = groups.rows(made, parts)
    assert groups.bearing(rows, parts) == rows[:2] + rows[4:]

    def gradient(wanted, parts):
        policy.zero_grad()
        loss, sums = groups.train(policy, wanted, parts, RlSection())
        return loss, sums, [parameter.grad.clone() for parameter in policy.parameters()]

    loss, sums, skipped = gradient(rows, parts)
    computed = [row if row.advantage else dataclasses.replace(row, advantage=1e-30) for row in rows]
    whole, every, of_all = gradient(computed, parts)
    assert loss == pytest.approx(whole, rel=1e-4)
    assert every["tokens"] - sums["tokens"] == sum(row.trained for row in rows[2:4])
    for one, other in zip(skipped, of_all, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-3)
    assert gradient(rows[:2] + rows[4:], parts)[0] != pytest.approx(loss, rel=1e-3), "the normaliser has them"


def test_a_step_without_any_signal_has_a_gradient_of_zeros(llama) -> None:
    policy = model.load(llama())
    rows = groups.rows([group(1, version=0, rewards=(1, 1)), group(2, version=0, rewards=(-1, -1))], EVERY)
    loss, sums = groups.train(policy, rows, EVERY, RlSection())
    assert (loss, sums["tokens"]) == (0, rows[0].trained)
    assert all(float(parameter.grad.abs().max()) == 0 for parameter in policy.parameters())


def test_a_row_without_a_signal_is_computed_where_a_term_besides_the_surrogate_wants_it() -> None:
    rows = groups.rows([group(1, version=0, rewards=(1, 1)), group(2, version=0)], EVERY)
    assert len(groups.bearing(rows, EVERY)) == 2
    assert groups.bearing(rows, change(EVERY, kl=0.1)) == rows
    assert groups.bearing(rows, change(EVERY, loss="somebodys")) == rows


def test_each_group_is_trained_at_the_temperature_that_it_was_sampled_at(llama) -> None:
    policy = model.load(llama())
    made = [sampled_at(group(i, version=0), policy, temperature) for i, temperature in enumerate((0.5, 1.0, 2.0))]
    _, sums = groups.train(policy, groups.rows(made, GRPO), GRPO, RlSection())
    assert abs(sums["kl"]) < 1e-6 * sums["tokens"], "the model IS the sampler: nothing lies between them"
    assert sums["weight"] == pytest.approx(sums["tokens"], rel=1e-4)
    wrong = [change(one, temperature=1.0) for one in made]
    _, sums = groups.train(policy, groups.rows(wrong, GRPO), GRPO, RlSection())
    assert sums["kl"] > 0.01 * sums["tokens"]


def test_tokens_beyond_the_vocabulary_are_refused() -> None:
    made = group(1, version=0)
    largest = max(token for row in (made.prompt_ids, *(r.token_ids for r in made.rollouts)) for token in row)
    assert groups.refusal(made, version=0, max_lag=0, parts=GRPO, vocabulary=largest + 1) != "malformed"
    assert groups.refusal(made, version=0, max_lag=0, parts=GRPO, vocabulary=largest) == "malformed"
