"""docs/reference/settings.md: every setting with its kind, its default and what stands under it in the source."""

import types
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from deploy.reference.docstrings import about, code, fields, prose, table
from schemas import objective
from schemas.settings import Settings, Source
from schemas.training_settings import RlSection

HEAD = """# Settings

A setting is read from `factory.toml` (or `--settings FILE`), then from the environment, then from `--set`; the last one
wins. `[search] k = 8` in the file, `FACTORY_SEARCH_K=8` in the environment and `--set search.k=8` are the same setting.
An unknown name is refused with the nearest right one, a wrong value with what was expected.
`factory settings` prints those in force; `--dry-run` of a command names those that are not the defaults.
"""
PLAIN: Mapping[Any, str] = MappingProxyType(
    {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        dict: "table",
        Source: "[sources](#problemssources)",
    }
)


def page() -> list[str]:
    """The lines of the page."""
    lines = [*HEAD.splitlines(), ""]
    for section, kind in typing.get_type_hints(Settings).items():
        lines += [f"## {section}", "", about(kind), "", *_settings(kind)]
        if section == "problems":
            lines += ["### problems.sources", "", about(Source), "", *_settings(Source)]
        if section == "rl":
            lines += ["### rl.objective", "", *_presets()]
    return lines


def _settings(kind: type[msgspec.Struct]) -> list[str]:
    hints = typing.get_type_hints(kind, include_extras=True)
    said = {name: text for name, text in fields(kind).items() if text}
    if kind is RlSection:
        said = fields(objective.Objective) | said
    rows = [
        [code(field.name), kind_of(hints[field.name]), default(field), prose(said.get(field.name, ""))]
        for field in msgspec.structs.fields(kind)
    ]
    return table(["setting", "kind", "default", "meaning"], rows)


def _presets() -> list[str]:
    """The parts of each objective that `grpo` has otherwise."""
    house = objective.PRESETS["grpo"]
    rows = []
    for name, parts in objective.PRESETS.items():
        other = {
            part: getattr(parts, part)
            for part in parts.__struct_fields__
            if name == "grpo" or getattr(parts, part) != getattr(house, part)
        }
        other.pop("loss", None)
        rows.append([code(name), ", ".join(code(f"{part} = {_value(value)}") for part, value in other.items())])
    return [
        "What each objective is made of; of the others, what differs from `grpo`.",
        "",
        *table(["objective", "parts"], rows),
    ]


def kind_of(annotation: Any) -> str:  # noqa: ANN401 - annotations are arbitrary objects
    """An annotation in words.

    Raises:
        KeyError: for one that has no words yet.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _bounded(kind_of(arguments[0]), arguments[1])
    if origin is typing.Literal:
        return " or ".join(code(_value(one)) for one in arguments)
    if origin in {types.UnionType, typing.Union}:
        return f"{kind_of(arguments[0])}, or unset"
    return f"list of: {kind_of(arguments[0])}" if origin is list else PLAIN[origin or annotation]


def _bounded(kind: str, meta: msgspec.Meta) -> str:
    limits = {
        "at least": meta.ge,
        "above": meta.gt,
        "at most": meta.le,
    }
    said = [f"{words} {limit}" for words, limit in limits.items() if limit is not None]
    return ", ".join([kind, *said, *(["not empty"] if meta.min_length else [])])


def default(field: msgspec.structs.FieldInfo) -> str:
    """A field's default as it is written in TOML."""
    if field.default_factory is not msgspec.NODEFAULT:
        return code(_value(typing.cast("Any", field.default_factory)()))
    if field.default is msgspec.NODEFAULT:
        return "must be given"
    return "unset" if field.default is None else code(_value(field.default))


def _value(value: Any) -> str:  # noqa: ANN401 - a setting's value
    return msgspec.json.encode(value).decode()
