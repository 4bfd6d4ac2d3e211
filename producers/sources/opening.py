"""The sources that the settings name, opened; without any, the two families that the tiny policy was taught."""

from pathlib import Path

from producers.sources.files import Files
from producers.sources.gym import Gym, Purpose
from producers.sources.hub import hub_source
from producers.sources.items import BadSource, Source
from producers.sources.mapping import fields
from schemas import settings as s
from schemas.tiny_problems import FAMILIES


def configured(settings: s.Settings) -> list[s.Source]:
    """settings.problems.sources, or what an empty list stands for."""
    return settings.problems.sources or [s.Source(name=name, params=dict(params)) for name, params in FAMILIES.items()]


def open_source(source: s.Source, settings: s.Settings, purpose: Purpose = "train") -> Gym | Files:
    """One source.

    Raises:
        BadSource: naming it and what to do.
    """
    if source.kind == "reasoning_gym":
        return Gym(source.name, source.params, settings.factory.seed, purpose)
    mapping = fields(source.params, source.name)
    if source.kind == "hub":
        return hub_source(source.name, mapping, settings.problems.max_bytes)
    return open_file(Path(source.name), settings, mapping.label, source)


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
