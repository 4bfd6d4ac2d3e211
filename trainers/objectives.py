r"""What a trainer minimises: pure functions from tensors to a loss and its sums, put together from named parts.

With r the ratio, w the importance weight, A the advantage and k the KL estimate of a response token t of response i:

    r = (\pi_\theta / \pi_{old}),   clip(r) = r cut to [1 - clip_low, 1 + clip_high],   w = min(\pi_{old} / \pi_b, C)
    L = - sum_t c_i (w S - kl k),   S = min(r A, clip(r) A) or clip(r) A \log \pi_\theta, no gradient through clip(r)

c_i makes the mean (`normalised`). schemas/objective.py says which parts make GRPO, Dr. GRPO, DAPO, GSPO, CISPO and
decoupled PPO, and where a preset departs from its paper. Every loss is a sum over tokens divided by a normaliser of
the whole step, so micro-batches of whole responses add up to the step exactly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from schemas import plugins
from schemas.objective import Baseline, Level, Normaliser, Objective

Tensor = torch.Tensor
Sums = dict[str, float]
EPSILON = 1e-6


@dataclass(frozen=True)
class Tokens:
    r"""The K response tokens of a micro-batch; every tensor is (K,).

    Attributes:
        logp: \log \pi_\theta of each token under the model being trained; gradients flow here only.
        proximal: \log \pi_{old}: the model at the start of the step, or the sampler.
        behaviour: \log \pi_b: the sampler's, as it travelled with the rollout.
        advantages: A of each token.
        entropy: of the policy at each token (nats); for the metrics.
        sequence: int64, which response each token belongs to; a response is never split between micro-batches.
        reference: \log of the reference policy, where the KL term needs it.
    """

    logp: Tensor
    proximal: Tensor
    behaviour: Tensor
    advantages: Tensor
    entropy: Tensor
    sequence: Tensor
    reference: Tensor | None = None


def group_advantages(rewards: Sequence[float], *, std: bool, baseline: Baseline = "mean") -> list[float]:
    r"""A_i = r_i - b_i, divided by (std(r) + 1e-6) where `std` (GRPO, arXiv 2402.03300; population std).

    b_i is the mean of the group, or of the others in it (leave one out: RLOO, arXiv 2402.14740), which makes A_i
    n / (n - 1) times as large. Without the division the mean is Dr. GRPO's (arXiv 2503.20783). All equal rewards give
    zeros. TRL divides by the sample standard deviation + 1e-4 instead.
    """
    count = len(rewards)
    if max(rewards) <= min(rewards):  # whatever the mean is rounded to
        return [0.0] * count
    mean = sum(rewards) / count
    centred = [reward - mean for reward in rewards]
    scale = (sum(c * c for c in centred) / count) ** 0.5 + EPSILON if std else 1.0
    if baseline == "leave_one_out":
        scale *= (count - 1) / count if count > 1 else 1.0
    return [c / scale for c in centred]


def normaliser(lengths: Sequence[int], parts: Objective) -> float:
    """What `loss` divides by for a step of responses of these many trained tokens.

    token_mean: all tokens (DAPO, CISPO). sequence_mean: the number of responses, each already divided by its length
    (GRPO, GSPO). constant: responses times constant_length, so no response weighs on another (Dr. GRPO).
    """
    if parts.normaliser == "token_mean":
        return float(sum(lengths))
    if parts.normaliser == "sequence_mean":
        return float(len(lengths))
    return float(len(lengths) * parts.constant_length)


def loss(tokens: Tokens, parts: Objective, total: float) -> tuple[Tensor, Sums]:
    r"""The loss of a micro-batch, and its sums for `metrics`.

    Sources: the clipped surrogate is PPO's (arXiv 1707.06347) with DAPO's two clips (arXiv 2503.14476); CISPO's weight
    is equation 4 of arXiv 2506.13585; w beside a ratio to the proximal policy is AReaL's decoupled objective (equation
    5 of arXiv 2505.24298), truncated from above only. w weighs the surrogate and not the KL term.

    Args:
        tokens: K response tokens.
        parts: the objective.
        total: `normaliser` of the whole step.
    """
    ratio = torch.exp(at_level(tokens.logp - tokens.proximal, tokens.sequence, parts.ratio))
    clipped = ratio.clamp(1 - parts.clip_low, 1 + parts.clip_high)
    raw = torch.exp(tokens.proximal - tokens.behaviour).detach()
    weight = raw.clamp(max=parts.tis_cap) if parts.tis_cap else torch.ones_like(raw)
    if parts.surrogate == "clip":
        surrogate = torch.minimum(ratio * tokens.advantages, clipped * tokens.advantages)
    else:
        surrogate = clipped.detach() * tokens.advantages * tokens.logp
    each = weight * surrogate
    if parts.kl:
        each = each - parts.kl * k3(tokens.logp, _anchor(tokens, parts))
    low, high = cut(ratio, tokens.advantages, parts)
    importance = weight * (ratio if parts.surrogate == "clip" else clipped).detach()
    truncated = raw > parts.tis_cap if parts.tis_cap else torch.zeros_like(low)
    value = -normalised(each, tokens.sequence, parts.normaliser, total)
    return value, sums(tokens, importance, {"low": low, "high": high, "truncated": truncated})


def loss_of(parts: Objective) -> Callable[[Tokens, Objective, float], tuple[Tensor, Sums]]:
    """What computes the loss of these parts: `loss`, or an installed objective, which takes and gives what it does.

    Raises:
        BadPlugin: it is not installed or cannot be imported.
    """
    return plugins.load_function(plugins.OBJECTIVES, parts.loss) if parts.loss else loss


def at_level(log_ratio: Tensor, sequence: Tensor, level: Level) -> Tensor:
    r"""The log of r of each token (K,): its own, or for all tokens of a response the mean of theirs.

    The mean is GSPO's s_i = (\pi_\theta(y_i) / \pi_{old}(y_i))^{1 / |y_i|} (equation 7 of arXiv 2507.18071).
    """
    if level == "token":
        return log_ratio
    lengths = torch.bincount(sequence)
    added = torch.zeros(len(lengths), dtype=log_ratio.dtype, device=log_ratio.device).index_add(0, sequence, log_ratio)
    return (added / lengths.clamp(min=1))[sequence]


def k3(logp: Tensor, anchor: Tensor) -> Tensor:
    r"""The k3 estimate x - 1 - \log x, x = \pi_{anchor} / \pi_\theta (K,): GRPO's KL term (arXiv 2402.03300, eq. 4).

    An estimate of KL(\pi_\theta || \pi_{anchor}), unbiased only for tokens that \pi_\theta itself sampled; the tokens
    here are the sampler's, as in GRPO.
    """
    log_x = anchor - logp
    return torch.expm1(log_x) - log_x


def _anchor(tokens: Tokens, parts: Objective) -> Tensor:
    if parts.kl_to == "behaviour":
        return tokens.behaviour
    if tokens.reference is None:
        raise ValueError("kl_to = 'reference' needs the reference policy's log-probs")
    return tokens.reference


def normalised(each: Tensor, sequence: Tensor, kind: Normaliser, total: float) -> Tensor:
    """The sum of a value a token (K,), divided by `total`; for sequence_mean by each response's length before."""
    if kind == "sequence_mean":
        each = each / torch.bincount(sequence)[sequence]
    return each.sum() / total


