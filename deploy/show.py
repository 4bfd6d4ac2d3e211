"""`factory show`: a tree, a chain of thought or a problem's way, readable.

Finding lies in show_find.py and show_follow.py, drawing in the others.
"""

from rich.console import Group
from rich.tree import Tree as Drawing

from deploy.show_find import NotFound, ShownTrace, ShownTree, find_problem, find_trace, find_tree
from deploy.show_follow import ShownProblem, follow
from deploy.show_problem import render_problem
from deploy.show_trace import render_trace
from deploy.show_tree import best_path, render_tree
from schemas.settings import Settings

__all__ = [
    "NotFound",
    "ShownProblem",
    "ShownTrace",
    "ShownTree",
    "best_path",
    "find_problem",
    "find_trace",
    "find_tree",
    "follow",
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
