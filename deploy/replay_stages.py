"""What each stage that can be replayed would give today for rows of its input, compared with what the tables hold.

A trace is compared by everything but its id: the same walk in the same words is the same trace. An example says that a
trace passes the checks: a replay of `verify` makes it where the trace passes today, and withdraws it where it does not.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import duckdb
import msgspec

from processors import linearizer, verifier
from processors.grading import Grader
from processors.rewriter import installed
from schemas.codec import encode
from schemas.load import BadSettings
from schemas.messages import Example, Filtered, Message, Trace, Tree, content_id
from schemas.settings import Settings
from schemas.tables import from_row

SHOWN = 5
IN_HAND = 8
MARKED = frozenset({"made", "replaced", "withdrawn", "restored"})
What = Literal["unchanged", "made", "replaced", "withdrawn", "restored", "filtered", "failed"]
Rows = Sequence[Mapping[str, Any]]
Today = Callable[[Rows, duckdb.DuckDBPyConnection], list["Change"]]


class Change(msgspec.Struct, frozen=True):
    """What becomes of one output row (filtered, failed: of one input row)."""

    what: What
    row_id: str
    why: str = ""
    message: Message | None = None
    """What is sent."""
    marks: int = 0
    """How many rows of `replays` there are about the row: the next one gets another id."""


class Way(msgspec.Struct, frozen=True):
    """A stage as a replay sees it."""

    input: str
    output: str
    open: Callable[[Settings], AbstractContextManager[Today]]
    way: Callable[[Settings], str]
    """The settings that decide what it gives, where they are not the defaults."""


class Held(msgspec.Struct, frozen=True):
    """A trace that the table holds."""

    id: str
    tree_id: str
    content: str
    visible: bool
    marks: int


def content(trace: Trace) -> str:
    """The sha256 (hex) of everything but the id."""
    return hashlib.sha256(encode(msgspec.structs.replace(trace, id=""))).hexdigest()


@contextlib.contextmanager
def linearize(settings: Settings) -> Iterator[Today]:
    """Trees into traces.

    Raises:
        BadSettings: the model is to word the steps, which needs an engine.
    """
    if settings.linearize.rewriter == "model":
        raise BadSettings("a replay has no engine: set linearize.rewriter = 'template' for it")
    words, runner = installed(settings), asyncio.Runner()

    def today(rows: Rows, connection: duckdb.DuckDBPyConnection) -> list[Change]:
        held = _held(connection, [row["id"] for row in rows])
        said = _said(connection, [row["id"] for row in rows])
        found: list[Change] = []
        for row in rows:
            mine = [one for one in held if one.tree_id == row["id"]]
            try:
                made = linearizer.traces(from_row(dict(row), Tree), row["_sha"], settings)
                made = runner.run(linearizer.worded(made, words)) if words else made
            except ValueError as error:  # BadTree: its dead letter was written when it was new
                found.append(Change("failed", row["id"], str(error)))
                continue
            found += [one for one in differences(made, mine) if one.what != "filtered" or one.row_id not in said]
        return found

    with runner:
        yield today


def differences(made: Sequence[Message], held: Sequence[Held]) -> list[Change]:
    """What changes between the traces of one tree that are held and those (or the Filtered) that are made today."""
    traces = {content(trace): trace for trace in made if isinstance(trace, Trace)}
    there = {one.content: one for one in held}
    taken = {one.id for one in held}
    why = next((row.why for row in made if isinstance(row, Filtered)), "")
    found = [Change("filtered", row.input_id, row.why, row) for row in made if isinstance(row, Filtered) and not held]
    for sha, trace in traces.items():
        one = there.get(sha)
        if one is None:
            key = content_id(trace.id, sha) if trace.id in taken else trace.id
            found.append(Change("made", key, "", msgspec.structs.replace(trace, id=key)))
        else:
            found.append(Change("unchanged" if one.visible else "restored", one.id, "", trace, one.marks))
    for sha, one in there.items():
        if one.visible and sha not in traces:
            what: What = "replaced" if traces else "withdrawn"
            found.append(
                Change(what, one.id, why or f"{len(traces)} other traces of tree {one.tree_id}", None, one.marks)
            )
    return found


def _held(connection: duckdb.DuckDBPyConnection, trees: list[str]) -> list[Held]:
    """The traces of these trees that were made from the visible copy of their tree."""
    query = """
    SELECT t.*, r.id IS NULL AS visible, coalesce(m.marks, 0) AS marks FROM traces t
      JOIN trees p ON p.id = t.tree_id AND p._sha = t.tree_sha
      LEFT JOIN replaced r ON r."table" = 'traces' AND r.id = t.id
      LEFT JOIN (SELECT row_id, count(*) AS marks FROM replays WHERE topic = 'traces' GROUP BY row_id) m
        ON m.row_id = t.id
    WHERE t.tree_id IN (SELECT unnest(?::VARCHAR[]))
    """
    found = []
    for batch in connection.sql(query, params=[trees]).to_arrow_reader(256):
        for row in batch.to_pylist():
            trace = from_row(row, Trace)
            found.append(Held(trace.id, trace.tree_id, content(trace), row["visible"], row["marks"]))
    return found


def _said(connection: duckdb.DuckDBPyConnection, trees: list[str]) -> set[str]:
    """Those of the trees of which it was said that they give no trace."""
    query = "SELECT input_id FROM filtered WHERE stage = 'linearize' AND input_id IN (SELECT unnest(?::VARCHAR[]))"
    return {row[0] for row in connection.execute(query, [trees]).fetchall()}


@contextlib.contextmanager
def verify(settings: Settings) -> Iterator[Today]:
    """Traces into examples."""
    grader, runner = Grader(settings), asyncio.Runner()

    def today(rows: Rows, connection: duckdb.DuckDBPyConnection) -> list[Change]:
        fates = _fates(connection, [row["id"] for row in rows])
        judged = runner.run(_judged(rows, grader, settings))
        return [judgement(row["id"], one, *fates[row["id"]]) for row, one in zip(rows, judged, strict=True)]

    try:
        yield today
    finally:
        runner.close()
        grader.close()


async def _judged(rows: Rows, grader: Grader, settings: Settings) -> list[Message | Exception]:
    room = asyncio.Semaphore(IN_HAND)

    async def judge(row: Mapping[str, Any]) -> Message | Exception:
        async with room:
            try:
                return await verifier.judge(from_row(dict(row), Trace), row["_sha"], grader, settings.verify)
            except (ValueError, LookupError) as error:  # its dead letter was written when it was new
                return error

    return list(await asyncio.gather(*(judge(row) for row in rows)))


def judgement(key: str, today: Message | Exception, state: str, marks: int) -> Change:
    """What changes for a trace.

    Args:
        key: its id, which is its example's.
        today: the example, or why there is none.
        state: 'example', 'withdrawn' (an example that does not count), 'filtered' or '' (no answer yet).
        marks: rows of `replays` about the example.
    """
    if isinstance(today, Exception):
        return Change("failed", key, str(today))
    if isinstance(today, Example):
        if state == "example":
            return Change("unchanged", key, "", today, marks)
        return Change("restored" if state == "withdrawn" else "made", key, "", today, marks)
    assert isinstance(today, Filtered)
    if state == "example":
        return Change("withdrawn", key, today.why, None, marks)
    return Change("unchanged", key) if state else Change("filtered", key, today.why, today)


def _fates(connection: duckdb.DuckDBPyConnection, traces: list[str]) -> dict[str, tuple[str, int]]:
    """By trace id: its example's state (see judgement), and the rows of `replays` about it."""
    query = """
    SELECT w.id, CASE WHEN e.id IS NOT NULL THEN if(r.id IS NULL, 'example', 'withdrawn')
                      WHEN w.id IN (SELECT input_id FROM filtered WHERE stage = 'verify') THEN 'filtered' ELSE '' END,
      (SELECT count(*) FROM replays WHERE topic = 'examples' AND row_id = w.id)
    FROM (SELECT unnest(?::VARCHAR[]) AS id) w LEFT JOIN examples e ON e.id = w.id
      LEFT JOIN replaced r ON r."table" = 'examples' AND r.id = w.id
    """
    return {key: (state, marks) for key, state, marks in connection.execute(query, [traces]).fetchall()}


def _linearized(settings: Settings) -> str:
    return linearizer.changed(settings.linearize)


def _verified(settings: Settings) -> str:
    return linearizer.changed(settings.verify)


WAYS: Mapping[str, Way] = {
    "linearize": Way("trees", "traces", linearize, _linearized),
    "verify": Way("traces", "examples", verify, _verified),
}
