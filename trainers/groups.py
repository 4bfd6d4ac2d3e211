"""What RL makes of reward groups, without a process around it: refusal, rows with advantages, gradients, statistics."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch

from schemas.messages import RewardGroup, Rollout
from schemas.objective import Objective
from schemas.training_settings import RlSection
from trainers import model as policy
from trainers import objectives
from trainers.objectives import Tokens
from trainers.packing import Batch, Row, pack
from trainers.ranks import ALONE, Ranks

LARGEST = 1e4
"""Of a reward, and of a log-prob below zero (nats): beyond it is an error, not a measurement."""
ROUNDING = 1e-2
"""How far above zero an engine's log-prob may come by rounding."""


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


def refusal(group: RewardGroup, *, version: int, max_lag: int, parts: Objective, vocabulary: float = math.inf) -> str:
    """Why a group cannot be trained on under `version`, or ''.

    malformed: lists that do not fit each other, spans that do not cover the tokens, no token at all, one beyond the
    `vocabulary`, numbers that are no log-probs or would overflow (a trainer that died of one group would meet it again
    and again), or a temperature that is not above zero (greedy tokens were not drawn from a distribution). aborted: a
    response was cut off by no fault of its own, so its reward says nothing. stale: a token lies more than `max_lag`
    versions behind. all_equal: no signal, under the `parts`' dynamic_sampling. overlong: under their mask_overlong,
    every response was cut off at the largest length.
    """
    if _malformed(group) or _impossible(group, vocabulary):
        return "malformed"
    if any(rollout.finish == "abort" for rollout in group.rollouts):
        return "aborted"
    if max(lags(group, version), default=0) > max_lag:
        return "stale"
    if parts.dynamic_sampling and max(group.rewards) <= min(group.rewards):
        return "all_equal"
    kept = any(_trainable(rollout, parts) for rollout in group.rollouts)
    return "" if kept else "overlong"


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


def _impossible(group: RewardGroup, vocabulary: float) -> bool:
    ids = [group.prompt_ids, *(rollout.token_ids for rollout in group.rollouts)]
    if any(not 0 <= token < vocabulary for row in ids for token in row):
        return True
    if any(abs(reward) > LARGEST for reward in group.rewards):
        return True
    return any(not -LARGEST < logprob < ROUNDING for rollout in group.rollouts for logprob in rollout.logprobs)


def rows(groups: Sequence[RewardGroup], parts: Objective) -> list[Row]:
    """One row a rollout: prompt and response, loss on the response, its advantage within the group.

    Under `mask_overlong` a rollout that was cut off at the largest length has no row; its reward counts in its group.
    """
    return [
        Row(
            [*group.prompt_ids, *rollout.token_ids],
            len(group.prompt_ids),
            advantage,
            rollout.logprobs,
            group.temperature,
        )
        for group in groups
        for rollout, advantage in zip(
            group.rollouts,
            objectives.group_advantages(group.rewards, std=parts.advantage_std, baseline=parts.baseline),
            strict=True,
        )
        if _trainable(rollout, parts)
    ]


def _trainable(rollout: Rollout, parts: Objective) -> bool:
    return bool(rollout.token_ids) and not (parts.mask_overlong and rollout.finish == "length")


def bearing(wanted: Sequence[Row], parts: Objective) -> Sequence[Row]:
    """The rows that have a part in the gradient: a surrogate times an advantage of zero has none, at any weights.

    At least one, whose gradient of zeros the optimizer then has. An added objective may do more with a token: all.
    """
    if parts.kl or parts.loss:
        return wanted
    return [row for row in wanted if row.advantage] or wanted[:1]


