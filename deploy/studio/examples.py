"""Questions to begin with, on the Ask page: what people who know these tables ask of them. All are run by the tests."""

import msgspec


class Example(msgspec.Struct, frozen=True):
    """A question in words and in SQL, and how its answer is best plotted."""

    title: str
    sql: str
    plot: str = ""
    x: str = ""


EXAMPLES = (
    Example(
        "Which steps had Q under 0.2 and still led to the answer?",
        """SELECT source, text, q, visits, prior, tree_id
FROM nodes
WHERE q < 0.2 AND visits > 0 AND parent >= 0 AND path_correct
ORDER BY q LIMIT 100""",
    ),
    Example(
        "How often is a problem solved, by source and why the search ended?",
        """SELECT problem.source AS source, stopped, count(*) AS trees, avg(solved::INT) AS solved,
  avg(generated_tokens) AS tokens
FROM trees GROUP BY ALL ORDER BY trees DESC""",
        plot="bar",
        x="stopped",
    ),
    Example(
        "How many backtracks do the chains of thought have?",
        """SELECT backtracks, count(*) AS traces FROM traces GROUP BY backtracks ORDER BY backtracks""",
        plot="bar",
        x="backtracks",
    ),
    Example(
        "Does Q tell which steps lead to a correct answer?",
        """SELECT round(q, 1) AS q, avg(path_correct::INT) AS leads_to_correct, count(*) AS nodes
FROM nodes WHERE visits > 0 GROUP BY 1 ORDER BY 1""",
        plot="line",
        x="q",
    ),
    Example(
        "The share of correct rollouts by round",
        """SELECT round, avg(len(list_filter(verdicts, lambda v: v = 'correct')) / len(verdicts)) AS correct,
  count(*) AS groups
FROM rewards GROUP BY round ORDER BY round""",
        plot="line",
        x="round",
    ),
    Example(
        "Evaluations by version",
        """SELECT version, source, pass_at_1, low, high, tokens, backtracks FROM evaluations ORDER BY version""",
        plot="line",
        x="version",
    ),
    Example(
        "Why was something left out?",
        """SELECT stage, input_topic, why, count(*) AS ids, sum(rollouts) AS rollouts FROM filtered GROUP BY ALL
ORDER BY ids DESC""",
    ),
    Example(
        "Problems that RL samples often and never solves",
        """SELECT problem.id AS problem, any_value(problem.source) AS source, count(*) AS groups,
  sum(len(list_filter(verdicts, lambda v: v = 'correct'))) AS correct
FROM rewards GROUP BY 1 HAVING correct = 0 ORDER BY groups DESC LIMIT 50""",
    ),
    Example(
        "Rollouts whose least likely token was very unlikely",
        """SELECT id, len(r.token_ids) AS tokens, exp(list_min(r.logprobs)) AS least, r.text
FROM (SELECT id, unnest(rollouts) AS r FROM rollouts LIMIT 2000) ORDER BY least LIMIT 50""",
    ),
)
