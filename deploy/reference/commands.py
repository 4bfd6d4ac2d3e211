"""docs/reference/commands.md: every command with its arguments and options, as the command line itself has them."""

import typing
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer

from deploy.cli import app
from deploy.reference.docstrings import code, prose, table

HEAD = """# Commands

`factory COMMAND --help` says the same in the terminal. Exit codes: 0 done; 1 the answer is no (the ledger does not
close, a check failed); 2 something to put right, told in one sentence.
"""
VALUES: Mapping[type, str] = MappingProxyType({str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "PATH"})
SHARED = 4
"""An option of this many commands is described once."""


def page() -> list[str]:
    """The lines of the page."""
    found = commands()
    shared = _shared(list(found.values()))
    lines = [*HEAD.splitlines(), "", "## Options that many commands have", ""]
    lines += table(["option", "meaning"], [[_option(one), prose(one.help or "")] for one in shared.values()])
    for name, command in found.items():
        own = [one for one in _options(command) if _key(one) not in shared]
        also = [code(one.opts[0]) for one in _options(command) if _key(one) in shared]
        rows = [[_option(one), prose(one.help or "")] for one in [*_arguments(command), *own]]
        lines += [f"## factory {name}", "", code(" ".join(["factory", name, *_places(command)])), ""]
        lines += [prose(command.help or ""), "", *table(["option", "meaning"], rows)]
        lines += [f"Also {', '.join(also)}.", ""] if also else []
    return lines


def commands() -> dict[str, Any]:
    """Every command that is not hidden, by its words after `factory`."""
    return _below(typer.main.get_command(app), "")


def _below(group: Any, before: str) -> dict[str, Any]:  # noqa: ANN401 - click's types are typer's own business
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        if not command.hidden:
            found |= _below(command, f"{before}{name} ") if hasattr(command, "commands") else {before + name: command}
    return found


def _options(command: Any) -> list[Any]:  # noqa: ANN401
    return [one for one in command.params if one.param_type_name == "option" and not one.hidden]


def _arguments(command: Any) -> list[Any]:  # noqa: ANN401
    return [one for one in command.params if one.param_type_name == "argument"]


def _places(command: Any) -> list[str]:  # noqa: ANN401
    return [_name(one) for one in _arguments(command)]


def _name(argument: Any) -> str:  # noqa: ANN401
    name = str(argument.metavar or argument.name.rstrip("_").upper())
    if not argument.required and not name.startswith("["):
        name = f"[{name}]"
    return name


def _key(option: Any) -> tuple[str, str]:  # noqa: ANN401
    return option.opts[0], option.help or ""


def _shared(every: list[Any]) -> dict[tuple[str, str], Any]:
    """The options that many commands have with the same words."""
    counts = Counter(_key(one) for command in every for one in _options(command))
    first = {_key(one): one for command in every for one in _options(command)}
    return {key: first[key] for key, count in counts.most_common() if count >= SHARED}


def _option(parameter: Any) -> str:  # noqa: ANN401
    if parameter.param_type_name == "argument":
        return code(_name(parameter))
    names = "/".join([*parameter.opts, *parameter.secondary_opts])
    if getattr(parameter, "is_flag", False):
        return code(names)
    annotation = parameter.type_descriptor.annotation
    (value,) = typing.get_args(annotation) or (annotation,)
    return code(f"{names} {VALUES[value]}") + _default(parameter)


def _default(option: Any) -> str:  # noqa: ANN401
    value = option.default
    return "" if value is None or value == "" or callable(value) else f" (default {code(str(value))})"
