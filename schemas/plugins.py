"""Parts of the factory that an installed package adds: found by name through entry points, imported when one is named.

A package lists them in its metadata (`[project.entry-points."astro_factory.graders"]`), so that nothing of it runs
before a setting, or a problem, asks for it by name. docs/extending.md has an example of each.
"""

import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec

from schemas.errors import Told


class Point(msgspec.Struct, frozen=True):
    """A place where a package may add parts."""

    group: str
    """Of the entry points."""
    what: str
    """What one of them is called."""
    built_in: tuple[str, ...]
    """The names that are ours."""


PROBLEM_SOURCES = Point("astro_factory.problem_sources", "problem source", ("reasoning_gym", "file", "hub"))
GRADERS = Point("astro_factory.graders", "grader", ("countdown", "numeric", "math", "text", "gym"))
STRATEGIES = Point("astro_factory.search_strategies", "search strategy", ("mcts", "best_of_n", "sample"))
REWRITERS = Point("astro_factory.rewriters", "rewriter", ("template", "model"))
OBJECTIVES = Point("astro_factory.objectives", "objective", ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "decoupled"))
POINTS = (PROBLEM_SOURCES, GRADERS, STRATEGIES, REWRITERS, OBJECTIVES)


class BadPlugin(Told, ValueError):
    """A part cannot be used; the text names it and says what to do."""


class Plugin(msgspec.Struct, frozen=True):
    """A part that an installed package offers."""

    point: str
    """The group of its entry point."""
    name: str
    object: str
    """Where it is: 'module:attribute'."""
    package: str
    """The package and its version."""
    problem: str = ""
    """Why it cannot be used; '' = nothing found against it (it is not imported here)."""


def check() -> None:
    """Refuse names that two parts have.

    Raises:
        BadPlugin: for the first such name.
    """
    for plugin in found():
        if plugin.problem:
            raise BadPlugin(plugin.problem)


def found() -> list[Plugin]:
    """Every part that installed packages offer, in the order of the points and names."""
    return [
        Plugin(point.group, entry.name, entry.value, _package(entry), _clash(point, entry))
        for point in POINTS
        for entry in _entries(point)
    ]


def names(point: Point) -> tuple[str, ...]:
    """What may be named at a point: ours first, then what is installed."""
    return (*point.built_in, *sorted({entry.name for entry in _entries(point)} - {*point.built_in}))


def unknown(point: Point, name: str) -> str:
    """Why there is no part of this name, with those that there are; '' where there is one."""
    if name in point.built_in or name in (every := names(point)):
        return ""
    added = ", ".join(every[len(point.built_in) :]) or f"none (a package adds them as entry points {point.group!r})"
    return f"there is no {point.what} {name[:60]!r}; built in: {', '.join(point.built_in)}; installed: {added}"


def load(point: Point, name: str) -> Any:  # noqa: ANN401 - each caller says what it takes
    """The object behind an installed part's name, imported now.

    Raises:
        BadPlugin: it is not installed, its name is taken, or it cannot be imported.
    """
    entry = next((one for one in _entries(point) if one.name == name), None)
    if entry is None or name in point.built_in:
        raise BadPlugin(unknown(point, name) or f"{name!r} is a {point.what} of the factory's own")
    if why := _clash(point, entry):
        raise BadPlugin(why)
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # a process edge: somebody else's package is imported here, and may exit
        why = f"{type(error).__name__}: {error}"
        raise BadPlugin(f"{_named(point, entry)} cannot be imported ({why}): repair or uninstall it") from error


def load_function(point: Point, name: str) -> Callable[..., Any]:
    """As `load`, of something that can be called.

    Raises:
        BadPlugin: also where it cannot.
    """
    part = load(point, name)
    if not callable(part):
        raise BadPlugin(f"the {point.what} {name!r} is no function or class but {type(part).__name__}")
    return part  # type: ignore[no-any-return] # callable


def _entries(point: Point) -> tuple[EntryPoint, ...]:
    return _entry_points(point.group, tuple(sys.path))


@lru_cache(maxsize=64)
def _entry_points(group: str, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of a group, by name; the metadata of every package on this path are read once."""
    return tuple(sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)))


def _clash(point: Point, entry: EntryPoint) -> str:
    """Why an entry's name cannot be used, '' where it can."""
    others = [one for one in _entries(point) if one.name == entry.name and one != entry]
    if entry.name in point.built_in:
        return f"{_named(point, entry)} has the name of one that is built in: rename it, or uninstall the package"
    if others:
        return f"{_named(point, entry)} and {_package(others[0])} offer the same name: uninstall one of them"
    return ""


def _named(point: Point, entry: EntryPoint) -> str:
    return f"the {point.what} {entry.name!r} of {_package(entry)}"


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "a package without metadata"
