"""Supervised fine-tuning (process): trains on the rows of a SQL query over the datasets while these still grow.

Waits for enough rows, then takes one batch after the other, publishes a version every few steps, and after
`hand_over_steps` publishes its last one, from which RL goes on. See session.py for what a crash costs: nothing twice.
"""

import threading
import time
from collections import deque
from typing import Any

from processors import chat
from processors.dataset import NoDatasets
from processors.status import Status
from processors.stopping import stop_event
from processors.versions import Versions, ensure_base
from schemas.errors import Told
from schemas.messages import Filtered, TrainingStep, content_id
from schemas.settings import Settings
from trainers import model as policy
from trainers import objectives
from trainers.packing import Row, pack
from trainers.pool import Pool
from trainers.session import Session

REFRESH_S = 2.0
BUSY_REFRESH_S = 8.0
TRAINING_SET = """
SELECT CAST(id AS VARCHAR) AS id, problem.question AS question, text, problem.source AS source,
       problem.difficulty AS difficulty
FROM ({sql}
) WHERE CAST(id AS VARCHAR) NOT IN (SELECT unnest(?::VARCHAR[])) ORDER BY 1
"""
"""The new rows of the user's own query."""


class BadQuery(Told, ValueError):
    """settings.sft.sql does not give a training set; the text says what is missing."""


def run(settings: Settings, status: Status, stop: threading.Event | None = None) -> None:
    """Train until the hand-over, then idle; returns when told to stop (SIGTERM, SIGINT or `stop`)."""
    with stop_event() as asked, Session(settings, status, "sft", stop or asked) as session:
        versions = Versions(settings)
        base = ensure_base(settings, versions)
        versions.close()
        session.start(base.path, 0)
        if not taken_over(session):
            Sft(session).loop()
        session.idle()


def taken_over(session: Session) -> bool:
    """Whether SFT's last version is out (also when the checkpoint that says so was deleted)."""
    return session.state.handover or any(row.handover or row.trainer == "rl" for row in session.announced().values())


