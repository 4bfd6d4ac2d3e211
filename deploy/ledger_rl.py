"""RL's account, in rollouts and in tokens: generated = trained + stale + filtered (why) + failed + in flight.

By source and difficulty as well, because what is dropped is rarely a fair sample: rollouts on hard problems take
longest and are the first to be stale.
"""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from deploy.ledger_facts import Facts, open_letters, whole
from deploy.ledger_lines import PARTS, Amount, RlLine

Row = tuple[str, float, str, int, int, str | None, int, int]
"""A group: source, difficulty, fate, rollouts, tokens; a reason, and for how many rollouts and tokens it was given."""


def account(facts: Facts, waiting: set[str]) -> tuple[RlLine, list[RlLine]]:
    """The sum of all groups, and a line for each source and difficulty.

    Args:
        facts: online or offline.
        waiting: the ids of the groups that are in flight between sampler and trainer.
    """
    rows = _groups(facts, waiting)
    parts: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        parts.setdefault((row[0], row[1]), []).append(row)
    by = [sum_up(parts[key], source=key[0], difficulty=key[1]) for key in sorted(parts)]
    return sum_up(rows), by


def _groups(facts: Facts, waiting: set[str]) -> list[Row]:
    """Every group by its fate: a reason given counts first, for a part of a group that was trained, too."""
    facts.connection.register("waiting", pa.table({"id": pa.array(sorted(waiting), pa.string())}))
    found: list[Row] = facts.connection.execute(f"""
    WITH groups AS (
        SELECT id, any_value(problem.source) AS source, any_value(round(problem.difficulty, 1)) AS difficulty,
          any_value(len(rollouts)) AS r, any_value(list_sum([len(x.token_ids) for x in rollouts])::BIGINT) AS t
        FROM {whole("rollouts")} GROUP BY id),
      trained AS (SELECT DISTINCT unnest(rows) AS id FROM {whole("training")} WHERE trainer = 'rl'),
      reasons AS (SELECT input_id AS id, any_value(why) AS why, sum(rollouts)::BIGINT AS r, sum(tokens)::BIGINT AS t
        FROM (SELECT DISTINCT ON (id) * FROM {whole("filtered")} WHERE stage IN ('rl', 'verify')) GROUP BY input_id),
      dead AS ({open_letters()} AND stage IN ('rl', 'verify'))
    SELECT g.source, g.difficulty, CASE WHEN g.id IN (FROM trained) THEN 'trained'
        WHEN f.id IS NOT NULL AND f.r IN (0, g.r) THEN 'filtered' WHEN g.id IN (FROM dead) THEN 'failed'
        WHEN g.id IN (FROM waiting) THEN 'in_flight' ELSE 'lost' END,
      g.r, coalesce(g.t, 0), f.why, coalesce(f.r, 0), coalesce(f.t, 0)
    FROM groups g LEFT JOIN reasons f ON g.id = f.id
    """).fetchall()  # noqa: S608 - our own names
    return found


def sum_up(rows: Iterable[Row], **where: Any) -> RlLine:  # noqa: ANN401 - source and difficulty
    """Add up groups."""
    sums = {name: [0, 0] for name in PARTS}
    whys: dict[str, int] = {}
    for _, _, fate, rollouts, tokens, why, for_rollouts, for_tokens in rows:
        _add(sums["generated"], (rollouts, tokens))
        part = (0, 0)
        if why is not None:
            part = (rollouts, tokens) if fate == "filtered" else (for_rollouts, for_tokens)
            whys[why] = whys.get(why, 0) + part[0]
            _add(sums["stale" if "stale" in why.lower() else "filtered"], part)
        _add(sums[fate], (rollouts - part[0], tokens - part[1]))
    amounts: dict[str, Any] = {name: Amount(rollouts=pair[0], tokens=pair[1]) for name, pair in sums.items()}
    return RlLine(**where, **amounts, why=whys)


def _add(pair: list[int], amount: tuple[int, int]) -> None:
    pair[0] += amount[0]
    pair[1] += amount[1]
