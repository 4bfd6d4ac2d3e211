"""A stage makes no more than its consumers take: it pauses while one of them is far behind (back-pressure by lag).

Problems and prompts are paced where they are made (producers/pacing.py, admission.py); this is the same for what the
stages between make. Without it a linearizer that is slow, or stands, would let trees pile up in the topic, which the
embedded broker holds in memory. A group that has committed nothing there is not behind, it is not there.
"""

import asyncio
from collections.abc import Mapping

from processors import kafka
from processors.status import Status
from schemas.settings import Settings

ASK_S = 3.0
CONSUMERS: Mapping[str, tuple[str, str]] = {
    "search": ("linearize", "trees"),
    "linearize": ("verify", "traces"),
    "sample": ("verify", "rollouts"),
}
"""By stage, who consumes what it makes. RL is not there: groups of rollouts are let in by admission.py."""


class Gate:
    """Open while the consumer of a stage's output is at most broker.ahead messages behind.

    Args:
        stage: its name; one that nobody consumes from has a gate that is always open.
        settings: the broker and its `ahead`.
        status: told what is waited for.
    """

    def __init__(self, stage: str, settings: Settings, status: Status) -> None:
        self.settings, self.status = settings, status
        self.group, self.topic = CONSUMERS.get(stage, ("", ""))
        self.most = settings.broker.ahead
        self._open = asyncio.Event()
        self._open.set()
        self._sent = self.most  # so that the first look comes at once

    async def passed(self) -> None:
        """Wait until the gate is open."""
        await self._open.wait()

    def sent(self) -> None:
        """Count an output."""
        self._sent += 1

    async def watch(self) -> None:
        """Look now and then: while it is closed, or when so much was sent that it might have to close."""
        while self.group:
            await asyncio.sleep(ASK_S)
            if self._open.is_set() and self._sent < max(self.most // 8, 1):
                continue
            self._sent = 0
            try:
                behind = await asyncio.to_thread(self._behind)
            except (kafka.BrokerMissing, OSError):
                continue  # whoever hosts the stage notices a broker that is gone
            if behind > self.most:
                self._open.clear()
                self.status.set(waiting=f"for {self.group}: {behind} {self.topic} wait for it")
            elif not self._open.is_set():
                self._open.set()
                self.status.set(waiting="")

    def _behind(self) -> int:
        """How far behind the group is; 0 where there is none."""
        if not kafka.consumes(self.settings, self.group, self.topic):
            return 0
        return kafka.lag(self.settings, self.group, self.topic)