class Sft:
    """The loop; `session` is started."""

    def __init__(self, session: Session) -> None:
        self.session, self.settings = session, session.settings.sft
        self.chat = chat.Chat(str(session.base), session.settings.policy)
        self.pool = Pool(session.settings.factory.seed, self.settings.epochs, session.state.seen)
        self.refused = session.refused()
        self.versions: dict[str, int] = {}
        self.hungry = True
        now = time.monotonic()
        self.refreshed, self.grown, self.stepped, self.published = 0.0, now, now, now

    def loop(self) -> None:
        """Steps until stopped or handed over."""
        session = self.session
        while not session.stop.is_set():
            session.confirm()
            self.refresh()
            batch = self.next_batch()
            self.hungry = not batch
            if batch:
                self.step(batch)
            if self.due(waiting=not batch):
                return
            if not batch:
                session.stop.wait(0.2)
        session.save()

    def next_batch(self) -> list[str]:
        """The ids to train on now: those a crash interrupted first, then drawn ones; empty = wait for rows."""
        replay: deque[Any] = self.session.replay
        if replay:
            rows: list[str] = replay.popleft().rows
            if missing := [key for key in rows if key not in self.pool.rows]:
                raise BadQuery(
                    f"row {missing[0]} of an interrupted step is not in the training set any more: {self.sql}"
                )
            return rows
        if len(self.pool.rows) < self.settings.min_examples:
            return []
        waited = time.monotonic() - max(self.stepped, self.grown) > self.settings.patience_s
        return self.pool.draw(self.settings.batch_tokens, partial=waited)

    @property
    def sql(self) -> str:
        """The training set's query."""
        return self.settings.sql.strip().rstrip(";")

    def refresh(self) -> None:
        """Take in new rows when a table has a new version; a look costs, so it is a rare one while rows suffice."""
        if time.monotonic() - self.refreshed < (REFRESH_S if self.hungry else BUSY_REFRESH_S):
            return
        datasets = self.session.datasets
        try:
            versions = datasets.versions()
        except NoDatasets:
            return
        if versions != self.versions:
            self.versions = versions
            self.session.state.query = self.sql
            self.session.state.table_version = versions.get("examples", -1)
            for row in self.query():
                self.take(row)
            self.session.status.set(rows=len(self.pool.rows))
        self.refreshed = time.monotonic()

    def query(self) -> list[dict[str, Any]]:
        """The rows of the training set that are new: id, question, text, source, difficulty, oldest id first.

        Raises:
            BadQuery: when the query fails or lacks a column.
        """
        import duckdb

        known = [*self.pool.rows, *self.refused]
        with self.session.datasets.connect(self.versions) as connection:
            try:
                found = connection.execute(TRAINING_SET.format(sql=self.sql), [known])
                names = [column[0] for column in found.description or ()]
                return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
            except duckdb.Error as error:
                raise BadQuery(f"sft.sql must give the columns id, problem and text: {error}") from error

    def take(self, row: dict[str, Any]) -> None:
        """Tokenise a row into the pool; one that is longer than max_len is filtered, never silently."""
        prompt = self.chat.prompt_ids(row["question"])
        ids = [*prompt, *self.chat.encode(row["text"]), self.chat.eos_id]
        if len(ids) <= self.settings.max_len:
            self.pool.add(row["id"], Row(ids, len(prompt) if self.settings.loss_on == "response" else 1))
            self.grown = time.monotonic()
            return
        self.refused.add(row["id"])
        self.session.outbox.send(
            Filtered(
                id=content_id("sft", row["id"], "too_long"),
                stage="sft",
                input_topic="examples",
                input_id=row["id"],
                why="too_long",
                tokens=len(ids),
                source=row["source"],
                difficulty=row["difficulty"],
                time=time.time(),
            )
        )

    def step(self, keys: list[str]) -> None:
        """One optimizer step on these rows, planned before and told of after."""
        session, began = self.session, time.monotonic()
        session.plan(keys)
        rows = [self.pool.rows[key] for key in keys]
        total = sum(row.trained for row in rows)
        step = session.state.step + 1
        lr = self.rate(step)
        loss = train(session.model, rows, budget=self.settings.batch_tokens, total=total, dtype=self.settings.dtype)
        norm = policy.apply_gradients(session.model, session.optimizer, lr=lr, clip=self.settings.grad_clip)
        self.pool.trained(keys)
        self.stepped = time.monotonic()
        session.finish(
            TrainingStep(
                id=f"{session.state.run}:{step}",
                run=session.state.run,
                trainer="sft",
                step=step,
                version=session.state.version,
                loss=loss,
                lr=lr,
                grad_norm=norm,
                tokens=total,
                rows=keys,
                seconds=self.stepped - began,
                table_version=session.state.table_version,
                length=sum(len(row.ids) for row in rows) / len(rows),
                time=time.time(),
            )
        )

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        total = self.settings.hand_over_steps if self.settings.schedule == "cosine" else 0
        return objectives.learning_rate(step, peak=self.settings.lr, warmup=self.settings.warmup, total=total)

    def due(self, *, waiting: bool) -> bool:
        """Publish what is due; True when that was the last version."""
        state, now = self.session.state, time.monotonic()
        steps = state.step - state.published_step
        last = self.last(waiting=waiting)
        late = bool(self.settings.publish_s) and now - self.published >= self.settings.publish_s
        starved = waiting and now - max(self.stepped, self.grown) > self.settings.patience_s
        if last or (steps and (steps >= self.settings.publish_steps or late or starved)):
            self.session.publish(handover=last)
            self.published = time.monotonic()
        return last

    def last(self, *, waiting: bool) -> bool:
        """Whether RL takes over now."""
        if self.session.replay or not self.session.state.step:
            return False
        idle = self.settings.hand_over_idle_s
        starved = waiting and bool(idle) and time.monotonic() - max(self.stepped, self.grown) > idle
        return starved or 0 < self.settings.hand_over_steps <= self.session.state.step


def train(model: Any, rows: list[Row], *, budget: int, total: int, dtype: str) -> float:  # noqa: ANN401
    """Accumulate the gradient of the mean next-token loss over `total` trained tokens; returns the loss (nats)."""
    loss = 0.0
    for batch in pack(rows, budget):
        here = batch.to(model.device)
        logp, _ = policy.token_logp(policy.forward(model, here, dtype=dtype), here.targets)
        part = objectives.next_token_loss(logp, total)
        part.backward()  # type: ignore[no-untyped-call]
        loss += float(part.detach())
    return loss
