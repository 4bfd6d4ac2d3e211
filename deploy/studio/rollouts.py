"""Groups of rollouts: side by side with rewards, verdicts and token colours, and what the trainer did with each group.

The tables hold the log-probability of each token under the weights that sampled it, so that is what the colours show.
The ratio to the weights that were trained is not recorded for single tokens; a step's clip share is (page Training).
"""

from typing import Any

from deploy.studio import find, tokens
from deploy.studio.site import Asked, NotThere, Page, Site, pages, window
from schemas import messages as m

FATES = ("trained", "filtered", "waiting")
MIXES = {"mixed": "w.right > 0 AND w.right < w.all", "all correct": "w.right = w.all", "none correct": "w.right = 0"}
ORDERS = {"newest": "g._time DESC", "oldest": "g._time", "slowest": "g.seconds DESC"}
COLOURS = ("log-prob", "weights", "none")
UNGRADED: dict[str, Any] = {"reward": None, "rewards": None, "verdicts": None, "backtracks": None}
"""Of a group that waits for the verifier."""

_FATES = """
WITH trained AS (SELECT DISTINCT unnest(rows) AS id FROM training WHERE trainer = 'rl'),
  dropped AS (SELECT DISTINCT input_id AS id FROM filtered WHERE input_topic IN ('rewards', 'rollouts')),
  w AS (SELECT id, len(verdicts) AS all, len(list_filter(verdicts, lambda v: v = 'correct')) AS right FROM rewards)
"""
"""What a list can be narrowed by; DuckDB leaves out what a question does not name."""


def listed(site: Site, asked: Asked) -> Page:
    """The groups that were asked for, a page of them, with their fates."""
    where, params = find.conditions(asked, "g")
    if (fate := asked.get("fate")) in FATES:
        where.append(
            {"trained": "g.id IN (FROM trained)", "filtered": "g.id IN (FROM dropped)"}.get(
                fate, "NOT (g.id IN (FROM trained) OR g.id IN (FROM dropped))"
            )
        )
    joined = ""
    if (mix := asked.get("mix")) in MIXES:
        where.append(MIXES[mix])
        joined = "JOIN w ON g.id = w.id"
    order = ORDERS.get(asked.get("order"), ORDERS["newest"])
    found = site.tables.rows(
        f"""{_FATES} SELECT g.id, g.problem.id AS problem_id, g.problem.question AS question,
          g.problem.source AS source, g.round, g.seconds, g._time
        FROM rollouts g {joined} WHERE {" AND ".join(where)} ORDER BY {order} {window(asked)}""",  # noqa: S608
        params,
    )
    ids = [row["id"] for row in found]
    fates, graded = _fates(site, ids), rewards(site, ids)
    for row in found:
        row.update(graded.get(row["id"], UNGRADED), fate=fates.get(row["id"], []))
    facets = {"sources": find.sources(site, "rollouts"), "fates": FATES, "mixes": list(MIXES), "orders": list(ORDERS)}
    return Page("rollouts.html", pages(asked, found) | facets)


def rewards(site: Site, ids: list[str]) -> dict[str, dict[str, Any]]:
    """What the verifier found of some groups: `reward` (the mean), `rewards`, `verdicts`, `backtracks`."""
    rows = site.tables.rows(
        """SELECT id, list_avg(rewards) AS reward, rewards, verdicts, backtracks FROM rewards
        WHERE list_contains($1, id)""",
        [ids],
    )
    return {row["id"]: row for row in rows}


def _fates(site: Site, ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    """What became of each group: the steps that trained it, the reasons for which it (or a part) was left out."""
    rows = site.tables.rows(
        """WITH wanted AS (SELECT unnest($1) AS id)
        SELECT id, 'trained' AS what, run, step, version, NULL AS why, NULL AS rollouts
          FROM (SELECT unnest(rows) AS id, run, step, version FROM training WHERE trainer = 'rl')
          WHERE id IN (FROM wanted)
        UNION ALL SELECT input_id, 'filtered', NULL, NULL, NULL, why, rollouts
          FROM filtered WHERE input_id IN (FROM wanted)
        UNION ALL SELECT input_id, 'dead letter', NULL, NULL, NULL, error, NULL
          FROM dead_letters WHERE input_id IN (FROM wanted)""",
        [ids],
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["id"], []).append(row)
    return found


def page(site: Site, asked: Asked) -> Page:
    """One group, its rollouts in columns."""
    group = _group(site, asked.names["id"])
    graded = isinstance(group, m.RewardGroup)
    versions = sorted({span.version for rollout in group.rollouts for span in rollout.spans})
    tokenizer = tokens.tokenizer_of(site, versions[0]) if versions else None
    mean = sum(group.rewards) / len(group.rewards) if isinstance(group, m.RewardGroup) and group.rewards else 0.0
    columns = []
    for at, rollout in enumerate(group.rollouts):
        column: dict[str, Any] = {"at": at, "rollout": rollout, "pieces": None}
        if tokenizer is not None and tokens.fits(tokenizer, rollout):
            column["pieces"] = tokens.pieces(tokenizer, rollout)
        column["sure"] = sum(rollout.logprobs) / len(rollout.logprobs) if rollout.logprobs else 0.0
        column["versions"] = sorted({span.version for span in rollout.spans})
        if isinstance(group, m.RewardGroup):
            column |= {"reward": group.rewards[at], "advantage": group.rewards[at] - mean}
            column |= {"verdict": group.verdicts[at], "backtracks": group.backtracks[at]}
        columns.append(column)
    colour = asked.get("colour") if asked.get("colour") in COLOURS else COLOURS[0]
    values: dict[str, Any] = {
        "group": group,
        "graded": graded,
        "mean": mean,
        "columns": columns,
        "colour": colour,
        "colours": COLOURS,
    }
    fates = _fates(site, [group.id]).get(group.id, [])
    prompt = site.tables.one("SELECT why, pass_rate FROM prompts WHERE id = $1", [group.id])
    values |= {"fates": fates, "prompt": prompt, "versions": versions, "levels": tokens.LEVELS}
    known = [column["pieces"] is not None for column in columns]
    return Page("rollout.html", values | {"tokenized": all(known)})


def _group(site: Site, id_: str) -> m.RewardGroup | m.RolloutGroup:
    """The group with its rewards, or without while it waits for the verifier."""
    try:
        return find.message(site, m.RewardGroup, id_)[0]
    except NotThere:
        return find.message(site, m.RolloutGroup, id_)[0]
