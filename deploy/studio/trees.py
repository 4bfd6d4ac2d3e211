"""Search trees: a list to find one by problem, source and outcome, and a page that draws one with its traces.

The drawing itself (pan, zoom, fold, colours) is static/tree.js; this module gives it the nodes and the walks.
"""

from typing import Any

from deploy.show_tree import best_path, walk_text
from deploy.studio import find
from deploy.studio.site import Asked, NotThere, Page, Site, pages, window
from schemas import messages as m

OUTCOMES = ("solved", "unsolved", "complete", "too easy", "out of reach", "tokens", "budget", "exhausted", "timeout")
ORDERS = {
    "newest": "_time DESC",
    "dearest": "generated_tokens DESC",
    "hardest": "problem.difficulty DESC",
    "longest": "seconds DESC",
}


def listed(site: Site, asked: Asked) -> Page:
    """The trees that were asked for, a page of them."""
    where, params = find.conditions(asked, "t")
    outcome = asked.get("outcome")
    if outcome in {"solved", "unsolved"}:
        where.append("t.solved" if outcome == "solved" else "NOT t.solved")
    elif outcome in OUTCOMES:
        where.append(f"t.stopped = '{outcome}'")
    order = ORDERS.get(asked.get("order"), ORDERS["newest"])
    found = site.tables.rows(
        f"""SELECT id, problem.id AS problem_id, problem.question AS question, problem.source AS source,
          problem.difficulty AS difficulty, solved, stopped, strategy, policy_version, iterations, generated_tokens,
          seconds, _time FROM trees t WHERE {" AND ".join(where)} ORDER BY {order} {window(asked)}""",  # noqa: S608
        params,
    )
    counts = _counts(site, [row["id"] for row in found])
    for row in found:
        row.update(counts.get(row["id"], {"nodes": 0, "correct": 0, "wrong": 0, "depth": 0}))
    facets = {"sources": find.sources(site, "trees"), "outcomes": OUTCOMES, "orders": list(ORDERS)}
    return Page("trees.html", pages(asked, found) | facets)


def _counts(site: Site, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Nodes, terminals and depth of some trees; from `nodes`, for the lists inside `trees` are dear to read."""
    rows = site.tables.rows(
        """SELECT tree_id, count(*) AS nodes, count(*) FILTER (verdict = 'correct') AS correct,
          count(*) FILTER (terminal AND verdict <> 'correct') AS wrong, max(depth) AS depth
        FROM nodes WHERE tree_id IN (SELECT unnest($1)) GROUP BY tree_id""",
        [ids],
    )
    return {row["tree_id"]: row for row in rows}


def page(site: Site, asked: Asked) -> Page:
    """One tree by its id (or its beginning, or its problem's)."""
    tree, sha = find.message(site, m.Tree, asked.names["id"])
    traces = site.tables.rows(
        """SELECT id, arm, walk, backtracks, wrong_answers FROM traces WHERE tree_id = $1 AND tree_sha = $2
        ORDER BY arm, backtracks, id""",
        [tree.id, sha],
    )
    chosen = asked.get("trace")
    if chosen and chosen not in {trace["id"] for trace in traces}:
        raise NotThere(f"no trace {chosen!r} was made of tree {tree.id}: open it without &trace=")
    for trace in traces:
        trace["said"] = walk_text(trace["walk"])
    data = {
        "nodes": [_node(node) for node in tree.nodes],
        "best": best_path(tree.nodes),
        "traces": [{key: trace[key] for key in ("id", "arm", "walk")} for trace in traces],
    }
    return Page("tree.html", {"tree": tree, "traces": traces, "data": data, "chosen": chosen})


def _node(node: m.Node) -> dict[str, Any]:
    """What the drawing and the side panel show of a node; not its token ids."""
    names = (
        "id", "parent", "depth", "text", "logprob", "prior", "visits", "q", "value", "rollouts", "rollouts_correct",
        "terminal", "answer", "verdict", "votes", "votes_yes", "merged", "cut", "adopted",
    )  # fmt: skip
    return {name: getattr(node, name) for name in names} | {"tokens": len(node.token_ids)}
