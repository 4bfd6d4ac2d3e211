"""What SFT and RL share: one run with its lock, model, checkpoint, plan, outbox and published versions.

The order of things is the promise. A step's rows are on the disk before the step; its message is acknowledged before a
checkpoint counts it; a version is in a checkpoint before it is announced. So a crash anywhere repeats work, bit for
bit on one machine's CPU, and never skips or doubles any.
"""

import fcntl
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from processors.dataset import Datasets
from processors.status import Status
from schemas.errors import Told
from schemas.messages import TrainingStep, Weights
from schemas.settings import RlSection, Settings, SftSection
from trainers import checkpoint, weights
from trainers import model as policy
from trainers.journal import Journal, Planned
from trainers.outbox import Outbox, announced

CONFIRM_S = 5.0


class TrainerBusy(Told, RuntimeError):
    """Another process trains this run; the text says which."""


class Session:
    """One run of one trainer in a data directory. Use as a context manager.

    Args:
        settings: all of them.
        status: what the panel shows.
        trainer: 'sft' or 'rl'; also the run's name.
        stop: set it to end the run.

    Raises:
        TrainerBusy: when another process has this run.
    """

    def __init__(
        self, settings: Settings, status: Status, trainer: Literal["sft", "rl"], stop: threading.Event
    ) -> None:
        self.settings, self.status, self.trainer, self.stop = settings, status, trainer, stop
        self.section: SftSection | RlSection = settings.sft if trainer == "sft" else settings.rl
        self.root = Path(settings.factory.data) / "checkpoints" / trainer
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = self._acquire()
        self.datasets = Datasets(Path(settings.factory.data) / "datasets")
        self.datasets.create()
        self.outbox = Outbox(settings, self.datasets)
        self.journal = Journal(self.root / "plan.jsonl")
        self.replay: deque[Planned] = deque()
        self._confirmed = time.monotonic()

    def _acquire(self) -> IO[bytes]:
        lock = (self.root / "lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainerBusy(f"another {self.trainer} trainer works in {self.root}: stop it first") from None
        return lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.outbox.close()
        self.journal.close()
        self._lock.close()

    def announced(self) -> dict[int, Weights]:
        """Every version that the topic or the table has."""
        return announced(self.settings, self.datasets)

    def saved(self) -> Path | None:
        """The newest checkpoint."""
        found = checkpoint.found(self.root)
        return found[-1] if found else None

    def start(self, base: str, version: int) -> None:
        """Begin from the newest checkpoint, or else from a model directory that was announced as `version`."""
        policy.prepare(self.section.threads, self.settings.factory.seed)
        path = self.saved()
        self.state = (
            checkpoint.peek(path)
            if path
            else checkpoint.State(run=self.trainer, trainer=self.trainer, base=base, version=version)
        )
        self.base = weights.directory(self.state.base)
        self.model: Any = policy.load(self.base)
        self.optimizer: Any = policy.optimizer(self.model, lr=self.section.lr, weight_decay=self.section.weight_decay)
        if path:
            checkpoint.restore(path, self.model, self.optimizer)
            self.outbox.restore(self.state.outgoing)
            self._announce_again()
        self.replay.extend(self.journal.after(self.state.step))
        self.status.set(version=self.state.version, step=self.state.step)

    def _announce_again(self) -> None:
        """A version that was saved and not announced before a crash is announced now."""
        state, newest = self.state, self.outbox.newest()
        if state.parent >= 0 and state.step == state.published_step and (not newest or newest.version < state.version):
            self._announce()

    def plan(self, rows: list[str]) -> None:
        """Make the rows of the next step durable."""
        self.journal.append(self.state.step + 1, rows)

    def finish(self, message: TrainingStep) -> None:
        """Count a step that was done and tell of it."""
        self.state.step = message.step
        for row in message.rows:
            self.state.seen[row] = self.state.seen.get(row, 0) + 1
        self.outbox.send(message)
        self.status.add(records=1, tokens=message.tokens)
        self.status.set(step=message.step, loss=message.loss, version=message.version)

    def save(self) -> None:
        """A checkpoint of everything up to now."""
        self.outbox.flush()
        self.state.outgoing = self.outbox.unseen()
        checkpoint.save(self.root, self.state, self.model, self.optimizer)

    def publish(self, *, handover: bool = False) -> None:
        """Checkpoint under the next version, then write and announce it."""
        state = self.state
        state.parent, state.version = state.version, 1 + max([state.version, *self.announced()])
        state.published_step, state.handover = state.step, handover
        self.save()
        self._announce()

    def _announce(self) -> None:
        state = self.state
        publication = weights.Publication(
            version=state.version,
            parent=state.parent,
            trainer=self.trainer,
            run=state.run,
            step=state.step,
            data=self.data(),
            handover=state.handover,
        )
        self.outbox.send(weights.publish(self.settings, self.model, self.base, publication))
        self.outbox.flush()
        self.status.set(version=state.version)

    def data(self) -> str:
        """What the published version was trained on, in words that a query can be made from."""
        if self.trainer == "sft":
            return f"{self.state.query} @ examples version {self.state.table_version}"
        return f"steps 1 to {self.state.step} of run {self.state.run}"

    def refused(self) -> set[str]:
        """The ids that this trainer filtered, by the table."""
        with self.datasets.connect() as connection:
            rows = connection.execute("SELECT input_id FROM filtered WHERE stage = ?", [self.trainer]).fetchall()
        return {row[0] for row in rows}

    def confirm(self) -> None:
        """Every few seconds: see which messages have reached their tables."""
        if time.monotonic() - self._confirmed > CONFIRM_S:
            self.outbox.confirm()
            self._confirmed = time.monotonic()

    def idle(self) -> None:
        """Nothing more to train: free the model, see the last messages into their tables until told to stop."""
        self.model = self.optimizer = None
        while not self.stop.wait(0.5):
            self.confirm()
