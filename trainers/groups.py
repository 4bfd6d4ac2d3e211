"""What RL makes of reward groups, without a process around it: refusal, rows with advantages, gradients, statistics."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from schemas.messages import RewardGroup
from schemas.settings import RlSection
from trainers import model as policy
from trainers.objectives import Objective, Tokens, group_advantages, metrics
from trainers.packing import Batch, Row, pack


def tokens(group: RewardGroup) -> int:
    """Response tokens of a group."""
    return sum(len(rollout.token_ids) for rollout in group.rollouts)


def lags(group: RewardGroup, version: int) -> Counter[int]:
    """How many tokens lie how many versions behind `version`."""
    counts: Counter[int] = Counter()
    for rollout in group.rollouts:
        for span in rollout.spans:
            counts[version - span.version] += span.stop - span.start
    return counts


def refusal(group: RewardGroup, *, version: int, max_lag: int) -> str:
    """Why a group cannot be trained on under `version`, or ''.

    malformed: lists that do not fit each other, spans that do not cover the tokens, no token at all, or a temperature
    that is not above zero (greedy tokens were not drawn from a distribution). aborted: a response was cut off by no
    fault of its own, so its reward says nothing. stale: a token's behaviour version lies more than `max_lag` behind.
    all_equal: no signal.
    """
    if _malformed(group):
        return "malformed"
    if any(rollout.finish == "abort" for rollout in group.rollouts):
        return "aborted"
    if max(lags(group, version), default=0) > max_lag:
        return "stale"
    return "" if max(group.rewards) > min(group.rewards) else "all_equal"


def _malformed(group: RewardGroup) -> bool:
    count = len(group.rollouts)
    if not group.prompt_ids or not count or len(group.rewards) != count or not tokens(group):
        return True
    if not 0 < group.temperature < math.inf:
        return True
    for rollout in group.rollouts:
        covered = [at for span in rollout.spans for at in range(span.start, span.stop)]
        if len(rollout.logprobs) != len(rollout.token_ids) or covered != list(range(len(rollout.token_ids))):
            return True
    return False


def rows(groups: Sequence[RewardGroup], *, std: bool) -> list[Row]:
    """One row a rollout: prompt and response, loss on the response, its advantage within the group."""
    return [
        Row(
            [*group.prompt_ids, *rollout.token_ids],
            len(group.prompt_ids),
            advantage,
            rollout.logprobs,
            group.temperature,
        )
        for group in groups
        for rollout, advantage in zip(group.rollouts, group_advantages(group.rewards, std=std), strict=True)
        if rollout.token_ids
    ]


def train(
    model: Any,  # noqa: ANN401 - transformers has no types
    wanted: Sequence[Row],
    objective: Objective,
    settings: RlSection,
) -> tuple[float, dict[str, float]]:
    """Accumulate the objective's gradient over all rows, in micro-batches of settings.batch_tokens.

    Returns:
        The loss and the summed statistics (see objectives.metrics).
    """
    total = sum(row.trained for row in wanted)
    loss = 0.0
    added: dict[str, float] = {}
    for batch in pack(wanted, settings.batch_tokens):
        here = batch.to(model.device)
        part, sums = objective(_tokens(model, here, settings), settings, float(total))
        part.backward()  # type: ignore[no-untyped-call]
        loss += float(part.detach())
        for name, value in sums.items():
            added[name] = added.get(name, 0.0) + value
    return loss, added


def _tokens(model: Any, batch: Batch, settings: RlSection) -> Tokens:  # noqa: ANN401
    """The batch's tokens with their log-probs now, of the distribution at the temperature that each was sampled at.

    The gradient is taken once a step, so the model at the step's start IS the model now and pi_old is logp, detached.
    """
    logits = policy.forward(model, batch, dtype=settings.dtype)
    logp, entropy = policy.token_logp(logits, batch.targets, batch.temperatures)
    proximal: torch.Tensor = logp.detach() if settings.proximal == "start" else batch.behaviour
    return Tokens(logp, proximal, batch.behaviour, batch.advantages, entropy, batch.at_row)


def describe(groups: Sequence[RewardGroup], sums: Mapping[str, float], *, version: int) -> dict[str, Any]:
    """The step's metrics from its sums, and its cohort's means.

    Reward, response length (tokens) and backtracks are a rollout's; the lag is a token's, in versions.
    """
    count = sum(len(group.rollouts) for group in groups)
    behind: Counter[int] = sum((lags(group, version) for group in groups), Counter())
    return {
        **metrics(sums),
        "reward": sum(sum(group.rewards) for group in groups) / count,
        "length": sum(tokens(group) for group in groups) / count,
        "backtracks": sum(sum(group.backtracks) for group in groups) / count,
        "lag_mean": sum(lag * n for lag, n in behind.items()) / max(behind.total(), 1),
        "lag_max": max(behind, default=0),
    }
