"""`factory show problem`: one problem on its way through every stage, when each row of it was made and after how long.

Only tables are asked, so what lies in a topic and in no table yet is not there. Times are the records' own, those of
the machine that made them: across machines whose clocks differ a wait may come out below zero.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import duckdb
import msgspec

from deploy.show_find import NotFound, find_problem
from deploy.show_made import MADE
from deploy.sql import datasets
from processors.dataset import quoted
from schemas import messages as m
from schemas.settings import Settings


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """One row that was made of the problem."""

    time: float
    """s since the epoch."""
    stage: str
    table: str
    id: str
    of: list[str]
    """The ids of the rows it was made from, as far as they are of this problem."""
    after: float | None
    """Seconds since the last of those rows: waiting and work; None where it was made of none."""
    took: float | None
    """Seconds of work, where the row says."""
    what: str
    superseded: bool = False
    """Made from a copy that lost: the first committed copy of an id is the visible one."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A row without an answer: it waits for the stage, is in its hand, or is not in the table yet."""

    stage: str
    table: str
    id: str
    since: float
    """s since the epoch."""


class ShownProblem(m.Problem, frozen=True, kw_only=True):
    """A problem and all that became of it, oldest first."""

    passages: list[Passage]
    waiting: list[Waiting]


NEXT = (
    ("problems", "search", "trees"),
    ("trees", "linearize", "traces"),
    ("traces", "verify", "examples"),
    ("prompts", "sample", "rollouts"),
    ("rollouts", "verify", "rewards"),
    ("rewards", "rl", "training"),
)
"""A row of the first table has an answer of the stage: a row of the third, a filtered one, or a dead letter."""
TRAINED = """
SELECT t.id, t.trainer AS stage, t.step, t.version, t.loss, t.seconds AS took, list(DISTINCT g.id) AS of,
  epoch_us(t._time) / 1e6 AS time,
  (SELECT arg_min(struct_pack(version := w.version, time := epoch_us(w._time) / 1e6), w.step)
   FROM weights w WHERE w.run = t.run AND w.step >= t.step) AS first
FROM training t, unnest(t.rows) g(id) WHERE list_contains($1, g.id) GROUP BY ALL ORDER BY time
"""
"""The steps that trained on some of these ids, and for each the first version that was published after it."""
LEFT_OUT = """
SELECT id, stage, replace(input_topic, '.', '_') AS source, input_id, why, epoch_us(_time) / 1e6 AS time
FROM filtered WHERE list_contains($1, input_id)
"""
DEAD = """
SELECT id, stage, replace(topic, '.', '_') AS source, input_id, error, attempt, epoch_us(_time) / 1e6 AS time,
  id IN (SELECT row_id FROM replays WHERE what = 'sent') AS again
FROM dead_letters WHERE list_contains($1, input_id)
"""
SUPERSEDED = 'SELECT DISTINCT "table", id FROM superseded WHERE "table" <> \'nodes\' AND list_contains($1, id)'


def follow(settings: Settings, id_: str) -> ShownProblem:
    """The problem whose id is or begins so, and what became of it.

    Raises:
        NotFound: when there is none, or more than one.
        NoDatasets: when there are no tables yet.
    """
    problem = _problem(settings, id_)
    with datasets(settings).connect() as connection:
        return _follow(connection, problem)


def _problem(settings: Settings, id_: str) -> m.Problem:
    """From the problems that were produced, or the held-out ones that were only asked in evaluations."""
    try:
        return find_problem(settings, id_)
    except NotFound:
        if id_:
            where = f"starts_with(problem.id, {quoted(id_)})"
            asked = {row.problem.id: row.problem for row in datasets(settings).messages(m.Answers, where)}
            if len(asked) == 1:
                return next(iter(asked.values()))
        raise


