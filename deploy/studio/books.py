"""The ledger beside the pages: it takes longer than a page may, so it is computed by a thread and kept for a while."""

import threading
import time

from deploy import ledger
from deploy.studio.tables import Tables
from schemas.errors import first_line
from schemas.settings import Settings

REST_S = 10.0
"""The least time between two computations."""
REST_SHARE = 10.0
"""And that many times what the last one took, so that watching the ledger costs a running factory little."""
OLD_S = 30.0
"""The offsets move also where no table grew."""


class Books:
    """The ledger as it was computed last; a thread computes it anew when somebody looks and it is old enough."""

    def __init__(self, settings: Settings, tables: Tables) -> None:
        self._settings, self._tables = settings, tables
        self._lock = threading.Lock()
        self._key: object = None
        self._busy = False
        self.found: ledger.Ledger | None = None
        self.error = ""
        self.at = 0.0
        self.seconds = 0.0
        self._ended = float("-inf")
        """Monotonic seconds: when it was computed last."""

    def look(self, wait_s: float) -> bool:
        """Begin to compute where that is needed, and wait a little; whether it is still being computed."""
        key = self._tables.snapshot().key
        with self._lock:
            rested = time.monotonic() - self._ended
            due = rested >= max(REST_S, REST_SHARE * self.seconds) and (key != self._key or rested > OLD_S)
            if not self._busy and due:
                self._busy = True
                threading.Thread(target=self._compute, args=(key,), name="ledger", daemon=True).start()
        deadline = time.monotonic() + wait_s
        while self._busy and time.monotonic() < deadline:
            time.sleep(0.02)
        return self._busy

    def _compute(self, key: object) -> None:
        began = time.monotonic()
        try:
            self.found, self.error = ledger.compute(self._settings), ""
        except Exception as error:  # noqa: BLE001 - a broker that goes away, tables of another version: said on the page
            self.error = first_line(error)
        self._ended = time.monotonic()
        self._key, self.at, self.seconds = key, time.time(), self._ended - began
        self._busy = False
