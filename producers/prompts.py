"""The process 'prompts': problems for RL, chosen by SQL over the datasets and paced by what the samplers have in hand.

The default choice is a measured pass rate strictly between 0 and 1, since a group that is all right or all wrong
teaches nothing. A problem used again gets the next round, and so another group id.
"""

import contextlib
import heapq
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import msgspec

from processors import kafka
from processors.dataset import Datasets, quoted
from processors.history import history
from processors.status import Status
from processors.stopping import stop_event
from processors.versions import Versions
from producers.admission import Admission
from producers.pacing import Pace
from producers.sources.held_out import Reserved
from schemas.load import BadSettings
from schemas.messages import Problem, Prompt, content_id
from schemas.settings import Settings

PAUSE_S = 0.2
REFRESH_S = 15.0
"""How old a choice may be before the tables are asked again (where it was empty: RETRY_S)."""
RETRY_S = 2.0
ACK_S = 60.0
DEFAULT_SQL = """
WITH rl AS (
  SELECT id, avg(CAST(reward > 0 AS DOUBLE)) AS pass_rate, count(*) AS n
  FROM (SELECT problem.id AS id, unnest(rewards) AS reward FROM rewards) GROUP BY id
), tree AS (
  SELECT problem_id AS id, sum(rollouts_correct) / sum(rollouts) AS pass_rate, sum(rollouts) AS n
  FROM nodes GROUP BY problem_id HAVING sum(rollouts) > 0
), measured AS (
  SELECT *, 'RL' AS place FROM rl UNION ALL
  SELECT *, 'search' AS place FROM tree WHERE id NOT IN (SELECT id FROM rl)
)
SELECT id, pass_rate, format('pass rate {:.3f} of {} rollouts in {}', pass_rate, CAST(n AS BIGINT), place) AS why
FROM measured WHERE pass_rate > 0 AND pass_rate < 1
"""
"""What RL's own rollouts of a problem say is newer than its search tree, and replaces it."""


class Choice(msgspec.Struct, frozen=True):
    """A problem that may be used, and why."""

    problem: Problem
    pass_rate: float
    why: str


def choose(datasets: Datasets, sql: str, reserved: Reserved) -> list[Choice]:
    """The problems that the query names (columns id, pass_rate, why), without those of the evaluation.

    Args:
        datasets: the tables.
        sql: settings.prompts.sql; empty = DEFAULT_SQL.
        reserved: of the settings.

    Raises:
        BadSettings: for a query that fails or lacks a column.
    """
    pin = datasets.versions()
    text = (sql or DEFAULT_SQL).strip().rstrip(";")
    try:
        with datasets.connect(pin) as connection:
            # The line's end: the query may close with a comment.
            query = f"SELECT CAST(id AS VARCHAR), CAST(pass_rate AS DOUBLE), CAST(why AS VARCHAR) FROM (\n{text}\n)"  # noqa: S608
            found = {row[0]: row for row in connection.execute(query).fetchall() if row[0] is not None}
    except duckdb.Error as error:
        raise BadSettings(f"prompts.sql must be a query with columns id, pass_rate, why: {error}") from error
    if not found:
        return []
    listed = ", ".join(quoted(name) for name in sorted(found))
    return [
        Choice(problem, -1.0 if (rate := found[problem.id][1]) is None else rate, found[problem.id][2] or "")
        for problem in datasets.messages(Problem, f"id IN ({listed})", pin)
        if problem not in reserved
    ]


