"""Rows for people to look at: a tree with the traces that were made of it, a trace with the nodes it speaks of.

A trace names the sha of the tree's bytes it was made from. Only a tree of that sha is its tree: another copy of the
same search has other nodes under the same numbers.
"""

from typing import Any, TypeVar

import msgspec

from processors.dataset import Datasets, quoted
from schemas import messages as m
from schemas.errors import Told
from schemas.settings import Settings
from schemas.tables import from_row
from schemas.topics import BY_MESSAGE

M = TypeVar("M", bound=m.Message)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class NotFound(Told, LookupError):
    """No such row, or several; the text says how to find one."""


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """A trace as it is marked in its tree."""

    mark: str
    """The letter it has in the drawing."""
    id: str
    arm: str
    walk: list[int]
    """Node ids in order; a node that was there before is a return to it."""
    backtracks: int
    wrong_answers: list[str]
    rewriter: str
    rewrites: int
    fallbacks: int


class ShownTree(m.Tree, frozen=True, kw_only=True):
    """A tree and the traces made of it."""

    traces: list[Drawn]


class ShownTrace(m.Trace, frozen=True, kw_only=True):
    """A trace and the nodes of its tree that it speaks of."""

    nodes: list[m.Node]
    """In the order of their ids; empty where the tree is not in the table, or another copy of it is."""


def find_tree(settings: Settings, id_: str) -> ShownTree:
    """The tree with that id or of that problem, or whose id begins so, and its traces.

    Raises:
        NotFound: when there is none, or more than one.
    """
    datasets = _datasets(settings)
    pin = datasets.versions()
    tree, sha = _find(datasets, pin, m.Tree, id_, also="problem.id")
    where = f"tree_id = {quoted(tree.id)} AND tree_sha = {quoted(sha)}"
    traces = sorted(datasets.messages(m.Trace, where, pin), key=lambda trace: (trace.arm, trace.walk, trace.id))
    return ShownTree(**_fields(tree), traces=[_drawn(at, trace) for at, trace in enumerate(traces)])


def find_trace(settings: Settings, id_: str) -> ShownTrace:
    """The trace whose id is or begins so, and the nodes it speaks of.

    Raises:
        NotFound: when there is none, or more than one.
    """
    datasets = _datasets(settings)
    pin = datasets.versions()
    trace, _ = _find(datasets, pin, m.Trace, id_)
    where = f"id = {quoted(trace.tree_id)} AND _sha = {quoted(trace.tree_sha)}"
    trees = list(datasets.messages(m.Tree, where, pin))
    told = {*trace.walk, *(segment.node for segment in trace.segments)}
    return ShownTrace(**_fields(trace), nodes=[node for tree in trees[:1] for node in tree.nodes if node.id in told])


def find_problem(settings: Settings, id_: str) -> m.Problem:
    """The problem whose id is or begins so.

    Raises:
        NotFound: when there is none, or more than one.
    """
    datasets = _datasets(settings)
    return _find(datasets, datasets.versions(), m.Problem, id_)[0]


def _datasets(settings: Settings) -> Datasets:
    return Datasets.of(settings)


def _find(datasets: Datasets, pin: dict[str, int], kind: type[M], id_: str, also: str = "id") -> tuple[M, str]:
    """The message and the sha of its bytes."""
    table = BY_MESSAGE[kind].table
    word = table.removesuffix("s")
    hint = f'see: factory sql "select id from {table} limit 10"'  # noqa: S608 - a text for people
    if not id_:
        raise NotFound(f"which {word}? {hint}")
    query = f"""SELECT id FROM {table} WHERE starts_with(id, $1) OR starts_with({also}, $1)
        ORDER BY $1 IN (id, {also}) DESC, id LIMIT 6"""  # noqa: S608 - our own names
    with datasets.connect(pin) as connection:
        found = [str(row[0]) for row in connection.execute(query, [id_]).fetchall()]
    if not found:
        raise NotFound(f"no {word} whose id begins with {id_!r} is in the table yet; {hint}")
    if len(found) > 1 and found[0] != id_:
        raise NotFound(f"{id_!r} begins the ids of several {table}: {', '.join(found[:5])}; give more of it")
    row = next(datasets.rows(table, f"id = {quoted(found[0])}", pin))
    return from_row(row, kind), str(row["_sha"])


def _fields(message: m.Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__}


def _drawn(at: int, trace: m.Trace) -> Drawn:
    return Drawn(
        mark=LETTERS[at] if at < len(LETTERS) else str(at),
        id=trace.id,
        arm=trace.arm,
        walk=trace.walk,
        backtracks=trace.backtracks,
        wrong_answers=trace.wrong_answers,
        rewriter=trace.rewriter,
        rewrites=trace.rewrites,
        fallbacks=trace.fallbacks,
    )
