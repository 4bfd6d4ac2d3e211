"""How far a producer may run ahead of its consumers, asked of the broker at most once a second.

Between two questions only what was sent since is subtracted: consumers can only have made more room meanwhile.
"""

import time

from processors import kafka
from schemas.settings import Settings

ASK_S = 1.0


class Pace:
    """Keeps at most `ahead` messages of a topic uncommitted by a group.

    Args:
        settings: where the broker is.
        group: the consumer group that works on the topic.
        topic: its name.
        ahead: the most messages that may wait for it.
    """

    def __init__(self, settings: Settings, group: str, topic: str, ahead: int) -> None:
        self.settings, self.group, self.topic, self.ahead = settings, group, topic, ahead
        self._room = 0
        self._asked = float("-inf")

    def room(self) -> int:
        """How many more may be sent now.

        Raises:
            BrokerMissing: no broker answers.
        """
        if self._room <= 0 and time.monotonic() - self._asked >= ASK_S:
            self._room = self.ahead - kafka.lag(self.settings, self.group, self.topic)
            self._asked = time.monotonic()
        return max(0, self._room)

    def sent(self, count: int) -> None:
        """Note that so many were sent."""
        self._room -= count