def shares(groups: Sequence[RewardGroup], count: int) -> list[Sequence[RewardGroup]]:
    """The groups cut, in order, into `count` shares whose sizes differ by at most one."""
    ends = [len(groups) * at // count for at in range(count + 1)]
    return [groups[begin:end] for begin, end in pairwise(ends)]


def logps(
    model: Any,  # noqa: ANN401 - transformers has no types
    wanted: Sequence[Row],
    parts: Objective,
    settings: RlSection,
    ranks: Ranks = ALONE,
) -> dict[int, torch.Tensor]:
    """Log-probs (its trained tokens,) under a model as it is now, at the row's temperature, no gradient.

    Of each row, by its index among those that are `bearing`, that `train` gives this rank.
    """
    found: dict[int, torch.Tensor] = {}
    wanted = bearing(wanted, parts)
    how = policy.packing(model, settings.packing)
    for batch in pack(wanted, settings.micro, how, rank=ranks.rank, world=ranks.world):
        here = batch.to(model.device)
        with torch.no_grad():
            logits = policy.forward(model, here, dtype=settings.dtype)
            logp, _ = policy.token_logp(logits, here.targets, here.temperatures)
        each = torch.split(logp, [wanted[index].trained for index in batch.rows])
        found |= zip(batch.rows, each, strict=True)
    return found


def train(
    model: Any,  # noqa: ANN401 - transformers has no types
    wanted: Sequence[Row],
    parts: Objective,
    settings: RlSection,
    fixed: Mapping[str, Mapping[int, torch.Tensor]] = MappingProxyType({}),
    ranks: Ranks = ALONE,
) -> tuple[float, dict[str, float]]:
    """Accumulate the objective's gradient over all rows, in micro-batches of settings.batch_tokens.

    With several ranks each does its share; FSDP2 makes the mean of their gradients, which is wanted as a sum. Rows that
    are not `bearing` count in the normaliser and are not computed, so the statistics are not of their tokens.

    Args:
        model: a causal LM.
        wanted: rows, all of which bear loss.
        parts: the objective.
        settings: batch_tokens, packing and dtype.
        fixed: 'proximal' and 'reference' log-probs of each row (`logps`), where the objective needs them. Without
            'proximal' the model at the start of the step is the model now.
        ranks: this process among its like.

    Returns:
        The loss and the summed statistics (see objectives.metrics), of all ranks.
    """
    total = objectives.normaliser([row.trained for row in wanted], parts)
    loss = objectives.loss_of(parts)
    added: dict[str, float] = {"loss": 0.0}
    how = policy.packing(model, settings.packing)
    for batch in pack(bearing(wanted, parts), settings.micro, how, rank=ranks.rank, world=ranks.world):
        here = batch.to(model.device)
        part, sums = loss(_tokens(model, here, parts, settings, fixed), parts, total)
        (part * ranks.world if ranks.world > 1 else part).backward()  # type: ignore[no-untyped-call]
        for name, value in {"loss": float(part.detach()), **sums}.items():
            added[name] = added.get(name, 0.0) + value
    added = ranks.sum(added)
    return added.pop("loss"), added


def _tokens(
    model: Any,  # noqa: ANN401
    batch: Batch,
    parts: Objective,
    settings: RlSection,
    fixed: Mapping[str, Mapping[int, torch.Tensor]],
) -> Tokens:
    """The batch's tokens with their log-probs now, of the distribution at the temperature that each was sampled at."""
    logits = policy.forward(model, batch, dtype=settings.dtype)
    logp, entropy = policy.token_logp(logits, batch.targets, batch.temperatures)
    none = logp[:0].detach()
    known = {name: torch.cat([none, *(values[index] for index in batch.rows)]) for name, values in fixed.items()}
    start = known.get("proximal", logp.detach())
    proximal = start if parts.proximal == "start" else batch.behaviour
    reference = known.get("reference")
    return Tokens(logp, proximal, batch.behaviour, batch.advantages, entropy, batch.sequence, reference)


def describe(groups: Sequence[RewardGroup], sums: Mapping[str, float], *, version: int) -> dict[str, Any]:
    """The step's metrics from its sums, and its cohort's means.

    Reward, response length (tokens) and backtracks are a rollout's; the lag is a token's, in versions.
    """
    count = sum(len(group.rollouts) for group in groups)
    behind: Counter[int] = sum((lags(group, version) for group in groups), Counter())
    return {
        **objectives.metrics(sums),
        "reward": sum(sum(group.rewards) for group in groups) / count,
        "length": sum(tokens(group) for group in groups) / count,
        "backtracks": sum(sum(group.backtracks) for group in groups) / count,
        "lag_mean": sum(lag * n for lag, n in behind.items()) / max(behind.total(), 1),
        "lag_max": max(behind, default=0),
    }
