"""The two families of problems that the tiny policy is taught.

They stand here, as constants, because producers, the evaluator and the bootstrap trainer must mean the same problems
and may not import each other.

The base is never shown a held-out problem (about one in four, by a hash of its content): whoever trains should leave
those out as well, and whoever evaluates should take only those.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

COUNTDOWN: Final[Mapping[str, Any]] = {
    "min_numbers": 3,
    "max_numbers": 3,
    "min_value": 1,
    "max_value": 15,
    "min_target": 10,
    "max_target": 75,
}
"""Parameters of reasoning-gym's `countdown`: three whole numbers and a two-digit target."""

CHAIN_SUM: Final[Mapping[str, Any]] = {"min_terms": 7, "max_terms": 9, "min_digits": 1, "max_digits": 1}
"""Parameters of reasoning-gym's `chain_sum`: sums and differences of seven to nine digits."""

FAMILIES: Final[Mapping[str, Mapping[str, Any]]] = {"countdown": COUNTDOWN, "chain_sum": CHAIN_SUM}
"""Generator name -> parameters: what an empty `problems.sources` stands for."""

HELD_OUT_SHARE: Final = 4
"""One problem in this many is held out."""


def is_held_out(family: str, metadata: Mapping[str, Any]) -> bool:
    """Whether a problem belongs to the held-out part.

    Args:
        family: 'countdown' or 'chain_sum'.
        metadata: reasoning-gym's: numbers and target, or expression. The order of the numbers does not matter.
    """
    if family == "countdown":
        key = f"{sorted(int(number) for number in metadata['numbers'])}={int(metadata['target'])}"
    else:
        key = str(metadata["expression"])
    digest = hashlib.sha256(f"{family}:{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_SHARE == 0
