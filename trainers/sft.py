"""Supervised fine-tuning (process): trains on the rows of a SQL query over the datasets while these still grow.

Waits for enough rows, then takes one batch after the other, publishes a version every few steps, and after
`hand_over_steps` publishes its last one, from which RL goes on. See session.py for what a crash costs: nothing twice.
"""

import sys
import threading
import time
from collections import deque
from typing import Any

import msgspec

from processors import asking, chat
from processors.chat import BadPolicy
from processors.dataset import NoDatasets
from processors.status import Status
from processors.stopping import stop_event
from processors.versions import Versions, ensure_base
from producers.sources.held_out import Reserved
from schemas.errors import Told
from schemas.messages import Filtered, Problem, TrainingStep, content_id
from schemas.settings import Settings
from trainers import objectives
from trainers.packing import Row
from trainers.pool import Pool
from trainers.ranks import joined
from trainers.session import Session
from trainers.supervised import SftLearner

REFRESH_S = 2.0
BUSY_REFRESH_S = 8.0
TRAINING_SET = """
SELECT CAST(id AS VARCHAR) AS id, problem, text FROM ({sql}
) WHERE CAST(id AS VARCHAR) NOT IN (SELECT unnest(?::VARCHAR[])) ORDER BY 1
"""
"""The new rows of the user's own query."""
GONE = """
SELECT key FROM (SELECT unnest(?::VARCHAR[]) AS key) WHERE key NOT IN (SELECT CAST(id AS VARCHAR) FROM ({sql}
))
"""
"""The rows of an earlier look that the query does not give any more: others stand for them (`factory replay`)."""
PLANNED = """
SELECT id, problem, text FROM examples
WHERE id IN (SELECT unnest(?::VARCHAR[])) AND id IN (SELECT id FROM replaced) ORDER BY 1
"""
"""Rows that a replay replaced after a step on them was planned."""
COLUMNS = "sft.sql must give the columns id, problem and text as the tables have them (select * from examples)"


class BadQuery(Told, ValueError):
    """settings.sft.sql does not give a training set; the text says what is missing."""


class TooLong(Told, ValueError):
    """settings.sft.max_len is more than the model can read."""


def run(settings: Settings, status: Status, stop: threading.Event | None = None) -> None:
    """Train until the hand-over, then idle; returns when told to stop (SIGTERM, SIGINT or `stop`)."""
    with (
        joined() as ranks,
        stop_event() as asked,
        Session(settings, status, SftLearner(settings, ranks), stop or asked) as session,
    ):
        versions = Versions(settings)
        base = ensure_base(settings, versions)
        versions.close()
        session.start(base.path, 0)
        if not taken_over(session):
            Sft(session).loop()
        session.idle()


def follow(settings: Settings) -> None:
    """The part of every rank but the first: train when rank 0 says so."""
    with joined() as ranks:
        SftLearner(settings, ranks).follow()


def taken_over(session: Session) -> bool:
    """Whether SFT's last version is out (also when the checkpoint that says so was deleted)."""
    return session.state.handover or any(row.handover or row.trainer == "rl" for row in session.announced().values())


