"""The tables of a phase's data directory, asked one number at a time."""

from pathlib import Path
from typing import Any

from deploy.reproduce.goals import Goal
from processors.dataset import Datasets, NoDatasets


def rows(data: Path, sql: str) -> list[tuple[Any, ...]]:
    """The answer to our own SQL; nothing where there are no tables yet."""
    try:
        with Datasets(data / "datasets").connect() as connection:
            return connection.execute(sql).fetchall()
    except NoDatasets:
        return []


def number(data: Path, sql: str) -> int:
    """The one number that our own SQL asks for; 0 where there are no tables yet."""
    found = rows(data, sql)
    return int(found[0][0]) if found and found[0][0] is not None else 0


def reached(data: Path, goals: tuple[Goal, ...]) -> list[int]:
    """How far each goal is, all at one moment; 0 where there are no tables yet."""
    if not goals:
        return []
    found = rows(data, "SELECT " + ", ".join(f"({goal.sql.strip()})" for goal in goals))
    return [int(value or 0) for value in found[0]] if found else [0] * len(goals)
