"""The tables whose rows hold a problem: which stage makes them, of what, and what a row says in words."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

Row = dict[str, Any]


class Made(msgspec.Struct, frozen=True):
    """One of these tables."""

    stage: str
    """Which makes its rows."""
    source: str
    """The table of what a row is made from; '' = chosen by SQL or made from the sources."""
    of: str
    """SQL: the id of that."""
    columns: str
    """SQL: what is asked of a row; `took` = seconds of work."""
    words: Callable[[Row], str]


def _problem(row: Row) -> str:
    return f"from {row['source']} #{row['index']}"


def _tree(row: Row) -> str:
    ended = f", ended: {row['stopped']}" if row["stopped"] else ""
    solved = "solved" if row["solved"] else "not solved"
    return f"{row['strategy']} v{row['version']}: {solved}, {row['nodes']} nodes, {row['tokens']:,} tokens{ended}"


def _trace(row: Row) -> str:
    return f"{row['arm']}, {row['backtracks']} backtracks, worded by the {row['rewriter']}"


def _example(row: Row) -> str:
    return f"{row['verdict']}, passed {', '.join(row['checks']) or 'no checks'}"


def _prompt(row: Row) -> str:
    rate = f", pass rate {row['pass_rate']:.2f}" if row["pass_rate"] >= 0 else ""
    return f"round {row['round']} of RL{rate}" + f" ({row['why']})" * bool(row["why"])


def _rollouts(row: Row) -> str:
    versions = ", ".join(f"v{version}" for version in row["versions"] or [])
    return f"{row['count']} responses, {row['tokens'] or 0:,} tokens" + f", {versions}" * bool(versions)


def _rewards(row: Row) -> str:
    return f"{_right(row)}, rewards {', '.join(f'{reward:g}' for reward in row['rewards'])}"


def _answers(row: Row) -> str:
    return f"evaluation of v{row['version']}: {_right(row)}"


def _right(row: Row) -> str:
    return f"{sum(verdict == 'correct' for verdict in row['verdicts'])} of {len(row['verdicts'])} correct"


MADE: Mapping[str, Made] = {
    "problems": Made("produce", "", "''", "source, index", _problem),
    "trees": Made(
        "search", "problems", "problem.id",
        """seconds AS took, solved, stopped, strategy, policy_version AS version, generated_tokens AS tokens,
        (SELECT count(*) FROM nodes n WHERE n.tree_id = trees.id AND n._sha = trees._sha) AS nodes""",
        _tree,
    ),
    "traces": Made("linearize", "trees", "tree_id", "arm, backtracks, rewriter", _trace),
    "examples": Made("verify", "traces", "id", "verdict, checks", _example),
    "prompts": Made("prompts", "", "''", "round, why, pass_rate", _prompt),
    "rollouts": Made(
        "sample", "prompts", "id",
        """seconds AS took, len(rollouts) AS count, list_sum([len(r.token_ids) for r in rollouts])::bigint AS tokens,
        list_sort(list_distinct(flatten([[s.version for s in r.spans] for r in rollouts]))) AS versions""",
        _rollouts,
    ),
    "rewards": Made("verify", "rollouts", "id", "rewards, verdicts", _rewards),
    "answers": Made("evaluate", "", "''", "version, verdicts", _answers),
}  # fmt: skip
"""By table, upstream first."""
