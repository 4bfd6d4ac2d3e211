"""The docstrings that stand under fields and constants: Python forgets them, so they are read from the source."""

import ast
import inspect
import re
from functools import lru_cache
from pathlib import Path
from types import ModuleType

CODE = re.compile(r"(`[^`]+`)")


def fields(kind: type) -> dict[str, str]:
    """By field, what its class or a base of it says under it; '' where nothing stands there."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.split(".")[0] == kind.__module__.split(".")[0]:
            found |= _under(Path(inspect.getfile(base)), base.__name__)
    return found


def constants(module: ModuleType) -> dict[str, str]:
    """The same of a module's constants."""
    return _under(Path(inspect.getfile(module)), "")


def about(kind: type) -> str:
    """A class's own docstring in one line, ready for Markdown."""
    return prose(inspect.getdoc(kind) or "")


@lru_cache(maxsize=64)
def _under(path: Path, name: str) -> dict[str, str]:
    """The texts under the assignments of a class, or of the module where the name is ''."""
    module = ast.parse(path.read_text("utf-8"))
    body = module.body
    if name:
        body = next(one.body for one in module.body if isinstance(one, ast.ClassDef) and one.name == name)
    found = {}
    for at, one in enumerate(body):
        if isinstance(one, ast.AnnAssign):
            target: ast.expr = one.target
        elif isinstance(one, ast.Assign):
            target = one.targets[0]
        else:
            continue
        if isinstance(target, ast.Name):
            found[target.id] = _text(body[at + 1]) if at + 1 < len(body) else ""
    return found


def _text(statement: ast.stmt) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        value = statement.value.value
        return value if isinstance(value, str) else ""
    return ""


def prose(text: str) -> str:
    """Text of the source in one line of Markdown, so that nothing in it is taken for markup or a table's border."""
    parts = CODE.split(" ".join(text.split()))
    for at, part in enumerate(parts):
        if at % 2 == 0:  # what stands between two pieces of code
            escaped = re.sub(r"([*<\[\]])", r"\\\1", part)
            parts[at] = re.sub(r"(?<![A-Za-z0-9])_", r"\\_", escaped)
    return "".join(parts).replace("|", "\\|")


def code(text: str) -> str:
    """Text as code in a table."""
    return f"`{text}`".replace("|", "\\|")


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table and an empty one; none for no rows."""
    if not rows:
        return []
    return [_row(head), "|" + "---|" * len(head), *map(_row, rows), ""]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
