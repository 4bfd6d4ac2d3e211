"""The house rules that a machine can check: import direction, file sizes, no pickle, no evaluation of text."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "schemas": {"schemas"},
    "processors": {"schemas", "processors"},
    "producers": {"schemas", "processors", "producers"},
    "trainers": {"schemas", "processors", "producers", "trainers"},
    "deploy": {"schemas", "processors", "producers", "trainers", "deploy"},
}
FILES = sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_keeps_the_house_rules(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    text = path.read_text("utf-8")
    names = imported(path)
    assert names & set(ALLOWED) <= ALLOWED[package], "an import against the direction of the parts"
    assert not names & {"pickle", "dill", "cloudpickle", "shelve"}
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), "a module opens with why it exists"
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"eval", "exec", "sympify", "parse_expr"}
    assert "trust_remote_code=True" not in text.replace(" ", "")
    assert not any(isinstance(node, ast.Global) for node in ast.walk(ast.parse(text)))
