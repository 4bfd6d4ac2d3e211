"""Rows that other rows name: what something was made from, what a step follows, which weights were used.

A stage's account finds an input without an answer; these find an answer without its input. The naming table is read
before the named one, so a running factory raises no false alarm. An embedded broker may lose a row whose successor is
in its table already: while what that row is made from waits to be fed again, it is in flight and not lost.

Not here: what `filtered` rows and dead letters name (a letter may be of bytes that no table could take, and where the
row is gone, its own origin has lost its answer), and what SFT trained on (sft.sql may name rows as it likes).
"""

from collections.abc import Mapping

import msgspec

from deploy.ledger_facts import Facts, whole
from deploy.ledger_lines import NamedLine


class Name(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which rows name others."""

    by: str
    """Table."""
    of: str
    """Table; its ids are named."""
    id: str
    """SQL over the naming row: the id."""
    origin: str = "''"
    """SQL over the naming row: the id that the named row is made from ..."""
    topic: str = ""
    """... and the topic where that waits until it is."""


NAMES = (
    Name(by="trees", of="problems", id="problem.id"),
    Name(by="prompts", of="problems", id="problem.id"),
    Name(by="traces", of="trees", id="tree_id", origin="problem.id", topic="problems"),
    Name(by="examples", of="traces", id="id", origin="tree_id", topic="trees"),
    Name(by="rollouts", of="prompts", id="id"),
    Name(by="rewards", of="rollouts", id="id", origin="id", topic="prompts"),
)
VERSIONS = """
SELECT version FROM {training} UNION SELECT policy_version FROM {trees}
UNION SELECT version FROM {evaluations} WHERE policy IN (SELECT policy FROM {weights})
UNION SELECT parent FROM {weights} UNION SELECT unnest(flatten([[s.version for s in x.spans] for x in rollouts]))
FROM {rewards}
"""
STEPS = """
SELECT DISTINCT run || ':' || unnest(range(1, step + 1)) AS id
FROM (SELECT run, max(step) AS step FROM (SELECT run, step FROM {training} UNION ALL SELECT run, step FROM weights)
      WHERE run <> '' GROUP BY run)
"""
"""Every step up to the last one that a row of `training`, or a version, tells of (only versions in the table: those in
the topic are read after the steps)."""


def lines(facts: Facts, waiting: Mapping[str, set[str]]) -> list[NamedLine]:
    """An account for each way.

    Args:
        facts: online or offline.
        waiting: by topic, the ids that wait for their answer there.
    """
    found = [_line(facts, name, waiting.get(name.topic, set())) for name in NAMES]
    return [*found, _steps(facts), _versions(facts)]


def _line(facts: Facts, name: Name, waiting: set[str]) -> NamedLine:
    query = f"""
    WITH named AS (SELECT DISTINCT {name.id} AS id, {name.origin} AS origin FROM {whole(name.by)}),
      absent AS (FROM named WHERE id NOT IN (SELECT id FROM {whole(name.of)}))
    SELECT (SELECT count(DISTINCT id) FROM named), list((id, origin)) FROM absent
    """  # noqa: S608 - our own names
    count, absent = facts.connection.execute(query).fetchall()[0]
    missing = {key for key, origin in absent or [] if origin not in waiting}
    return NamedLine(by=name.by, of=name.of, named=count, missing=sorted(missing))


def _steps(facts: Facts) -> NamedLine:
    """No step of a run is left out."""
    named = STEPS.format(training=whole("training"))
    query = f"SELECT count(*), list(id) FILTER (id NOT IN (SELECT id FROM {whole('training')})) FROM ({named})"  # noqa: S608
    count, missing = facts.connection.execute(query).fetchall()[0]
    return NamedLine(by="training and weights", of="training", named=count, missing=sorted(missing or []))


def _versions(facts: Facts) -> NamedLine:
    """Every version of the weights that was used was announced; version 0, the base, by whoever came first."""
    tables = {table: whole(table) for table in ("training", "trees", "evaluations", "weights", "rewards")}
    query = f"""
    SELECT count(*), list(version) FILTER (version NOT IN (SELECT version FROM {tables["weights"]}))
    FROM ({VERSIONS.format(**tables)}) WHERE version > 0
    """  # noqa: S608 - our own names
    count, missing = facts.connection.execute(query).fetchall()[0]
    by = "trees, rewards, training, evaluations"
    return NamedLine(by=by, of="weights", named=count, missing=[f"v{version}" for version in sorted(missing or [])])
