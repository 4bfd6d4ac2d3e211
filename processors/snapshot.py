"""A DuckDB connection that sees each table as one list of Parquet files, and sees nothing else of this machine."""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from schemas.tables import TABLES

SUPERSEDED = """
CREATE VIEW superseded AS
WITH lost AS (SELECT c.id, p.id AS parent_id, c.tree_sha AS parent_sha, p._sha AS visible_sha
  FROM traces c JOIN trees p ON c.tree_id = p.id WHERE c.tree_sha <> p._sha)
SELECT 'traces' AS "table", * FROM lost
UNION ALL
SELECT 'examples', c.id, p.id, c.trace_sha, p._sha FROM examples c JOIN traces p USING (id) WHERE c.trace_sha <> p._sha
UNION ALL
SELECT 'examples', c.id, lost.parent_id, lost.parent_sha, lost.visible_sha FROM examples c JOIN lost USING (id)
  JOIN traces p USING (id) WHERE c.trace_sha = p._sha
UNION ALL
SELECT DISTINCT 'nodes', c.tree_id, p.id, c._sha, p._sha FROM nodes c JOIN trees p ON c.tree_id = p.id
  WHERE c._sha <> p._sha
UNION ALL
SELECT 'rewards', c.id, p.id, c.rollouts_sha, p._sha
  FROM rewards c JOIN rollouts p USING (id) WHERE c.rollouts_sha <> p._sha
"""
"""Rows made, directly or through a trace, from a copy that lost: the first committed copy of an id is the visible one.

Nodes are there only after a table was mended (mending.py) and another copy of their tree took the place that was free.
"""


REPLACED = """
CREATE VIEW replaced AS
SELECT replace(topic, '.', '_') AS "table", row_id AS id, arg_max(why, time) AS why, arg_max(code, time) AS code
  FROM replays WHERE what <> 'sent' GROUP BY topic, row_id HAVING arg_max(what, time) IN ('replaced', 'withdrawn')
"""
"""Rows that a later replay (`factory replay`) does not give any more, or gives otherwise: the newest code wins."""


def quoted(text: str) -> str:
    """`text` as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def connection(
    sources: Mapping[str, Sequence[str] | Any], conditions: Mapping[str, str], memory_mb: int = 0
) -> duckdb.DuckDBPyConnection:
    """A connection with a view a table, which can open these files and nothing else; its configuration is locked.

    Args:
        sources: the paths of each table's files (none = an empty view), or a pyarrow dataset. Where every table is
            among them, the connection has the views `superseded` and `replaced`, too.
        conditions: WHERE clauses of tables that are not shown as a whole.
        memory_mb: what a query may use; 0 = DuckDB's own limit.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": "",
        "python_enable_replacements": False,
    }
    if memory_mb:
        config["memory_limit"] = f"{memory_mb}MiB"
    made = duckdb.connect(config=config)
    listed = [quoted(path) for source in sources.values() if isinstance(source, list) for path in source]
    made.execute(f"SET allowed_paths = [{', '.join(listed)}]")
    for name, source in sources.items():
        condition = conditions.get(name, "")
        if not isinstance(source, list):
            made.register(f"{name} as it is" if condition else name, source)
            if condition:
                made.execute(f'CREATE VIEW "{name}" AS SELECT * FROM "{name} as it is" {condition}')  # noqa: S608
        elif source:
            made.execute(view(name, source, condition))
        else:
            made.register(name, TABLES[name].empty_table())
    if len(sources) == len(TABLES):
        made.execute(SUPERSEDED)
        made.execute(REPLACED)
    made.execute("SET enable_external_access = false")
    made.execute("SET lock_configuration = true")
    return made


def view(name: str, paths: Sequence[str], condition: str = "") -> str:
    """The statement that makes a table's view of its files."""
    return f'CREATE VIEW "{name}" AS SELECT * FROM read_parquet([{", ".join(map(quoted, paths))}]) {condition}'  # noqa: S608


def up_to(offsets: Mapping[str, int], time_ms: int) -> str:
    """The WHERE clause for the rows that a table had at a version whose files are gone: those up to its offsets.

    Args:
        offsets: the last offset by `table:topic_uuid:partition`, at that version.
        time_ms: of its commit; rows of no topic (an evaluation without a broker) are taken by their time.
    """
    places = [f"({quoted(app.split(':')[1])}, {app.split(':')[2]}, {offset})" for app, offset in offsets.items()]
    listed = ", ".join(places) or "('', -1, -2)"
    known = f"SELECT 1 FROM (VALUES {listed}) AS held(t, p, o) WHERE t = _topic_id AND p = _partition AND _offset <= o"  # noqa: S608
    return f"WHERE (_topic = '' AND epoch_ms(_time) <= {time_ms}) OR EXISTS ({known})"