class Sft:
    """The loop; `session` is started.

    Raises:
        BadQuery: there is no query.
        BadPolicy: the tokenizer cannot end a response.
        TooLong: max_len does not fit the model.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.settings = session, session.settings.sft
        self.chat = chat.Chat(str(session.base), session.settings.policy)
        self.check()
        self.reserved: Reserved | None = None
        self.pool = Pool(session.settings.factory.seed, self.settings.epochs, session.state.seen)
        self.refused = session.refused()
        self.versions: dict[str, int] = {}
        self.hungry = True
        now = time.monotonic()
        self.refreshed, self.grown, self.stepped = 0.0, now, now
        self.said = False

    def check(self) -> None:
        """Refuse what could not work before anything is trained."""
        if not self.sql:
            raise BadQuery(f"sft.sql is empty: {COLUMNS}")
        if self.chat.tokenizer.eos_token_id is None:
            raise BadPolicy(f"{self.session.base}: its tokenizer has no eos_token: name one in tokenizer_config.json")
        most = getattr(self.session.learner.model.config.get_text_config(), "max_position_embeddings", None)
        if most and self.settings.max_len > most:
            raise TooLong(f"sft.max_len = {self.settings.max_len}, and the model reads {most} tokens: set it to {most}")

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
                self.wait()
        session.save()

    def wait(self) -> None:
        """Wait a moment for rows, and say what for."""
        there, wanted = len(self.pool.rows), self.settings.min_examples
        short = f"{there} rows to train on, {len(self.refused)} filtered; sft.min_examples = {wanted}"
        self.session.status.set(waiting=short if there < wanted else "new rows")
        if there < wanted and not self.said and time.monotonic() - self.grown > self.settings.patience_s:
            self.said = True
            print(f"factory: sft waits: sft.sql gives {short}. Is this its query? {self.sql}", file=sys.stderr)
        self.session.stop.wait(0.2)

    def next_batch(self) -> list[str]:
        """The ids to train on now: those a crash interrupted first, then drawn ones; empty = wait for rows."""
        replay: deque[Any] = self.session.replay
        if replay:
            rows: list[str] = replay.popleft().rows
            for row in self.query(PLANNED, [key for key in rows if key not in self.pool.rows]):
                self.take(row)
            if missing := [key for key in rows if key not in self.pool.rows]:
                raise BadQuery(
                    f"row {missing[0]} of an interrupted step is not in the training set any more: let sft.sql give it "
                    f"until that step is done, or begin anew with another --data; it is {self.sql}"
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
            for row in self.query(TRAINING_SET, [*self.pool.rows, *self.refused]):
                self.take(row)
            gone = [row["key"] for row in self.query(GONE, list(self.pool.rows))]
            self.pool.leave_out(gone)
            self.session.status.set(rows=len(self.pool.rows), left_out=len(gone), waiting="")
        self.refreshed = time.monotonic()

    def query(self, text: str, ids: list[str]) -> list[dict[str, Any]]:
        """The rows of TRAINING_SET (those that are new), GONE or PLANNED for these ids.

        Raises:
            BadQuery: when the user's query fails or lacks a column.
        """
        if not ids and text != TRAINING_SET:
            return []
        limits = self.session.settings.sql
        try:
            with asking.bounded(self.session.datasets, limits, self.versions) as connection:
                query = text.format(sql=asking.reading(connection, self.sql))
                rows: list[dict[str, Any]] = asking.answer(connection, query, limits, [ids]).to_pylist()
        except asking.BadQuery as error:
            raise BadQuery(f"{COLUMNS}: {error}") from error
        return rows

    def take(self, row: dict[str, Any]) -> None:
        """Tokenise a row into the pool; one that is too long, or that the evaluation asks, is filtered with the reason.

        Raises:
            BadQuery: its columns are not what the tables have.
        """
        try:
            problem, text = msgspec.convert(row["problem"], Problem), msgspec.convert(row["text"], str)
        except msgspec.ValidationError as error:
            raise BadQuery(f"{COLUMNS}; in row {row['id']}: {error}") from error
        self.reserved = self.reserved or Reserved(self.session.settings)
        prompt = self.chat.prompt_ids(problem.question)
        ids = [*prompt, *self.chat.encode(text), self.chat.eos_id]
        why = "too_long" if len(ids) > self.settings.max_len else self.reserved.why(problem)
        if why:
            self.refuse(row["id"], problem, why, len(ids))
        else:
            self.pool.add(row["id"], Row(ids, len(prompt) if self.settings.loss_on == "response" else 1))
            self.grown = time.monotonic()

    def refuse(self, key: str, problem: Problem, why: str, tokens: int) -> None:
        """Leave a row out, in words."""
        self.refused.add(key)
        self.session.outbox.send(
            Filtered(
                id=content_id("sft", key, why),
                stage="sft",
                input_topic="examples",
                input_id=key,
                why=why,
                tokens=tokens,
                source=problem.source,
                difficulty=problem.difficulty,
                time=time.time(),
            )
        )

    def step(self, keys: list[str]) -> None:
        """One optimizer step on these rows, planned before and told of after."""
        session, began = self.session, time.monotonic()
        session.plan(keys)
        rows = [self.pool.rows[key] for key in keys]
        step = session.state.step + 1
        lr = self.rate(step)
        learned = session.learn([rows], lr, keys)
        self.pool.trained(keys)
        self.stepped = time.monotonic()
        session.finish(
            TrainingStep(
                id=f"{session.state.run}:{step}",
                run=session.state.run,
                trainer="sft",
                step=step,
                version=session.state.version,
                loss=learned.loss,
                lr=lr,
                grad_norm=learned.norm,
                tokens=sum(row.trained for row in rows),
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
        last = self.last(waiting=waiting)
        starved = waiting and time.monotonic() - max(self.stepped, self.grown) > self.settings.patience_s
        if last or self.session.due(1 if starved else self.settings.publish_steps, self.settings.publish_s):
            self.session.publish(handover=last)
        return last

    def last(self, *, waiting: bool) -> bool:
        """Whether RL takes over now."""
        if self.session.replay or not self.session.state.step:
            return False
        idle = self.settings.hand_over_idle_s
        starved = waiting and bool(idle) and time.monotonic() - max(self.stepped, self.grown) > idle
        return starved or 0 < self.settings.hand_over_steps <= self.session.state.step