class Rota:
    """Gives choices in turn: least used first, then the pass rate nearest one half, then as the seed shuffles.

    Args:
        choices: the problems.
        rounds: how often each problem was used, by id; counted on.
        seed: factory.seed.
    """

    def __init__(self, choices: Iterable[Choice], rounds: dict[str, int], seed: int) -> None:
        self.rounds = rounds
        self.seed = seed
        self._heap = [self._placed(choice) for choice in {choice.problem.id: choice for choice in choices}.values()]
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def _placed(self, choice: Choice) -> tuple[int, float, str, Choice]:
        number = self.rounds.get(choice.problem.id, 0)
        shuffled = content_id(self.seed, choice.problem.id, number)
        return number, abs(choice.pass_rate - 0.5), shuffled, choice

    def take(self, count: int) -> Iterator[Prompt]:
        """The next prompts, `count` of them where there is any problem at all."""
        for _ in range(count if self._heap else 0):
            number, _, _, choice = self._heap[0]
            name = choice.problem.id
            self.rounds[name] = number + 1
            heapq.heapreplace(self._heap, self._placed(choice))
            yield Prompt(
                id=content_id("prompt", name, number),
                problem=choice.problem,
                round=number,
                why=choice.why,
                pass_rate=choice.pass_rate,
            )


def used(settings: Settings) -> tuple[dict[str, int], set[str]]:
    """How often each problem was a prompt before, by id, and the ids of those prompts.

    Raises:
        BrokerMissing: no broker answers.
    """
    rounds: dict[str, int] = {}
    ids: set[str] = set()
    for prompt in history(settings, Prompt):
        rounds[prompt.problem.id] = max(rounds.get(prompt.problem.id, 0), prompt.round + 1)
        ids.add(prompt.id)
    return rounds, ids


def may_start(settings: Settings, versions: Versions) -> bool:
    """Whether RL has a policy to sample from: SFT handed over, or what prompts.start and rl.start_version say."""
    known = versions.all()
    if settings.rl.start_version >= 0:
        return any(row.version == settings.rl.start_version for row in known)
    return bool(known) if settings.prompts.start == "weights" else any(row.handover for row in known)


def run(settings: Settings, status: Status, stop: threading.Event | None = None) -> None:
    """Publish prompts from the handover on, until asked to stop.

    Args:
        settings: prompts, problems, evaluate, the data directory and the broker.
        status: what the panel shows.
        stop: set it to end; None = SIGTERM and SIGINT do.

    Raises:
        BadSettings: prompts.sql cannot be used.
        BrokerMissing: no broker answers.
    """
    with stop_event() if stop is None else contextlib.nullcontext(stop) as asked:
        datasets = Datasets(Path(settings.factory.data) / "datasets")
        datasets.create()
        reserved = Reserved(settings)
        choose(datasets, settings.prompts.sql, reserved)  # a wrong query is told now, not when SFT is done
        with contextlib.closing(Versions(settings)) as versions:
            status.set(waiting="for the handover")
            while not may_start(settings, versions) and not asked.wait(PAUSE_S):
                pass
        if not asked.is_set():
            _publish(settings, status, asked, datasets, reserved)


def _publish(settings: Settings, status: Status, stop: threading.Event, datasets: Datasets, reserved: Reserved) -> None:
    rounds, ids = used(settings)
    admission = Admission(settings, datasets, ids)
    client = kafka.producer(settings)
    partitions = len(client.partitions_for("prompts") or {0})
    pace = Pace(settings, "sample", "prompts", settings.prompts.ahead)
    turn, asked_at, rota = sum(rounds.values()), float("-inf"), Rota([], rounds, settings.factory.seed)
    while not stop.is_set():
        room = min(pace.room(), admission.room())
        if room and time.monotonic() - asked_at > (REFRESH_S if rota else RETRY_S):
            rota = Rota(choose(datasets, settings.prompts.sql, reserved), rounds, settings.factory.seed)
            asked_at = time.monotonic()
            status.set(candidates=len(rota))
        status.set(waiting="" if room and rota else "for the samplers or RL" if rota else "for measured problems")
        if not (room and rota):
            stop.wait(PAUSE_S)
            continue
        prompts = list(rota.take(room))
        admission.admitted({prompt.id for prompt in prompts})
        futures = [kafka.send(client, prompt, at % partitions) for at, prompt in enumerate(prompts, turn)]
        client.flush(ACK_S)
        for future in futures:
            future.get(timeout=ACK_S)
        turn += len(futures)
        pace.sent(len(futures))
        status.add(records=len(futures))
    client.close()
