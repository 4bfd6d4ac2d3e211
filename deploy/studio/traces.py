"""Chains of thought: each sentence with the node of the search that it speaks of; two of one problem side by side."""

from typing import Any

import markupsafe
import msgspec

from deploy.show_tree import walk_text
from deploy.studio import charts, find
from deploy.studio.site import Asked, Page, Site, pages, window
from processors.cloning import step
from schemas import messages as m

ARMS = ("search", "direct", "best_of_n")
ORDERS = {"newest": "_time DESC", "backtracks": "backtracks DESC, _time DESC", "longest": "len(text) DESC"}


class Side(msgspec.Struct, frozen=True):
    """A trace as one column."""

    trace: m.Trace
    walk: str
    pieces: list[dict[str, Any]]
    profile: markupsafe.Markup
    """The depth of each node of the walk, drawn: every fall of the line is a backtrack."""
    known: bool
    """Whether its tree is in the table."""
    example: dict[str, Any]
    """The verifier's verdict and checks, where it let the trace through."""


def listed(site: Site, asked: Asked) -> Page:
    """The traces that were asked for, a page of them."""
    where, params = find.conditions(asked, "t")
    if (arm := asked.get("arm")) in ARMS:
        where.append(f"t.arm = '{arm}'")
    if asked.get("backtracks"):
        where.append(f"t.backtracks >= {asked.number('backtracks')}")
    order = ORDERS.get(asked.get("order"), ORDERS["newest"])
    found = site.tables.rows(
        f"""SELECT id, arm, tree_id, problem.id AS problem_id, problem.question AS question, problem.source AS source,
          backtracks, wrong_answers, len(text) AS length, rewriter, rewrites, fallbacks, _time
        FROM traces t WHERE {" AND ".join(where)} ORDER BY {order} {window(asked)}""",  # noqa: S608 - our own names
        params,
    )
    kept = {
        row["id"]
        for row in site.tables.rows(
            "SELECT id FROM examples WHERE id IN (SELECT unnest($1))", [[row["id"] for row in found]]
        )
    }
    for row in found:
        row["example"] = row["id"] in kept
    facets = {"sources": find.sources(site, "traces"), "arms": ARMS, "orders": list(ORDERS)}
    return Page("traces.html", pages(asked, found) | facets)


def page(site: Site, asked: Asked) -> Page:
    """One trace, and beside it another of the same problem: `with`, or else the first of the other arm."""
    trace, _ = find.message(site, m.Trace, asked.names["id"])
    others = site.tables.rows(
        """SELECT id, arm, backtracks, len(text) AS length FROM traces WHERE problem.id = $1 AND id <> $2
        ORDER BY arm = $3, backtracks, id LIMIT 40""",
        [trace.problem.id, trace.id, trace.arm],
    )
    wanted = asked.get("with") or next((row["id"] for row in others if row["arm"] != trace.arm), "")
    shown = [trace]
    if wanted and wanted != "none":
        shown.append(find.message(site, m.Trace, wanted)[0])
    trees = {(one.tree_id, one.tree_sha) for one in shown}
    nodes = {tree: _nodes(site, *tree) for tree in trees}
    sides = [_side(site, one, nodes[one.tree_id, one.tree_sha]) for one in shown]
    values = {"trace": trace, "sides": sides, "others": others, "beside": sides[1].trace.id if len(sides) > 1 else ""}
    return Page("trace.html", values)


def _nodes(site: Site, tree: str, sha: str) -> dict[int, dict[str, Any]]:
    """The nodes of the very copy of a tree that a trace was made of."""
    rows = site.tables.rows(
        "SELECT id, depth, q, visits, terminal, verdict, text, _sha FROM nodes WHERE tree_id = $1", [tree]
    )
    return {row["id"]: row for row in rows if row["_sha"] == sha}


def _side(site: Site, trace: m.Trace, nodes: dict[int, dict[str, Any]]) -> Side:
    pieces = []
    for at, segment in enumerate(trace.segments):
        node = nodes.get(segment.node, {})
        rewritten = segment.kind == "step" and bool(node) and segment.text != step(str(node["text"]))
        pieces.append(
            {"at": at, "kind": segment.kind, "text": segment.text, "node": segment.node, "of": node}
            | {"rewritten": rewritten, "failed": node.get("terminal") and node.get("verdict") != "correct"}
        )
    example = site.tables.one("SELECT verdict, checks FROM examples WHERE id = $1", [trace.id])
    depths = [int(nodes[node]["depth"]) if node in nodes else 0 for node in trace.walk]
    return Side(trace, walk_text(trace.walk), pieces, charts.profile(depths), bool(nodes), example)