def cut(ratio: Tensor, advantages: Tensor, parts: Objective) -> tuple[Tensor, Tensor]:
    """Which tokens (K,) the clip holds at its low and at its high end.

    Under 'clip' a token is held where it gets no gradient: below with A < 0, above with A > 0. Under 'weight' it keeps
    a gradient, of a clipped weight, whatever the sign of A.
    """
    low, high = ratio < 1 - parts.clip_low, ratio > 1 + parts.clip_high
    if parts.surrogate == "clip":
        low, high = low & (advantages < 0), high & (advantages > 0)
    return low, high


def sums(tokens: Tokens, importance: Tensor, flags: Mapping[str, Tensor]) -> Sums:
    r"""Additive statistics of a micro-batch; `metrics` turns their totals into shares and means.

    kl is the k3 estimate of KL(behaviour || current): mean of q - 1 - log q, q = \pi_\theta / \pi_b
    (http://joschu.net/blog/kl-approx.html): never negative, unbiased under samples of the behaviour.

    Args:
        tokens: the micro-batch.
        importance: (K,) how much a token counts for having been sampled by another policy: w r, for CISPO w clip(r).
        flags: 'low', 'high', 'truncated': (K,) what was cut.
    """
    with torch.no_grad():
        log_q = tokens.logp.detach() - tokens.behaviour
        held = torch.stack(list(flags.values())).any(0)
        added = {
            "entropy": tokens.entropy.sum(),
            "kl": (torch.expm1(log_q) - log_q).sum(),
            "cut": held.sum(),
            "weight": importance.sum(),
            "weight_squared": (importance * importance).sum(),
            **{name: flag.sum() for name, flag in flags.items()},
        }
        values = torch.stack([value.to(log_q.dtype) for value in added.values()]).tolist()  # a GPU is waited for once
        return {"tokens": float(log_q.numel()), **dict(zip(added, values, strict=True))}


def metrics(total: Mapping[str, float]) -> dict[str, float]:
    """From summed statistics: entropy and kl (nats a token), the rest shares of the tokens; all 0 without tokens.

    clip_low, clip_high: held by the clip (`cut`). truncated: above tis_cap. clip_share: any of the three.
    ess = (sum u)^2 / (n sum u^2) over the importance u of each token (`sums`).
    """
    shares = {"entropy": "entropy", "kl": "kl", "clip_share": "cut", "clip_low": "low", "clip_high": "high"}
    count = total.get("tokens", 0.0)
    found = {name: total[key] / count if count else 0.0 for name, key in (shares | {"truncated": "truncated"}).items()}
    squares = total["weight_squared"] * count if count else 0.0
    return found | {"ess": total["weight"] ** 2 / squares if squares else 0.0}


def next_token_loss(logp: Tensor, normaliser: float) -> Tensor:
    r"""SFT: L = - \sum_t \log \pi_\theta(t) / normaliser, the mean over the trained tokens of the whole step."""
    return -logp.sum() / normaliser


def learning_rate(step: int, *, peak: float, warmup: int, total: int) -> float:
    """Linear warm-up over `warmup` steps, then cosine to a tenth of the peak at `total` (0: constant); step from 1."""
    if step <= warmup:
        return peak * step / warmup
    if total <= warmup:
        return peak
    progress = min((step - warmup) / (total - warmup), 1.0)
    return peak * (0.55 + 0.45 * float(torch.cos(torch.tensor(progress * torch.pi, dtype=torch.float64))))
