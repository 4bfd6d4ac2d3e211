"""The process 'prompts': problems for RL, chosen by SQL over the datasets and paced by what the samplers have in hand.

The default choice is a measured pass rate strictly between 0 and 1, since a group that is all right or all wrong
teaches nothing; rates follow the policy (producers/measured.py) and are asked for anew every 15 seconds. A problem
used again gets the next round, and so another group id. What the evaluation asks is never used, whatever the query
says: it becomes a row in `filtered`.
"""

import contextlib
import heapq
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from kafka import KafkaProducer

from processors import kafka
from processors.asking import BadQuery, answer, bounded, reading
from processors.dataset import Datasets, quoted
from processors.history import history
from processors.status import Status
from processors.stopping import stop_event
from processors.versions import Versions
from producers.admission import Admission
from producers.measured import measured
from producers.pacing import Pace
from producers.sources.held_out import Reserved, refusal
from schemas.killpoints import passed
from schemas.load import BadSettings
from schemas.messages import Filtered, Message, Problem, Prompt, content_id
from schemas.settings import PromptsSection, Settings, SqlSection

PAUSE_S = 0.2
REFRESH_S = 15.0
"""How old a choice may be before the tables are asked again (where it was empty: RETRY_S)."""
RETRY_S = 2.0
ACK_S = 60.0
STAGE = "prompts"
DEFAULT_SQL = "SELECT id, pass_rate, why FROM measured WHERE pass_rate > 0 AND pass_rate < 1"


class Choice(msgspec.Struct, frozen=True):
    """A problem that may be used, and why."""

    problem: Problem
    pass_rate: float
    why: str


class Chosen(msgspec.Struct, frozen=True):
    """What a query came to."""

    choices: list[Choice]
    refused: list[Filtered]
    """A row for each problem that it names and the evaluation asks."""


def choose(
    datasets: Datasets,
    section: PromptsSection,
    reserved: Reserved,
    limits: SqlSection = SqlSection(),  # noqa: B008 - frozen
) -> Chosen:
    """The problems that the query names (columns id, pass_rate, why), those of the evaluation apart.

    Args:
        datasets: the tables.
        section: sql, over the tables and `measured`; empty = DEFAULT_SQL. window.
        reserved: of the settings.
        limits: of the query.

    Raises:
        BadSettings: for a query that fails or lacks a column.
    """
    pin = datasets.versions()
    found = _named(datasets, section, pin, limits)
    chosen = Chosen([], [])
    if not found:
        return chosen
    listed = ", ".join(quoted(name) for name in sorted(found))
    for problem in datasets.messages(Problem, f"id IN ({listed})", pin):
        rate, why = found[problem.id]
        if reason := reserved.why(problem):
            chosen.refused.append(refusal(STAGE, problem, reason))
        else:
            chosen.choices.append(Choice(problem, -1.0 if rate is None else rate, why or ""))
    return chosen


def _named(
    datasets: Datasets, section: PromptsSection, pin: dict[str, int], limits: SqlSection
) -> dict[str, tuple[float | None, str | None]]:
    """By problem id, the pass rate and the reason that the query gives."""
    text = (section.sql or DEFAULT_SQL).strip().rstrip(";")
    # The line's end: the query may close with a comment.
    query = (
        f"WITH measured AS ({measured(section.window)}) "  # noqa: S608 - ours, and the user's own query in a subquery
        f"SELECT CAST(id AS VARCHAR), CAST(pass_rate AS DOUBLE), CAST(why AS VARCHAR) FROM (\n{text}\n)"
    )
    try:
        with bounded(datasets, limits, pin) as connection:
            rows = answer(connection, reading(connection, query), limits)
    except BadQuery as error:
        raise BadSettings(f"prompts.sql must be a query with columns id, pass_rate, why: {error}") from error
    columns = (column.to_pylist() for column in rows.columns)
    return {name: (rate, why) for name, rate, why in zip(*columns, strict=True) if name is not None}


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
        datasets = Datasets.of(settings)
        datasets.create()
        reserved = Reserved(settings)
        choose(datasets, settings.prompts, reserved, settings.sql)  # a wrong query is told now, not when SFT is done
        with contextlib.closing(Versions(settings)) as versions:
            status.set(waiting="for the handover")
            while not may_start(settings, versions) and not asked.wait(PAUSE_S):
                pass
        if not asked.is_set():
            _publish(settings, status, asked, datasets, reserved)


class Curriculum:
    """The rota in force, made anew from the tables as it ages.

    Args:
        settings: prompts, factory.seed, the data directory and the broker.
        datasets: the tables.
        reserved: of the settings.
        rounds: how often each problem was used, by id; counted on.
    """

    def __init__(self, settings: Settings, datasets: Datasets, reserved: Reserved, rounds: dict[str, int]) -> None:
        self.settings, self.datasets, self.reserved, self.rounds = settings, datasets, reserved, rounds
        self.rota = Rota([], rounds, settings.factory.seed)
        before = history(settings, Filtered, f"stage = '{STAGE}'")
        self._told = {row.id for row in before if row.stage == STAGE}
        self._asked = float("-inf")

    def refresh(self) -> list[Filtered]:
        """Ask the tables where the last answer is too old; the rows of problems refused for the first time.

        Raises:
            BadSettings: the query cannot be used.
        """
        if time.monotonic() - self._asked <= (REFRESH_S if self.rota else RETRY_S):
            return []
        chosen = choose(self.datasets, self.settings.prompts, self.reserved, self.settings.sql)
        self.rota = Rota(chosen.choices, self.rounds, self.settings.factory.seed)
        self._asked = time.monotonic()
        new = [row for row in chosen.refused if row.id not in self._told]
        self._told.update(row.id for row in new)
        return new


def _publish(settings: Settings, status: Status, stop: threading.Event, datasets: Datasets, reserved: Reserved) -> None:
    rounds, ids = used(settings)
    admission = Admission(settings, datasets, ids)
    curriculum = Curriculum(settings, datasets, reserved, rounds)
    client = kafka.producer(settings)
    partitions = len(client.partitions_for("prompts") or {0})
    pace = Pace(settings, "sample", "prompts", settings.prompts.ahead)
    turn = sum(rounds.values())
    while not stop.is_set():
        room = min(pace.room(), admission.room())
        if room:
            refused = curriculum.refresh()
            _send(client, [(row, None) for row in refused])
            status.add(held_out=len(refused))
        rota = curriculum.rota
        status.set(candidates=len(rota))
        status.set(waiting="" if room and rota else "for the samplers or RL" if rota else "for measured problems")
        if not (room and rota):
            stop.wait(PAUSE_S)
            continue
        prompts = list(rota.take(room))
        admission.admitted({prompt.id for prompt in prompts})
        passed("prompts:working")
        with status.in_flight:
            _send(client, [(prompt, at % partitions) for at, prompt in enumerate(prompts, turn)])
        passed("prompts:output")
        turn += len(prompts)
        pace.sent(len(prompts))
        status.add(records=len(prompts))
    client.close()


def _send(client: KafkaProducer, messages: Sequence[tuple[Message, int | None]]) -> None:
    """Send, each to its partition or where its key belongs, and wait.

    Raises:
        KafkaError: for a message that was not acknowledged.
    """
    futures = [kafka.send(client, message, partition) for message, partition in messages]
    client.flush(ACK_S)
    for future in futures:
        future.get(timeout=ACK_S)
