"""Questions about the tables that the docs answer with SQL, each in one place, so that what is printed is tested.

Every one is a whole `factory sql` query over tables that grow while it is asked.
"""

EVALUATIONS = "select version, source, pass_at_1, tokens, backtracks from evaluations order by version, source"
ARMS = "select arm, count(*) as examples, avg(backtracks) as backtracks from examples group by arm"
LOW_Q = "select source, count(*) as steps from nodes where q < 0.2 and visits > 0 and path_correct group by source"

TRAINED = """\
select t.step, r.id as "group", n as rollout, r.rewards[n] as reward, s.version, s.sha, t.version - s.version as lag,
  s.stop - s.start as tokens
from training t, unnest(t.rows) g(id) join rewards r on r.id = g.id, range(1, len(r.rollouts) + 1) i(n),
  unnest(r.rollouts[n].spans) x(s)
where t.trainer = 'rl' order by t.step, r.id, n, s.start
"""
"""For every rollout that RL trained on: the step that used it, its reward, the weights it was sampled under, its lag.

A rollout has a row for each version that sampled a part of it; `tokens` are that part's. Lag = the trainer's version
minus the sampling version, in versions."""

LAGS = """\
select t.version - s.version as lag, sum(s.stop - s.start)::bigint as tokens
from training t, unnest(t.rows) g(id) join rewards r on r.id = g.id, unnest(r.rollouts) o(rollout),
  unnest(rollout.spans) x(s)
where t.trainer = 'rl' group by lag order by lag
"""
"""How many tokens RL trained on at which lag; none is above rl.max_lag."""

STALE = """\
select r.problem.source, r.problem.difficulty, sum(len(r.rollouts))::bigint as rollouts,
  sum(case when f.id is null then 0 else len(r.rollouts) end) / sum(len(r.rollouts)) as stale
from rewards r left join filtered f on f.input_id = r.id and f.stage = 'rl' and f.why = 'stale'
group by all order by all
"""
"""The share of the rollouts that came too late to be trained on, by source and difficulty."""
