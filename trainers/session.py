"""What SFT and RL share: one run with its lock, model, checkpoint, plan, outbox and published versions.

The order of things is the promise. A step's rows are on the disk before the step; its message is acknowledged before a
checkpoint counts it; a version is in a checkpoint before it is announced. So a crash anywhere repeats work, bit for
bit on one machine's CPU, and never skips or doubles any.
"""

import fcntl
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from processors.cached import SCHEME, at_hand
from processors.dataset import Datasets
from processors.expired import expired
from processors.status import Status
from schemas.errors import Told
from schemas.killpoints import passed
from schemas.messages import TrainingStep, Weights
from schemas.settings import Settings
from trainers import checkpoint, weights
from trainers.journal import Journal, Planned
from trainers.learner import Learned, Learner
from trainers.outbox import Outbox, announced
from trainers.packing import Row
from trainers.retention import retire

if TYPE_CHECKING:
    from trainers.copies import Copies

CONFIRM_S = 5.0


class TrainerBusy(Told, RuntimeError):
    """Another process trains this run; the text says which."""


class Diverged(Told, FloatingPointError):
    """A step's loss or gradient is not finite; the text names its rows and says what to do."""


class WeightsGone(Told, FileNotFoundError):
    """A directory of weights that a run begins from is not there; the text says whose and what to do."""


