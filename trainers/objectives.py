r"""What a trainer minimises: pure functions from tensors to a loss and its metrics, one for each objective.

Every loss is a SUM over tokens divided by a normaliser that the caller gives, so micro-batches add up to the whole
batch exactly. A new objective (dr_grpo, dapo, gspo, cispo) is one more function with this signature in `objective`;
`Tokens.sequence` says which response a token belongs to, for those that need a ratio of the whole sequence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

from schemas.settings import RlSection

Tensor = torch.Tensor
Sums = dict[str, float]
EPSILON = 1e-6


@dataclass(frozen=True)
class Tokens:
    r"""The K response tokens of a micro-batch; every tensor is (K,).

    Attributes:
        logp: \log \pi_\theta of each token under the model being trained; gradients flow here only.
        proximal: \log \pi_{old}: the model at the start of the step.
        behaviour: \log \pi_b: the sampler's, as it travelled with the rollout.
        advantages: A of each token.
        entropy: of the policy at each token (nats); for the metrics.
        sequence: int64, which response each token belongs to.
    """

    logp: Tensor
    proximal: Tensor
    behaviour: Tensor
    advantages: Tensor
    entropy: Tensor
    sequence: Tensor


Objective = Callable[[Tokens, RlSection, float], tuple[Tensor, Sums]]


def group_advantages(rewards: Sequence[float], *, std: bool) -> list[float]:
    r"""A_i = r_i - mean(r), divided by (std(r) + 1e-6) where `std` (GRPO, arXiv 2402.03300; population std).

    Without the division this is Dr. GRPO's (arXiv 2503.20783). All equal rewards give zeros.
    """
    mean = sum(rewards) / len(rewards)
    centred = [reward - mean for reward in rewards]
    scale = (sum(c * c for c in centred) / len(centred)) ** 0.5 + EPSILON if std else 1.0
    return [c / scale for c in centred]


def grpo(tokens: Tokens, settings: RlSection, normaliser: float) -> tuple[Tensor, Sums]:
    r"""GRPO, token mean, no KL term, clip-higher, with a truncated importance weight.

        r_t = \pi_\theta / \pi_{old}        w_t = min(\pi_{old} / \pi_b, C), no gradient
        L = - \sum_t w_t min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t) / normaliser

    The clipped surrogate is PPO's (arXiv 1707.06347) with DAPO's two clips (arXiv 2503.14476); w is the truncated
    importance weight between the trainer's and the sampler's distribution, as in the decoupled objective of AReaL
    (arXiv 2505.24298). With `proximal` = `behaviour`, w is 1 and this is plain off-policy GRPO.

    Args:
        tokens: K response tokens.
        settings: clip_low, clip_high, tis_cap.
        normaliser: the number of response tokens in the whole step (token mean).

    Returns:
        The scalar loss and `sums` of this micro-batch.
    """
    ratio = torch.exp(tokens.logp - tokens.proximal)
    raw = torch.exp(tokens.proximal - tokens.behaviour).detach()
    weight = raw.clamp(max=settings.tis_cap)
    clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    surrogate = torch.minimum(ratio * tokens.advantages, clipped * tokens.advantages)
    loss = -(weight * surrogate).sum() / normaliser
    cut = (clipped * tokens.advantages < ratio * tokens.advantages) | (raw > settings.tis_cap)
    return loss, sums(tokens, weight, cut)


def sums(tokens: Tokens, weight: Tensor, cut: Tensor) -> Sums:
    r"""Additive statistics of a micro-batch; `metrics` turns their totals into shares and means.

    kl is the k3 estimate of KL(behaviour || current): mean of q - 1 - log q, q = \pi_\theta / \pi_b
    (http://joschu.net/blog/kl-approx.html): never negative, unbiased under samples of the behaviour.
    """
    with torch.no_grad():
        log_q = tokens.logp.detach() - tokens.behaviour
        return {
            "tokens": float(log_q.numel()),
            "entropy": float(tokens.entropy.sum()),
            "kl": float((torch.expm1(log_q) - log_q).sum()),
            "cut": float(cut.sum()),
            "weight": float(weight.sum()),
            "weight_squared": float((weight * weight).sum()),
        }


def metrics(total: Mapping[str, float]) -> dict[str, float]:
    """From summed statistics: entropy and kl (nats a token), clip_share and ess (shares of the tokens).

    clip_share counts tokens whose ratio the clip cuts or whose importance weight is truncated.
    ess = (sum w)^2 / (n sum w^2) over the weights as used.
    """
    count = total.get("tokens", 0.0)
    if not count:
        return {"entropy": 0.0, "kl": 0.0, "clip_share": 0.0, "ess": 0.0}
    return {
        "entropy": total["entropy"] / count,
        "kl": total["kl"] / count,
        "clip_share": total["cut"] / count,
        "ess": total["weight"] ** 2 / (count * total["weight_squared"]) if total["weight_squared"] else 0.0,
    }


OBJECTIVES: Mapping[str, Objective] = MappingProxyType({"grpo": grpo})


def objective(name: str) -> Objective:
    """The objective that settings.rl.objective names.

    Raises:
        ValueError: for a name that is none.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"rl.objective = {name}: there are: {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


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
