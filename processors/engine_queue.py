"""Who is served next when requests want different weights: an engine holds one version at a time, so they take turns.

Pure bookkeeping: no clock, no engine; both engines drive it. A turn belongs to one sha. Its requests are admitted as
they come until another sha has waited `patience` seconds of this turn; then nothing more is admitted, what runs is
drained, and the sha whose oldest request is the oldest of all has the next turn. So every request is reached after at
most one turn for each sha that was waiting before it: nobody starves, and a lone sha never pauses.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Requests queued by the sha of the weights they want.

    Args:
        patience: seconds that another sha waits before the current turn stops admitting; at least one request is
            admitted in a turn even at 0.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.current = ""
        self._began = 0.0
        self._admitted = 0
        self._arrivals = 0
        self._queues: dict[str, deque[tuple[int, float, T]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, sha: str, item: T, now: float) -> None:
        """Queue an item; `now` is a monotonic time in seconds."""
        self._arrivals += 1
        self._queues.setdefault(sha, deque()).append((self._arrivals, now, item))

    def turn(self, now: float, running: int) -> str | None:
        """The sha to load now, or None when the current one goes on. To be called before `admit`."""
        others = [sha for sha in self._queues if sha != self.current]
        if running or not others or (self.current in self._queues and self._open(now)):
            return None
        self.current = min(others, key=lambda sha: self._queues[sha][0][0])
        self._began, self._admitted = now, 0
        return self.current

    def admit(self, now: float, room: int) -> list[T]:
        """Items of the current sha to start now, at most `room`, oldest first."""
        queue = self._queues.get(self.current)
        if queue is None or room <= 0 or not self._open(now):
            return []
        taken = [queue.popleft()[2] for _ in range(min(room, len(queue)))]
        self._admitted += len(taken)
        self._tidy(self.current)
        return taken

    def refuse(self, sha: str, back_to: str) -> list[T]:
        """Take out everything that wants `sha`, which cannot be served, and give the turn back to `back_to`."""
        self.current = back_to
        return [item for _, _, item in self._queues.pop(sha, ())]

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out the items that `unwanted` names (their callers gave up)."""
        gone: list[T] = []
        for sha, queue in list(self._queues.items()):
            gone += [item for _, _, item in queue if unwanted(item)]
            self._queues[sha] = deque(entry for entry in queue if not unwanted(entry[2]))
            self._tidy(sha)
        return gone

    def _open(self, now: float) -> bool:
        """Whether the current turn may admit. Waiting counts from the turn's begin: each turn is worth a reload."""
        if not self._admitted:
            return True
        waits = [now - max(queue[0][1], self._began) for sha, queue in self._queues.items() if sha != self.current]
        return max(waits, default=0.0) < self.patience or not waits

    def _tidy(self, sha: str) -> None:
        if not self._queues[sha]:
            del self._queues[sha]
