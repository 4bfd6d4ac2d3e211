"""What online RL minimises, as a few named parts, because a paper's name alone leaves half of them open.

A preset is a paper's objective; each part can be set on its own in [rl]. The formulas are in trainers/objectives.py.
What every preset leaves out of its paper, unless it is set: the KL term, and the reward shaping of DAPO. Every preset
has DAPO's dynamic sampling.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

Surrogate = Literal["clip", "weight"]
Level = Literal["token", "sequence"]
Proximal = Literal["start", "behaviour"]
Normaliser = Literal["token_mean", "sequence_mean", "constant"]
Baseline = Literal["mean", "leave_one_out"]
Anchor = Literal["behaviour", "reference"]


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """Every part of an objective, decided. The defaults are those of `grpo`, the house's own mixture."""

    surrogate: Surrogate = "clip"
    """'clip': min(r A, clip(r) A), PPO's. 'weight': clip(r) A log pi with no gradient through clip(r), CISPO's."""
    ratio: Level = "token"
    """r of each token, or of its whole response: (pi / pi_old)^(1 / length)."""
    proximal: Proximal = "start"
    """pi_old: the model at the start of the step, or the sampler's own distribution."""
    clip_low: float = 0.2
    """r is clipped to [1 - clip_low, 1 + clip_high]; clip_low = 1: not clipped below."""
    clip_high: float = 0.28
    """Above 1; larger than clip_low, it lets rare tokens grow (DAPO's clip-higher)."""
    tis_cap: float = 2.0
    """C of the truncated importance weight w = min(pi_old / pi_behaviour, C); 0: no such weight (w = 1)."""
    normaliser: Normaliser = "token_mean"
    """What the sum over tokens is divided by: all tokens of the step; each response's length, then the number of
    responses; or the number of responses times constant_length."""
    constant_length: int = 0
    """Tokens; 0 = sample.max_tokens."""
    baseline: Baseline = "mean"
    """What is taken off a reward: its group's mean, or the mean of the others in its group."""
    advantage_std: bool = True
    """Whether advantages are divided by the standard deviation of their group's rewards."""
    kl: float = 0.0
    """Weight of the KL term (the k3 estimate, as in GRPO); 0: none."""
    kl_to: Anchor = "behaviour"
    """The KL term's other policy: the sampler's, or the version that the run began from (held in memory)."""
    mask_overlong: bool = False
    """DAPO's overlong filter: a response cut off at the largest length counts in its group and is not trained on."""
    dynamic_sampling: bool = True
    """DAPO's dynamic sampling: a group whose rewards are all equal is recorded and replaced by another. False: it has
    its place in a step, with advantages of zero, as in GRPO's paper: it makes the normaliser larger."""
    loss: str = ""
    """The installed objective that computes the loss from the tokens (docs/extending.md); '' = ours."""


_SAMPLER = Objective(proximal="behaviour", tis_cap=0.0, clip_high=0.2)
"""The papers know one old policy, the sampler's, and no weight beside the ratio to it."""

PRESETS: Mapping[str, Objective] = MappingProxyType(
    {
        # arXiv 2402.03300, with DAPO's clip and token mean, no KL, and AReaL's two ratios for stale tokens.
        "grpo": Objective(),
        # arXiv 2503.20783.
        "dr_grpo": msgspec.structs.replace(_SAMPLER, normaliser="constant", advantage_std=False),
        # arXiv 2503.14476.
        "dapo": msgspec.structs.replace(_SAMPLER, clip_high=0.28),
        # arXiv 2507.18071.
        "gspo": msgspec.structs.replace(
            _SAMPLER, ratio="sequence", clip_low=3e-4, clip_high=4e-4, normaliser="sequence_mean"
        ),
        # arXiv 2506.13585 names no upper clip; r <= 5 is ScaleRL's (arXiv 2510.13786).
        "cispo": msgspec.structs.replace(_SAMPLER, surrogate="weight", clip_low=1.0, clip_high=4.0),
        # AReaL, arXiv 2505.24298: cap 5 is its code's, which leaves out the tokens above it; here they are truncated.
        # Its batch-wide normalisation of advantages is the group's here.
        "decoupled": Objective(clip_high=0.2, tis_cap=5.0),
    }
)


def named(name: str) -> Objective:
    """A preset, or with a name that is none the parts that an installed objective's loss is computed with."""
    return PRESETS[name] if name in PRESETS else Objective(loss=name)


def conflict(parts: Objective, chosen: Mapping[str, object]) -> str:
    """Why these parts cannot stand together, in one sentence, or ''.

    Args:
        parts: the objective, decided.
        chosen: the parts that were set by hand.
    """
    if parts.tis_cap and parts.proximal == "behaviour" and "tis_cap" in chosen:
        return "tis_cap truncates pi_old / pi_behaviour, which is 1 where proximal = 'behaviour': leave one of them out"
    if parts.tis_cap and parts.ratio == "sequence" and parts.proximal == "start":
        return "ratio = 'sequence' has no weight a token: set tis_cap = 0 or proximal = 'behaviour'"
    if "constant_length" in chosen and parts.normaliser != "constant":
        return f"constant_length is for normaliser = 'constant' only, and it is {parts.normaliser!r}"
    if "kl_to" in chosen and not parts.kl:
        return "kl_to names a policy for a KL term that kl = 0 leaves out: set kl, or leave kl_to out"
    return ""
