"""The measured pass rates of all problems, as one SQL query over the tables: what an RL prompt is chosen by.

A rate should be that of the policy as it is now. The rule: a problem's rate is the share of right answers among its RL
rollouts of the last `window` versions, that is, whose rewards came since the window's first version was announced. A
problem without any has the rate of everything older: its RL rollouts and those of its search trees together. So a
problem that is all right or all wrong rests, and once its measure is older than the window, what was mixed before
is tried again; the policy may have changed.
"""

from typing import Final

MEASURED: Final = """
WITH newest AS (
  SELECT version, _time FROM weights ORDER BY version DESC LIMIT {window}
), since AS (
  SELECT min(version) AS version, min(_time) AS began FROM newest
), answer AS (
  SELECT id, reward > 0 AS ok, coalesce(came >= (SELECT began FROM since), true) AS recent
  FROM (SELECT problem.id AS id, unnest(rewards) AS reward, _time AS came FROM rewards)
), rl AS (
  SELECT id, count(*) AS n, count_if(ok) AS c, count_if(recent) AS n_recent, count_if(ok AND recent) AS c_recent
  FROM answer GROUP BY id
), tree AS (
  SELECT problem_id AS id, sum(rollouts) AS n, sum(rollouts_correct) AS c FROM nodes
  GROUP BY problem_id HAVING sum(rollouts) > 0
), counted AS (
  SELECT id, c_recent AS c, n_recent AS n, 'RL since v' || coalesce((SELECT version FROM since), 0) AS place
  FROM rl WHERE n_recent > 0
  UNION ALL
  SELECT id, coalesce(rl.c, 0) + coalesce(tree.c, 0), coalesce(rl.n, 0) + coalesce(tree.n, 0),
    concat_ws(' and ', CASE WHEN tree.id IS NOT NULL THEN 'search' END,
      CASE WHEN rl.id IS NOT NULL THEN 'RL before v' || (SELECT version FROM since) END)
  FROM rl FULL JOIN tree USING (id) WHERE coalesce(n_recent, 0) = 0
)
SELECT id, c / n AS pass_rate, CAST(n AS BIGINT) AS rollouts, place,
  format('pass rate {{:.3f}} of {{}} rollouts in {{}}', c / n, CAST(n AS BIGINT), place) AS why
FROM counted
"""
"""Columns id, pass_rate in [0, 1], rollouts (how many it is the share of), place (where they were), why (in words)."""


def measured(window: int) -> str:
    """The query for a window of so many versions."""
    return MEASURED.format(window=window)
