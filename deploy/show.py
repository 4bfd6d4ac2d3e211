"""`factory show`: one tree or one chain of thought, readable. Finding lies in show_find.py, drawing in the others."""

from rich.console import Group
from rich.text import Text
from rich.tree import Tree as Drawing

from deploy.show_find import NotFound, ShownTrace, ShownTree, find_problem, find_trace, find_tree
from deploy.show_trace import render_trace
from deploy.show_tree import best_path, render_tree
from deploy.tabular import visible
from schemas import messages as m
from schemas.settings import Settings

__all__ = [
    "NotFound",
    "ShownTrace",
    "ShownTree",
    "best_path",
    "find_problem",
    "find_trace",
    "find_tree",
    "render_problem",
    "render_trace",
    "render_tree",
    "trace",
    "tree",
]


def tree(settings: Settings, id_: str) -> Drawing:
    """The drawing of a tree (see find_tree)."""
    return render_tree(find_tree(settings, id_))


def trace(settings: Settings, id_: str) -> Group:
    """The drawing of a chain of thought (see find_trace)."""
    return render_trace(find_trace(settings, id_))


def render_problem(found: m.Problem) -> Group:
    """A problem's question, answer and origin."""
    head = Text(f"problem {found.id}  {found.source} #{found.index}, grader {found.grader}", style="bold")
    body = Text(visible(found.question, "\n"))
    return Group(head, body, Text(f"answer {visible(found.answer)}", style="green"))
