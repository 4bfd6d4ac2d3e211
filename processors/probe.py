"""The parity probe: weights are served only after the engine's log-probs agree with the trainer's.

A version label is only a claim: a half-loaded file, a wrong path or a stale cache answers just as fluently. The
announcement carries a fixed token sequence and the trainer's log-probs on it; whoever loads the weights repeats them.
"""

import math
from collections.abc import Sequence

from processors.policy import ProbeFailed
from schemas.messages import Weights


class Disagrees(ProbeFailed):
    """The weights were loaded, and the log-probs are others: the weights, or what computes with them, are at fault."""


def probe_ids(weights: Weights, max_len: int) -> list[int]:
    """The tokens to score, cut to what an engine of `max_len` positions can score; [] = nothing to probe."""
    ids = weights.probe_ids[: max(max_len - 1, 0)]
    return ids if len(ids) > 1 else []


def check(weights: Weights, logprobs: Sequence[float], tolerance: float) -> float:
    """The mean |difference| (nats) of an engine's log-probs to the announced ones.

    Args:
        weights: probe_logprobs[i] belongs to probe_ids[i + 1].
        logprobs: the engine's, for the ids that probe_ids() gave; shape [ids - 1].
        tolerance: the largest mean that passes.

    Raises:
        Disagrees: above the tolerance, not a number, or a different length.
    """
    expected = weights.probe_logprobs[: len(logprobs)]
    if not expected or len(expected) != len(logprobs):
        raise Disagrees(f"weights v{weights.version}: {len(logprobs)} log-probs to compare with {len(expected)}")
    mean = math.fsum(abs(ours - theirs) for ours, theirs in zip(logprobs, expected, strict=True)) / len(expected)
    if not mean <= tolerance:
        raise Disagrees(
            f"weights v{weights.version} at {weights.path}: the engine's log-probs differ from those announced by "
            f"{mean:.4f} nats a token (engine.probe_tolerance is {tolerance}); the old weights stay"
        )
    return mean
