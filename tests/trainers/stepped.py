"""A step's tokens made by hand in float64, and the loss worked out in numpy, from the papers and not from the code.

Here a step is plain arrays: for each response its log-probs under four policies and its advantage.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from trainers.objectives import Tokens

Array = np.ndarray


@dataclass(frozen=True)
class Response:
    """One response of n tokens; every array (n,)."""

    logp: Array
    proximal: Array
    behaviour: Array
    reference: Array
    advantage: float

    def __len__(self) -> int:
        return len(self.logp)


def response(logp, proximal=None, behaviour=None, reference=None, advantage=1.0) -> Response:
    """A response; a policy that is not given is the next one: the proximal, then the policy itself."""
    given = [logp, proximal, behaviour, reference]
    filled = [next(v for v in (given[at], *given[at - 1 :: -1], logp) if v is not None) for at in range(4)]
    return Response(*[np.asarray(values, dtype=np.float64) for values in filled], advantage)


def tokens(step: list[Response]) -> Tokens:
    """The step as one micro-batch; logp takes a gradient."""

    def column(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([getattr(one, name) for one in step]))

    lengths = [len(one) for one in step]
    advantages = np.repeat([float(one.advantage) for one in step], lengths)
    return Tokens(
        logp=column("logp").requires_grad_(),
        proximal=column("proximal"),
        behaviour=column("behaviour"),
        advantages=torch.from_numpy(advantages),
        entropy=torch.full((sum(lengths),), 0.5, dtype=torch.float64),
        sequence=torch.from_numpy(np.repeat(np.arange(len(step)), lengths)),
        reference=column("reference"),
    )


def ratios(one: Response, parts) -> Array:
    """(n,) the ratio of each token."""
    ratio = np.exp(one.logp) / np.exp(one.proximal)
    return np.full(len(one), np.prod(ratio) ** (1 / len(one))) if parts.ratio == "sequence" else ratio


def loss(step: list[Response], parts, frozen: list[Response] | None = None) -> float:
    """The loss of a whole step. `frozen`: the step at which what takes no gradient is held (CISPO's weight)."""
    total = 0.0
    for one, held in zip(step, frozen or step, strict=True):
        weight = np.minimum(np.exp(one.proximal) / np.exp(one.behaviour), parts.tis_cap) if parts.tis_cap else 1.0
        low, high, a = 1 - parts.clip_low, 1 + parts.clip_high, one.advantage
        if parts.surrogate == "clip":
            ratio = ratios(one, parts)
            surrogate = np.array([min(r * a, min(max(r, low), high) * a) for r in ratio])
        else:
            surrogate = np.array([min(max(r, low), high) for r in ratios(held, parts)]) * a * one.logp
        anchor = one.reference if parts.kl_to == "reference" else one.behaviour
        x = np.exp(anchor) / np.exp(one.logp)
        each = weight * surrogate - parts.kl * (x - 1 - np.log(x))
        count = {
            "token_mean": sum(map(len, step)),
            "sequence_mean": len(one) * len(step),
            "constant": parts.constant_length * len(step),
        }[parts.normaliser]
        total -= each.sum() / count
    return float(total)


def gradient(step: list[Response], value) -> Array:
    """Central differences of value(step) by every log-prob of the policy, in the order of the tokens."""
    size, slopes = 1e-6, []
    for index, one in enumerate(step):
        for at in range(len(one)):
            ends = []
            for sign in (1, -1):
                moved = one.logp.copy()
                moved[at] += sign * size
                ends.append(value([*step[:index], replace(one, logp=moved), *step[index + 1 :]]))
            slopes.append((ends[0] - ends[1]) / (2 * size))
    return np.array(slopes)