class Session:
    """One run of one trainer in a data directory. Use as a context manager.

    Args:
        settings: all of them.
        status: what the panel shows.
        learner: rank 0's model; its trainer, 'sft' or 'rl', is also the run's name.
        stop: set it to end the run.

    Raises:
        TrainerBusy: when another process has this run.
    """

    def __init__(self, settings: Settings, status: Status, learner: Learner, stop: threading.Event) -> None:
        self.settings, self.status, self.learner, self.stop = settings, status, learner, stop
        self.trainer = learner.trainer
        self.root = Path(settings.factory.data) / "checkpoints" / self.trainer
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = self._acquire()
        self.datasets = Datasets.of(settings)
        self.datasets.create()
        self.outbox = Outbox(settings, self.datasets)
        self.journal = Journal(self.root / "plan.jsonl")
        self.copies = self._copies()
        self.replay: deque[Planned] = deque()
        self._confirmed = self.published = time.monotonic()

    def _copies(self) -> "Copies | None":
        if not self.settings.factory.store:
            return None
        from processors.store import Store
        from trainers.copies import Copies

        return Copies(Store(self.settings.factory.store), self.trainer, self.root)

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
        self.learner.free()
        self.outbox.close()
        self.journal.close()
        self._lock.close()

    def announced(self) -> dict[int, Weights]:
        """Every version that the topic or the table has."""
        return announced(self.settings, self.datasets)

    def saved(self) -> Path | None:
        """The newest checkpoint that is whole; one that is not is set aside, which is said."""
        path, said = checkpoint.newest(self.root)
        for sentence in said:
            print(f"factory: {sentence}", file=sys.stderr)
        return path

    def start(self, base: str, version: int) -> None:
        """Begin from the newest checkpoint, or else from a model directory that was announced as `version`.

        Raises:
            WeightsGone: that directory is not there.
            UnknownWeights, ProbeFailed: it is on a store, and not to be had.
        """
        path = self.saved()
        if self.copies:
            path = self.copies.newer(path)
            for step in self.copies.plans():
                self.journal.append(step.step, step.rows)
        self.state = (
            checkpoint.peek(path)
            if path
            else checkpoint.State(run=self.trainer, trainer=self.trainer, base=base, version=version)
        )
        self.base = self._base(path)
        self.learner.load(str(self.base), path)
        if path:
            self.outbox.restore(self.state.outgoing)
            self._announce_again()
        self.replay.extend(self.journal.after(self.state.step))
        self.status.set(version=self.state.version, step=self.state.step)

    def _base(self, path: Path | None) -> Path:
        base = self.state.base
        if base.startswith(SCHEME):
            row = next((row for row in self.announced().values() if row.path == base), None)
            if row is None:
                raise WeightsGone(
                    f"{base}: this run began from them, and neither topic nor table names them: which broker is this?"
                )
            return Path(at_hand(self.settings, row).path)
        if Path(base).is_absolute() and not (Path(base) / "config.json").is_file():
            why = f"the checkpoint {path} began from them" if path else f"version {self.state.version} is to lie there"
            raise WeightsGone(
                f"{base}: these weights are gone ({expired(base) or 'deleted'}), and {why}: put the directory back, or "
                "begin anew from other weights (policy.path, rl.start_version) with another --data"
            )
        return weights.directory(base)

    def _announce_again(self) -> None:
        """A version that was saved and not announced before a crash is announced now."""
        state, newest = self.state, self.outbox.newest()
        if state.parent >= 0 and state.step == state.published_step and (not newest or newest.version < state.version):
            self._announce()

    def plan(self, rows: list[str]) -> None:
        """Make the rows of the next step durable."""
        if self.copies:
            self.copies.plan(self.state.step + 1, rows)
        self.journal.append(self.state.step + 1, rows)
        passed(f"{self.trainer}:working")

    def learn(self, shares: Sequence[Sequence[Row]], lr: float, keys: Sequence[str]) -> Learned:
        """Train on rows, whose ids (SFT) or groups' ids (RL) were planned as `keys`.

        Raises:
            Diverged: the loss or the gradient is not finite. The step is not planned any more.
        """
        try:
            with self.status.in_flight:
                return self.learner.learn(shares, lr)
        except FloatingPointError as error:
            step, last = self.state.step + 1, self.saved()
            self.journal.drop(step)
            if self.copies:
                self.copies.drop(step)
            kept = f"the checkpoint {last} is as it was" if last else "nothing was trained before it"
            raise Diverged(
                f"step {step} of {self.trainer} cannot be taken: {error}; nothing was published and {kept}. Lower "
                f"{self.trainer}.lr or leave out what is wrong in its rows, then start again: {', '.join(keys)}"
            ) from error

    def finish(self, message: TrainingStep) -> None:
        """Count a step that was done and tell of it."""
        self.state.step = message.step
        for row in message.rows:
            self.state.seen[row] = self.state.seen.get(row, 0) + 1
        self.outbox.send(message)
        self.status.add(records=1, tokens=message.tokens)
        self.status.set(step=message.step, loss=message.loss, version=message.version)
        passed(f"{self.trainer}:output")

    def save(self) -> None:
        """A checkpoint of everything up to now, on the store too where there is one."""
        self.outbox.flush()
        self.state.outgoing = self.outbox.unseen()
        path = self.learner.save(self.root, self.state)
        if self.copies:
            self.copies.save(path)

    def publish(self, *, handover: bool = False) -> None:
        """Checkpoint under the next version, then write and announce it."""
        state = self.state
        state.parent, state.version = state.version, 1 + max([state.version, *self.announced()])
        state.published_step, state.handover = state.step, handover
        self.save()
        passed(f"{self.trainer}:saved")
        self._announce()
        if self.settings.weights.keep:
            for row in retire(self.settings, self.datasets):
                self.outbox.send(row)
        self.published = time.monotonic()

    def due(self, steps: int, seconds: float) -> bool:
        """Whether a version is due that is published every so many steps and (0: no matter) seconds."""
        new = self.state.step - self.state.published_step
        late = bool(seconds) and time.monotonic() - self.published >= seconds
        return new >= steps or (new > 0 and late)

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
        self.learner.gather()
        self.base = self._base(None)  # a cache may have let it go
        try:
            row = weights.publish(self.settings, self.learner.model, self.base, publication)
        except weights.NotAsTrained as error:
            raise weights.NotAsTrained(
                f"weights v{state.version}: {error}. Nothing was announced, and the checkpoint {self.saved()} holds "
                "what was trained: see to the disk, then start again"
            ) from error
        passed(f"{self.trainer}:announcement")
        self.outbox.send(row)
        self.outbox.flush()
        passed(f"{self.trainer}:announced")
        self.status.set(version=state.version)

    def data(self) -> str:
        """What the published version was trained on, in words that a query can be made from."""
        if self.trainer == "sft":
            return f"{self.state.query} @ examples version {self.state.table_version}"
        return f"steps 1 to {self.state.step} of run {self.state.run}"

    def refused(self) -> set[str]:
        """The ids that this trainer filtered, by the table."""
        with self.datasets.connect(only=("filtered",)) as connection:
            rows = connection.execute("SELECT input_id FROM filtered WHERE stage = ?", [self.trainer]).fetchall()
        return {row[0] for row in rows}

    def confirm(self) -> None:
        """Every few seconds: see which messages have reached their tables."""
        if time.monotonic() - self._confirmed > CONFIRM_S:
            self.outbox.confirm()
            self._confirmed = time.monotonic()

    def idle(self) -> None:
        """Nothing more to train: free the model, see the last messages into their tables until told to stop."""
        self.learner.free()
        self.status.set(idle=True)
        while not self.stop.wait(0.5):
            self.confirm()
