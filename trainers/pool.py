"""SFT's rows while their table grows: which may be trained on next, in a seeded order, each a bounded number of times.

Rows seen least come first (so new rows are trained on before old ones again), equals in an order that a hash of seed,
row and pass decides: the same rows give the same order, whenever and in whatever order they arrived.
"""

import heapq
import math
from collections.abc import Iterable, Mapping

from schemas.messages import content_id
from trainers.packing import Row


class Pool:
    """Tokenised rows by id.

    Args:
        seed: of the order.
        epochs: how often a row may be seen; 1.5 = every row once and half of them twice.
        seen: how often each id was seen before.
    """

    def __init__(self, seed: int, epochs: float, seen: Mapping[str, int]) -> None:
        self.rows: dict[str, Row] = {}
        self._seed, self._epochs, self._seen = seed, epochs, dict(seen)
        self._heap: list[tuple[int, str, str]] = []
        self._out: set[str] = set()

    def add(self, key: str, row: Row) -> None:
        """Take in a row; one that is there already stays as it is."""
        if key not in self.rows:
            self.rows[key] = row
            self._offer(key)

    def leave_out(self, keys: Iterable[str]) -> None:
        """These rows, and no others, are not drawn from now on; they stay for a step that was planned on them."""
        back, self._out = self._out, set(keys)
        for key in sorted(back - self._out):
            self._offer(key)

    def cap(self, key: str) -> int:
        """How often this row may be seen at most."""
        whole = math.floor(self._epochs)
        share = int(content_id(self._seed, "share", key)[:8], 16) / 16**8
        return whole + (share < self._epochs - whole)

    def _offer(self, key: str) -> None:
        times = self._seen.get(key, 0)
        if times < self.cap(key):
            heapq.heappush(self._heap, (times, content_id(self._seed, times, key), key))

    def draw(self, budget: int, *, partial: bool = False) -> list[str]:
        """The ids of the next batch: rows until `budget` tokens, at least one. They are not counted as seen yet.

        Args:
            budget: tokens.
            partial: take what there is when the rows left do not fill a batch; else such a draw is empty.
        """
        batch: list[tuple[int, str, str]] = []
        tokens, full = 0, False
        while self._heap:
            entry = self._heap[0]
            # Seen meanwhile (an interrupted step): it has a newer entry. Left out and taken in again: it has another.
            stale = entry[0] != self._seen.get(entry[2], 0) or entry in batch[-1:]
            if stale or entry[2] in self._out:
                heapq.heappop(self._heap)
                continue
            tokens += len(self.rows[entry[2]].ids)
            full = tokens >= budget
            if tokens > budget and batch:
                break
            batch.append(heapq.heappop(self._heap))
            if full:
                break
        for entry in batch:
            heapq.heappush(self._heap, entry)
        return [key for _, _, key in batch] if full or partial else []

    def trained(self, keys: list[str]) -> None:
        """Count rows as seen once more."""
        for key in keys:
            self._seen[key] = self._seen.get(key, 0) + 1
            if key in self.rows:
                self._offer(key)
