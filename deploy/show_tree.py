"""A search tree as a drawing: a line a node with what the search knew of it, and which traces pass it.

The text is a model's: it is drawn as it is (no markup is read in it), without control characters.
"""

from collections.abc import Sequence

from rich.text import Text
from rich.tree import Tree as Drawing

from deploy.show_find import Drawn, ShownTree
from deploy.tabular import visible
from schemas import messages as m

STYLES = {"correct": "green", "wrong": "red"}
MARK = "bold cyan"
LINE = 100
"""Characters of a step that are shown."""


def best_path(nodes: list[m.Node]) -> list[int]:
    """Node ids from the root to a correct terminal of the highest Q; without one, along the most visited children."""
    by_id = {node.id: node for node in nodes}
    correct = [node for node in nodes if node.terminal and node.verdict == "correct"]
    if correct:
        path = [max(correct, key=lambda node: (node.q, node.visits, -node.id)).id]
        while by_id[path[-1]].parent in by_id and by_id[path[-1]].parent not in path:
            path.append(by_id[path[-1]].parent)
        return path[::-1]
    path = [nodes[0].id] if nodes else []
    while path and (below := [node for node in nodes if node.parent == path[-1] and node.id not in path]):
        path.append(max(below, key=lambda node: (node.visits, node.q, -node.id)).id)
    return path


def render_tree(found: m.Tree) -> Drawing:
    """The tree: its traces, then a line a node: step, Q, N, prior, rollouts, verdict, votes, the traces that pass it.

    The best path has stars; a trace's letter stands in braces at each of its nodes.
    """
    traces = found.traces if isinstance(found, ShownTree) else []
    drawing = Drawing(_head(found, traces), guide_style="dim")
    best = set(best_path(found.nodes))
    places: dict[int, Drawing] = {}
    for node in found.nodes:
        place = places.get(node.parent, drawing)
        marks = [trace.mark for trace in traces if node.id in trace.walk]
        places[node.id] = drawing if node.parent < 0 else place.add(_line(node, marks, best=node.id in best))
    return drawing


def walk_text(walk: Sequence[int]) -> str:
    """Node ids in order: an arrow to a child, a hook back to an ancestor."""
    seen: set[int] = set()
    parts = []
    for node in walk:
        parts.append(f"{'↩' if node in seen else '→'} {node}")
        seen.add(node)
    return " ".join(parts).removeprefix("→ ")


def numbers(node: m.Node) -> str:
    """What the search knew of a node: Q, N, prior, the rollouts of its own, how often it was sampled."""
    parts = [f"Q={node.q:.2f} N={node.visits} p={node.prior:.2f}"]
    parts += [f"R={node.rollouts_correct}/{node.rollouts}"] if node.rollouts else []
    parts += [f"merged={node.merged}"] if node.merged > 1 else []
    return " ".join(parts)


def judgement(node: m.Node) -> Text:
    """Verdict, answer and votes of a terminal; whether a step was cut or adopted."""
    text = Text()
    if node.terminal:
        style = STYLES.get(node.verdict, "yellow")
        text.append(f"  {node.verdict or 'terminal'}", style=f"bold {style}")
        text.append(f" {visible(node.answer)}", style=f"not bold {style}")
    if node.votes:
        text.append(f"  votes {node.votes_yes}/{node.votes}", style="not bold blue")
    if node.cut:
        text.append("  cut", style="not bold magenta")
    if node.adopted:
        text.append("  adopted", style="not bold magenta")
    return text


def _head(found: m.Tree, traces: Sequence[Drawn]) -> Text:
    head = Text(f"tree {found.id}  problem {found.problem.id} ({found.problem.source})\n", style="bold")
    head.append(visible(found.problem.question, "\n"), style="not bold")
    head.append(f"\nanswer {visible(found.problem.answer)}  ", style="not bold green")
    cost = f"{found.iterations} iterations, {found.generated_tokens:,} tokens, {found.seconds:.1f} s"
    ended = f", ended: {found.stopped}" if found.stopped else ""
    solved = "solved" if found.solved else "not solved"
    head.append(f"{solved}  {found.strategy} v{found.policy_version}, {cost}{ended}", style="not bold dim")
    if found.nodes:
        head.append(f"\nroot  {numbers(found.nodes[0])}", style="not bold dim")
    for trace in traces:
        head.append(f"\n{{{trace.mark}}} ", style=MARK)
        head.append(f"trace {trace.id} {trace.arm}: {walk_text(trace.walk)}", style="not bold default")
    return head


def _line(node: m.Node, marks: list[str], *, best: bool) -> Text:
    text = Text("★ " if best else "", style="bold yellow")
    step = visible(node.text.strip())
    text.append(step if len(step) <= LINE else f"{step[:LINE]}…", style="bold default" if best else "default")
    text.append(f"  #{node.id} {numbers(node)}", style="not bold dim")
    text.append_text(judgement(node))
    if marks:
        text.append(f"  {{{' '.join(marks)}}}", style=MARK)
    return text
