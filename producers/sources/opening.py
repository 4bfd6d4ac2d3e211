"""The sources that the settings name, opened; without any, the two families that the tiny policy was taught."""

from pathlib import Path

from producers.sources.files import Files
from producers.sources.gym import Gym, Purpose
from producers.sources.hub import hub_source
from producers.sources.items import BadSource, Source
from producers.sources.mapping import fields
from schemas import plugins
from schemas import settings as s
from schemas.tiny_problems import FAMILIES


def configured(settings: s.Settings) -> list[s.Source]:
    """settings.problems.sources, or what an empty list stands for."""
    return settings.problems.sources or [s.Source(name=name, params=dict(params)) for name, params in FAMILIES.items()]


def open_source(source: s.Source, settings: s.Settings, purpose: Purpose = "train") -> Source:
    """One source.

    Raises:
        BadSource: naming it and what to do.
    """
    if source.kind == "reasoning_gym":
        return Gym(source.name, source.params, settings.factory.seed, purpose)
    if source.kind not in plugins.PROBLEM_SOURCES.built_in:
        return _installed(source, settings, purpose)
    mapping = fields(source.params, source.name)
    if source.kind == "hub":
        return hub_source(source.name, mapping, settings.problems.max_bytes)
    return open_file(Path(source.name), settings, mapping.label, source)


def _installed(source: s.Source, settings: s.Settings, purpose: Purpose) -> Source:
    """A source that a package adds (docs/extending.md)."""
    make = plugins.load_function(plugins.PROBLEM_SOURCES, source.kind)
    try:
        made = make(source.name, source.params, settings.factory.seed, purpose)
    except (TypeError, ValueError, LookupError, OSError) as error:
        raise BadSource(f"problems.sources: {source.kind} {source.name!r} cannot be opened: {error}") from error
    if not isinstance(made, Source):
        raise BadSource(f"problems.sources: {source.kind} gives no source: it needs `name` and a method `items(start)`")
    return made


def open_file(path: Path, settings: s.Settings, label: str = "", source: s.Source | None = None) -> Files:
    """A file by its path, with the mapping of `source` or one found by itself."""
    mapping = fields(source.params if source else {}, str(path))
    return Files(label or path.stem, [path.expanduser()], mapping, settings.problems.max_bytes)


def open_all(settings: s.Settings) -> list[tuple[Source, float]]:
    """The training sources with their weights, in the order of the settings.

    Raises:
        BadSource: also for two sources of one name (their positions could not be told apart) or a weight not above 0.
    """
    opened: list[tuple[Source, float]] = []
    names: set[str] = set()
    for wanted in configured(settings):
        source = open_source(wanted, settings)
        if source.name in names:
            raise BadSource(f"problems.sources: two are called {source.name!r}; give one of them params.label")
        if wanted.weight <= 0:
            raise BadSource(f"problems.sources: {source.name}: weight must be above 0")
        names.add(source.name)
        opened.append((source, wanted.weight))
    return opened
