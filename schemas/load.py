"""Settings come from factory.toml, then the environment (FACTORY_SEARCH_K=8), then flags (search.k=8); the last wins.

An unknown key is refused with the nearest right one; a value of the wrong type with what was expected.
"""

import difflib
import json
import os
import re
import tomllib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from schemas.access import SECRETS, is_place
from schemas.errors import Told
from schemas.settings import Settings

PREFIX = "FACTORY_"


class BadSettings(Told, ValueError):
    """A setting cannot be used; the text names it and says what to do."""


def load(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Iterable[str] = (),
) -> Settings:
    """The settings from all three places.

    Args:
        file: a TOML file (or .json, as `factory up` hands to its processes); None = ./factory.toml where it exists.
        environment: None = os.environ.
        flags: 'section.key=value' texts; a value is TOML, or else plain text.

    Raises:
        BadSettings: for an unreadable file, an unknown key or a value of the wrong type.
    """
    merged = _from_file(file)
    env = os.environ if environment is None else environment
    for name, value in env.items():
        if name.startswith(PREFIX):
            section, _, key = name.removeprefix(PREFIX).lower().partition("_")
            hidden = f"{section}.{key}" in SECRETS and not is_place(value)
            _set(merged, section, key, f"env:{name}" if hidden else value, origin=name)
    for flag in flags:
        path, equals, value = flag.partition("=")
        section, dot, key = path.strip().partition(".")
        if not (equals and dot):
            raise BadSettings(f"--set {path}: write it as section.key=value, for example search.k=8")
        _set(merged, section, key, value.strip(), origin=f"--set {path.strip()}")  # the value may be a secret
    return _convert(merged)


def _from_file(file: Path | None) -> dict[str, Any]:
    path = file or Path("factory.toml")
    if file is None and not path.exists():
        return {}
    try:
        text = path.read_text("utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise BadSettings(f"{path}: no such settings file") from None
    except (ValueError, OSError, RecursionError) as error:  # TOML, JSON and UTF-8 errors are ValueErrors
        raise BadSettings(f"{path}: not readable as settings: {error}") from error
    if not isinstance(content, dict):
        raise BadSettings(f"{path}: not readable as settings: it holds no [sections]")
    for section, keys in content.items():
        known(section, Settings.__struct_fields__, f"section [{section}] in {path}")
        if not isinstance(keys, dict):
            raise BadSettings(f"{path}: {section} must be a [section], not a value")
        fields = section_type(section).__struct_fields__
        for key in keys:
            known(key, fields, f"{section}.{key} in {path}", section)
    return dict(content)


def section_type(section: str) -> type[msgspec.Struct]:
    """The struct type of a section by its name."""
    kind = type(getattr(Settings(), section))
    assert issubclass(kind, msgspec.Struct)
    return kind


def known(name: str, names: Iterable[str], what: str, section: str = "") -> None:
    """Refuse a name that is not among `names` (of a section), naming the nearest one that is."""
    options = list(names)
    if name in options:
        return
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.4)
    nearest = (f"{section}.{near[0]}" if section else repr(near[0])) if near else ""
    hint = f"did you mean {nearest}?" if near else f"there are: {', '.join(options)}"
    raise BadSettings(f"unknown setting {what}: {hint}")


def _set(merged: dict[str, Any], section: str, key: str, text: str, origin: str) -> None:
    known(section, Settings.__struct_fields__, f"section {section!r} ({origin})")
    first, *rest = key.split(".")
    known(first, section_type(section).__struct_fields__, f"{section}.{first} ({origin})", section)
    place = merged.setdefault(section, {})
    for part in (first, *rest)[:-1]:
        place = place.setdefault(part, {})
    value = _value(text)
    wants_text = not rest and typing.get_type_hints(section_type(section))[first] is str
    place[(first, *rest)[-1]] = text if wants_text and not isinstance(value, str) else value


def _value(text: str) -> Any:  # noqa: ANN401 - whatever TOML says
    """`text` as a TOML value where it is one ('8', 'true', '[1]'; Python's True as well), else as it stands."""
    if text in {"True", "False"}:
        return text == "True"
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _numbers(content: Any, place: str = "") -> None:  # noqa: ANN401 - settings as plain values
    """Refuse numbers that no computation survives: NaN, infinity, and what has no 64 bits' room."""
    if isinstance(content, dict):
        for name, value in content.items():
            _numbers(value, f"{place}.{name}" if place else str(name))
    elif isinstance(content, list):
        for value in content:
            _numbers(value, place)
    elif isinstance(content, int | float) and not -(2**63) <= content < 2**63:
        raise BadSettings(f"bad setting: {place} = {content}: not a number that can be used")


def _convert(merged: dict[str, Any]) -> Settings:
    _numbers(merged)
    try:
        return msgspec.convert(merged, Settings, strict=True)
    except msgspec.ValidationError as error:
        where = str(error).replace("`$.", "`")
        raise BadSettings(f"bad setting: {where}{_choices(where)}") from error


def _choices(text: str) -> str:
    """What may stand in the place of a wrong choice; '' for any other error."""
    place = re.search(r"Invalid enum value .* at `(\w+)\.(\w+)`", text)
    if place is None:
        return ""
    options = typing.get_args(typing.get_type_hints(section_type(place[1])).get(place[2]))
    return f": write one of {', '.join(str(option) or 'nothing' for option in options)}" if options else ""