def _follow(connection: duckdb.DuckDBPyConnection, problem: m.Problem) -> ShownProblem:
    found: dict[tuple[str, str], Passage] = {}
    for table in MADE:
        for passage in _made(connection, table, problem.id, found):
            found[table, passage.id] = passage
    ids = sorted({problem.id, *(id_ for _, id_ in found)})
    lost = {(row["table"], row["id"]) for row in _rows(connection, SUPERSEDED, [ids])}
    made = [msgspec.structs.replace(found[key], superseded=key in lost) for key in found]
    trained = list(_trained(connection, ids, found))
    letters = _rows(connection, DEAD, [ids])
    left_out = _rows(connection, LEFT_OUT, [ids])
    passages = [
        *made,
        *trained,
        *(_ended(row, "filtered", f"left out: {row['why']}", found) for row in left_out),
        *(_ended(row, "dead_letters", _letter(row), found) for row in letters),
    ]
    answered = {(row["stage"], row["input_id"]) for row in (*left_out, *(row for row in letters if not row["again"]))}
    return ShownProblem(
        **{name: getattr(problem, name) for name in m.Problem.__struct_fields__},
        passages=sorted(passages, key=lambda passage: passage.time),
        waiting=_waiting(made, trained, answered),
    )


def _made(
    connection: duckdb.DuckDBPyConnection, table: str, problem: str, found: Mapping[tuple[str, str], Passage]
) -> Iterator[Passage]:
    made = MADE[table]
    holds = "id" if table == "problems" else "problem.id"
    query = f"""SELECT id, {made.of} AS of, epoch_us(_time) / 1e6 AS time, {made.columns}
        FROM {table} WHERE {holds} = $1"""  # noqa: S608 - our own names
    for row in _rows(connection, query, [problem]):
        yield Passage(
            time=row["time"],
            stage=made.stage,
            table=table,
            id=row["id"],
            of=[row["of"]] if row["of"] else [],
            after=_after(row["time"], [(made.source, row["of"])], found),
            took=row.get("took"),
            what=made.words(row),
        )


def _trained(
    connection: duckdb.DuckDBPyConnection, ids: list[str], found: Mapping[tuple[str, str], Passage]
) -> Iterator[Passage]:
    """The steps that trained on rows of the problem, and the versions that learned from them first."""
    told: set[int] = set()
    for row in _rows(connection, TRAINED, [ids]):
        source = "examples" if row["stage"] == "sft" else "rewards"
        yield Passage(
            time=row["time"],
            stage=row["stage"],
            table="training",
            id=row["id"],
            of=sorted(row["of"]),
            after=_after(row["time"], [(source, id_) for id_ in row["of"]], found),
            took=row["took"],
            what=f"step {row['step']}: {len(row['of'])} of its rows, from v{row['version']}, loss {row['loss']:.4g}",
        )
        if (first := row["first"]) and first["version"] not in told:
            told.add(first["version"])
            yield Passage(
                time=first["time"],
                stage=row["stage"],
                table="weights",
                id=str(first["version"]),
                of=[row["id"]],
                after=first["time"] - row["time"],
                took=None,
                what=f"v{first['version']} was published, which learned from it",
            )


def _ended(row: dict[str, Any], table: str, what: str, found: Mapping[tuple[str, str], Passage]) -> Passage:
    after = _after(row["time"], [(row["source"], row["input_id"])], found)
    return Passage(
        time=row["time"],
        stage=row["stage"],
        table=table,
        id=row["id"],
        of=[row["input_id"]],
        after=after,
        took=None,
        what=what,
    )


def _letter(row: dict[str, Any]) -> str:
    again = ", sent again" if row["again"] else ""
    return f"dead letter (attempt {row['attempt']}{again}): {row['error']}"


def _after(at: float, keys: Iterable[tuple[str, str]], found: Mapping[tuple[str, str], Passage]) -> float | None:
    times = [found[key].time for key in keys if key in found]
    return at - max(times) if times else None


def _waiting(made: list[Passage], trained: list[Passage], answered: set[tuple[str, str]]) -> list[Waiting]:
    """The rows without an answer."""
    named = {(passage.table, id_) for passage in (*made, *trained) for id_ in passage.of}
    return [
        Waiting(stage=stage, table=table, id=passage.id, since=passage.time)
        for table, stage, answer in NEXT
        for passage in made
        if passage.table == table and (answer, passage.id) not in named and (stage, passage.id) not in answered
    ]


def _rows(connection: duckdb.DuckDBPyConnection, query: str, parameters: list[Any]) -> list[dict[str, Any]]:
    return list(connection.sql(query, params=parameters).to_arrow_table().to_pylist())
