"""One tree or one chain of thought, readable: what was searched, what was found, where the text turns back.

The text is a model's: it is drawn as it is (no markup is read in it), without control characters.
"""

from pathlib import Path
from typing import TypeVar

from rich.console import Group
from rich.text import Text
from rich.tree import Tree as Drawing

from deploy.tabular import visible
from processors.dataset import Datasets, quoted
from schemas import messages as m
from schemas.errors import Told
from schemas.settings import Settings
from schemas.topics import BY_MESSAGE

M = TypeVar("M", bound=m.Message)

STYLES = {"correct": "green", "wrong": "red"}
SEGMENTS = {"step": "", "reflection": "yellow", "verdict": "magenta", "jump": "bold cyan"}
LINE = 100
"""Characters of a step that are shown."""


class NotFound(Told, LookupError):
    """No such row, or several; the text says how to find one."""


def find_tree(settings: Settings, id_: str) -> m.Tree:
    """The tree with that id or of that problem, or whose id begins so.

    Raises:
        NotFound: when there is none, or more than one.
    """
    return _find(settings, m.Tree, id_, also="problem.id")


def find_trace(settings: Settings, id_: str) -> m.Trace:
    """The trace whose id is or begins so.

    Raises:
        NotFound: when there is none, or more than one.
    """
    return _find(settings, m.Trace, id_)


def find_problem(settings: Settings, id_: str) -> m.Problem:
    """The problem whose id is or begins so.

    Raises:
        NotFound: when there is none, or more than one.
    """
    return _find(settings, m.Problem, id_)


def _find(settings: Settings, kind: type[M], id_: str, also: str = "id") -> M:
    table = BY_MESSAGE[kind].table
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    word = table.removesuffix("s")
    hint = f'see: factory sql "select id from {table} limit 10"'  # noqa: S608 - a text for people
    if not id_:
        raise NotFound(f"which {word}? {hint}")
    pin = datasets.versions()
    query = f"""SELECT id FROM {table} WHERE starts_with(id, $1) OR starts_with({also}, $1)
        ORDER BY $1 IN (id, {also}) DESC, id LIMIT 6"""  # noqa: S608 - our own names
    with datasets.connect(pin) as connection:
        found = [str(row[0]) for row in connection.execute(query, [id_]).fetchall()]
    if not found:
        raise NotFound(f"no {word} whose id begins with {id_!r} is in the table yet; {hint}")
    if len(found) > 1 and found[0] != id_:
        raise NotFound(f"{id_!r} begins the ids of several {table}: {', '.join(found[:5])}; give more of it")
    return next(datasets.messages(kind, f"id = {quoted(found[0])}", pin))


def tree(settings: Settings, id_: str) -> Drawing:
    """The drawing of a tree (see find_tree)."""
    return render_tree(find_tree(settings, id_))


def trace(settings: Settings, id_: str) -> Group:
    """The drawing of a chain of thought (see find_trace)."""
    return render_trace(find_trace(settings, id_))


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
    """The tree: one line a node with its step, Q, N, prior and verdict; the best path is marked with a star."""
    head = Text(f"tree {found.id}  problem {found.problem.id} ({found.problem.source})\n", style="bold")
    head.append(visible(found.problem.question, "\n"), style="not bold")
    head.append(f"\nanswer {visible(found.problem.answer)}  ", style="not bold green")
    cost = f"{found.iterations} iterations, {found.generated_tokens:,} tokens, {found.seconds:.1f} s"
    head.append(
        f"{'solved' if found.solved else 'not solved'}  {found.strategy} v{found.policy_version}, {cost}",
        style="not bold dim",
    )
    drawing = Drawing(head, guide_style="dim")
    best = set(best_path(found.nodes))
    places: dict[int, Drawing] = {}
    for node in found.nodes:
        place = places.get(node.parent, drawing)
        places[node.id] = drawing if node.parent < 0 else place.add(_node(node, best=node.id in best))
    return drawing


def _node(node: m.Node, *, best: bool) -> Text:
    text = Text("★ " if best else "", style="bold yellow")
    step = visible(node.text.strip())
    text.append(step if len(step) <= LINE else f"{step[:LINE]}…", style="bold default" if best else "default")
    text.append(f"  #{node.id} Q={node.q:.2f} N={node.visits} p={node.prior:.2f}", style="not bold dim")
    if node.terminal:
        style = STYLES.get(node.verdict, "yellow")
        text.append(f"  {node.verdict or 'terminal'}", style=f"bold {style}")
        text.append(f" {visible(node.answer)}", style=f"not bold {style}")
    if node.cut:
        text.append("  cut", style="not bold magenta")
    return text


def render_trace(found: m.Trace) -> Group:
    """The chain of thought, its reflections, verdicts and jumps coloured."""
    head = Text(f"trace {found.id}  tree {found.tree_id}  problem {found.problem.id}\n", style="bold")
    head.append(visible(found.problem.question, "\n"), style="not bold")
    head.append(f"\nanswer {visible(found.problem.answer)}  ", style="not bold green")
    walk = " → ".join(str(node) for node in found.walk)
    head.append(f"{found.arm}, {found.backtracks} backtracks, walk {walk}", style="not bold dim")
    parts = [Text(visible(segment.text, "\n") + "\n", style=SEGMENTS[segment.kind]) for segment in found.segments]
    legend = Text("  ").join(Text(kind, style=style or "default") for kind, style in SEGMENTS.items())
    return Group(head, Text(""), *parts, legend)


def render_problem(found: m.Problem) -> Group:
    """A problem's question, answer and origin."""
    head = Text(f"problem {found.id}  {found.source} #{found.index}, grader {found.grader}", style="bold")
    body = Text(visible(found.question, "\n"))
    return Group(head, body, Text(f"answer {visible(found.answer)}", style="green"))
