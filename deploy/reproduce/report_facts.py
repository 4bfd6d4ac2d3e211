"""The report's facts, as SQL over the experiment's tables: whoever doubts a number can ask for it again.

Each query speaks of one data directory, through its tables' log. What SQL cannot say (the course of a response, votes)
is computed from the texts that the same rows hold.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import duckdb
import msgspec
import pyarrow as pa

from processors.dataset import Datasets
from producers.sources.held_out import text_key
from schemas.messages import Outcome, Problem

SCORES = """
WITH asked AS (SELECT arg_max(asked, time) AS name FROM answers WHERE version = $version AND problem.source = $source)
SELECT problem, texts, verdicts,
       list_avg([(v = 'correct')::INT FOR v IN verdicts]) AS pass_at_1,
       list_avg(tokens) AS tokens,
       list_avg(backtracks) AS backtracks,
       list_avg([(b > 0)::INT FOR b IN backtracks]) AS with_backtrack,
       list_avg([(f = 'length')::INT FOR f IN finishes]) AS truncated,
       list_avg([(v = 'unparsable')::INT FOR v IN verdicts]) AS unparsable
FROM answers JOIN asked ON answers.asked = asked.name
WHERE version = $version AND problem.source = $source AND len(verdicts) > 0
ORDER BY problem.id
"""
"""What one version answered to one file, a row a problem; of several evaluations of it the last."""

VERSIONS = """
SELECT 'base' AS stage, min(version) AS version FROM weights WHERE trainer = 'base'
UNION ALL SELECT 'sft', max(version) FROM weights WHERE handover
UNION ALL SELECT 'rl', max(version) FROM weights WHERE trainer = 'rl'
"""

SPENT = """
SELECT trainer, max(step) AS steps, sum(tokens)::BIGINT AS tokens, sum(rollouts)::BIGINT AS rollouts,
       sum(len(rows))::BIGINT AS drawn, sum(seconds) AS seconds
FROM training GROUP BY trainer
"""
EXAMPLES = "SELECT count(DISTINCT id) FROM (SELECT unnest(rows) AS id FROM training WHERE trainer = 'sft')"
SAMPLED = """
SELECT count(*) AS groups, coalesce(sum(list_sum([len(r.token_ids) FOR r IN rollouts])), 0)::BIGINT AS tokens,
       coalesce(max(list_max([len(r.token_ids) FOR r IN rollouts])), 0) AS longest
FROM rollouts
"""
SEARCHED = """
SELECT strategy, count(*) AS trees, count(*) FILTER (solved) AS solved, sum(generated_tokens)::BIGINT AS tokens,
       sum(prompt_tokens)::BIGINT AS prompt_tokens, sum(requests)::BIGINT AS requests, sum(seconds) AS tree_seconds
FROM trees GROUP BY strategy ORDER BY strategy
"""
STEPS = """
SELECT step, reward, length, backtracks, entropy, kl, lag_mean AS lag FROM training WHERE trainer = 'rl' ORDER BY step
"""
CHECKPOINTS = """
SELECT w.trainer, CASE WHEN w.trainer = 'rl' THEN w.step ELSE 0 END AS step, e.version, e.pass_at_1, e.tokens,
       e.backtracks, e.truncated
FROM evaluations e JOIN weights w ON e.version = w.version AND e.sha = w.sha256
WHERE e.source = $source AND (w.trainer = 'rl' OR w.handover)
QUALIFY row_number() OVER (PARTITION BY e.version ORDER BY e.time DESC) = 1
ORDER BY e.version
"""
"""The versions that were evaluated on a file, from SFT's last (RL's step 0) on."""
TRAINED_ON = """
SELECT DISTINCT problem.question FROM examples
UNION SELECT DISTINCT problem.question FROM rewards
"""


class Scored(msgspec.Struct, frozen=True):
    """What SCORES says of one problem."""

    problem: Problem
    texts: list[str]
    verdicts: list[Outcome]
    pass_at_1: float
    tokens: float
    backtracks: float
    with_backtrack: float
    truncated: float
    unparsable: float


def ask(connection: duckdb.DuckDBPyConnection, sql: str, **values: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - SQL
    """The answer as one dict a row; `values` are the query's $parameters."""
    return pa.table(connection.sql(sql, params=values or None).to_arrow_table()).to_pylist()


class Directory:
    """One data directory's facts, all of one moment.

    Args:
        path: the directory; without tables it has no facts.
    """

    def __init__(self, path: Path) -> None:
        self._connection = Datasets(path / "datasets").connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def versions(self) -> dict[str, int]:
        """The version of each stage ('base', 'sft', 'rl') that has one."""
        rows = ask(self._connection, VERSIONS)
        return {row["stage"]: int(row["version"]) for row in rows if row["version"] is not None}

    def scores(self, version: int, source: str) -> list[Scored]:
        """What a version answered to a file, in the order of the problems' ids."""
        rows = ask(self._connection, SCORES, version=version, source=source)
        return [msgspec.convert(row, Scored) for row in rows]

    def spent(self) -> dict[str, Any]:
        """What each trainer trained on: sft_steps, sft_tokens, sft_examples, rl_steps, rl_tokens, rl_sampled_tokens."""
        found: dict[str, Any] = {}
        for row in ask(self._connection, SPENT):
            name = row.pop("trainer")
            found |= {f"{name}_{key}": value for key, value in row.items()}
        found["sft_examples"] = next(iter(ask(self._connection, EXAMPLES)[0].values()))
        sampled = ask(self._connection, SAMPLED)[0]
        return found | {f"rl_sampled_{key}": value for key, value in sampled.items()}

    def searched(self) -> list[dict[str, Any]]:
        """What the trees cost, a row a strategy."""
        return ask(self._connection, SEARCHED)

    def steps(self) -> list[dict[str, Any]]:
        """RL's steps."""
        return ask(self._connection, STEPS)

    def checkpoints(self, source: str) -> list[dict[str, Any]]:
        """The evaluated versions on a file."""
        return ask(self._connection, CHECKPOINTS, source=source)

    def trained_on(self, questions: Sequence[str]) -> int:
        """How many of these questions, however they are dressed, are among what was trained on."""
        rows = ask(self._connection, TRAINED_ON)
        return len({text_key(question) for question in questions} & {text_key(row["question"]) for row in rows})
