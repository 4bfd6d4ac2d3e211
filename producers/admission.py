"""How many RL groups may be under way: the bound on staleness is held here, where groups are let in.

A group sampled under version v is trained on under at most v + max_lag when, at any time, the groups let in and not yet
consumed are no more than RL consumes while it publishes max_lag versions (the admission rule of AReaL, arXiv
2505.24298: floor((N - 1) / B) <= version + eta). Consumer lag cannot count them: RL's committed offset stays at the
oldest group that waits for its batch, however many later ones it has filtered.
"""

import time

from processors.dataset import Datasets
from schemas.settings import Settings

LOOK_S = 1.5
ASKED = ("training", "filtered", "dead_letters")
FATES = """
SELECT unnest(rows) AS id FROM training WHERE trainer = 'rl'
UNION ALL SELECT input_id FROM filtered WHERE stage IN ('sample', 'verify', 'rl')
UNION ALL SELECT input_id FROM dead_letters WHERE stage IN ('sample', 'verify', 'rl')
"""


class Admission:
    """Counts the groups under way.

    Args:
        settings: rl.max_lag, rl.groups, rl.publish_steps and publish_s (with which a version may follow every step).
        datasets: where a group's fate is a row.
        let_in: the ids of all groups let in before.
    """

    def __init__(self, settings: Settings, datasets: Datasets, let_in: set[str]) -> None:
        rl = settings.rl
        self.most = max(1, rl.max_lag) * rl.groups * (1 if rl.publish_s else rl.publish_steps)
        self._datasets = datasets
        self._open = let_in
        self._looked = float("-inf")

    def room(self) -> int:
        """How many more groups may be let in now; the tables are asked at most every second and a half."""
        if time.monotonic() - self._looked >= LOOK_S and self._open:
            with self._datasets.connect(only=ASKED) as connection:
                self._open.difference_update(row[0] for row in connection.execute(FATES).fetchall())
            self._looked = time.monotonic()
        return max(0, self.most - len(self._open))

    def admitted(self, ids: set[str]) -> None:
        """Note groups that were let in."""
        self._open |= ids
