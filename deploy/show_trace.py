"""A chain of thought as people read it, and beside every piece of it the node of the search that it speaks of.

The text is a model's: it is drawn as it is (no markup is read in it), without control characters.
"""

from collections import Counter

from rich.console import Group
from rich.table import Table
from rich.text import Text

from deploy.show_find import ShownTrace
from deploy.show_tree import judgement, numbers, walk_text
from deploy.tabular import visible
from processors.cloning import step
from schemas import messages as m

SEGMENTS = {"step": "", "reflection": "yellow", "verdict": "magenta", "jump": "bold cyan"}
SIDE = 34
"""Columns of the nodes' side."""


def render_trace(found: m.Trace) -> Group:
    """The chain of thought, its reflections, verdicts and jumps coloured, and each segment's node beside it."""
    nodes = {node.id: node for node in found.nodes} if isinstance(found, ShownTrace) else {}
    body = Table.grid(padding=(0, 2, 1, 0))
    body.add_column(ratio=1)
    body.add_column(width=SIDE)
    for segment in found.segments:
        said = Text(visible(segment.text, "\n"), style=SEGMENTS[segment.kind])
        body.add_row(said, _side(segment, nodes.get(segment.node)))
    missing = [] if nodes else [Text("its tree is not in the table (or another copy of it is)", style="dim")]
    return Group(_head(found), Text(""), body, *missing)


def _head(found: m.Trace) -> Text:
    head = Text(f"trace {found.id}  tree {found.tree_id}  problem {found.problem.id}\n", style="bold")
    head.append(visible(found.problem.question, "\n"), style="not bold")
    head.append(f"\nanswer {visible(found.problem.answer)}  ", style="not bold green")
    said = f"{found.arm}, {found.backtracks} backtracks, walk {walk_text(found.walk)}"
    if found.wrong_answers:
        said += f", wrong answers {', '.join(map(visible, found.wrong_answers))}"
    head.append(said, style="not bold dim")
    if found.rewriter != "template":
        why = ", ".join(f"{count} {reason}" for reason, count in Counter(found.fallback_reasons).most_common())
        kept = f"{found.fallbacks} kept their own words" + f" ({why})" * bool(why)
        head.append(f"\n{found.rewrites} steps for the {found.rewriter} to rewrite, {kept}", style="not bold dim")
    return head


def _side(segment: m.Segment, node: m.Node | None) -> Text:
    """What a segment is, where it is no step, and the node it speaks of; '✎' where the words are not the node's own."""
    mark = {"step": "", "jump": "↩ jump "}.get(segment.kind, f"{segment.kind} ")
    side = Text(mark, style=SEGMENTS[segment.kind]).append(f"#{segment.node}", style="dim")
    if node is None:
        return side
    side.append(f" depth {node.depth}" if node.parent >= 0 else " root", style="dim")
    side.append(f" {numbers(node)}", style="dim")
    side.append_text(judgement(node))
    if segment.kind == "step" and segment.text != step(node.text):
        side.append("  ✎ rewritten", style="cyan")
    return side
