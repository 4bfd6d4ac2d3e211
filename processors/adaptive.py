"""When to stop paying: which rollouts could still change a decision, and when a problem is not worth more. Pure.

Nearly all tokens of a search go into rollouts (M a new node), and most of them decide nothing. All rules here are ours
and rest on one bound, Wilson's score interval for a share p of which c of n trials were seen:

    lo, hi = (c + z^2/2 -+ z sqrt(c (n - c) / n + z^2/4)) / (n + z^2)

- Race (a node's rollouts). Values matter where selection compares siblings. The new children of an expansion roll out
  in rounds of 2, 2, 4, 8, ... up to M. The leader l is the sibling with the greatest lower bound, older siblings and
  terminals (lo = hi = verdict) included. A child goes on while hi_i - lo_l > margin: while it may beat the leader by
  more than the margin; the leader goes on while any sibling may.
- Out of reach, too easy (a tree). With n graded samples and not one correct, a share of p or more is excluded with
  confidence 1 - alpha once (1 - p)^n <= alpha, hence n >= ln(alpha) / ln(1 - p); too easy is the mirror image: not one
  was wrong, so there will be no failures to learn from. The samples are taken as independent, which rollouts from
  within a tree are not quite.
"""

import math
from collections.abc import Sequence

import msgspec

FIRST = 2
"""Rollouts of a race's first round; every later round doubles what a node has."""
ALPHA = 0.05
Z95 = 1.959964


class Tally(msgspec.Struct, frozen=True):
    """What is known of a sibling: `correct` of `trials` rollouts, or an exact value in [0, 1] (a terminal)."""

    correct: int = 0
    trials: int = 0
    exact: float | None = None

    def bounds(self, z: float) -> tuple[float, float]:
        """The interval of its value; (0, 1) before the first trial."""
        if self.exact is not None:
            return self.exact, self.exact
        return wilson(self.correct, self.trials, z)


def wilson(correct: float, trials: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval (1927) for a share, right for small counts; (0, 1) for none.

    z = 1.96 leaves 2.5 % on each side, 1.0 leaves 16 %.
    """
    if trials == 0:
        return 0.0, 1.0
    middle = correct + z * z / 2
    half = z * math.sqrt(correct * (trials - correct) / trials + z * z / 4)
    total = trials + z * z
    return max(0.0, (middle - half) / total), min(1.0, (middle + half) / total)


def racing(new: Sequence[Tally], old: Sequence[Tally], z: float, margin: float) -> list[bool]:
    """Which of the new siblings' values more rollouts could still decide."""
    bounds = [tally.bounds(z) for tally in (*new, *old)]
    if len(bounds) < 2:
        return [False] * len(new)
    leader = max(range(len(bounds)), key=lambda place: bounds[place][0])
    contested = [hi - bounds[leader][0] > margin for _, hi in bounds]
    contested[leader] = any(rival for place, rival in enumerate(contested) if place != leader)
    return contested[: len(new)]


def next_round(trials: int, most: int) -> int:
    """How many rollouts a node gets next, when it has `trials` of at most `most`."""
    return max(0, min(max(trials, FIRST), most - trials))


def excluded(hits: int, trials: int, share: float) -> bool:
    """Whether a share of `share` or more is excluded at ALPHA: no hit in enough trials. Never for share 0."""
    return hits == 0 and 0 < share < 1 and trials * math.log1p(-share) <= math.log(ALPHA)
