"""`factory reproduce --dry-run`, and all that `--scale lab` does: the plan, phase after phase, as one would type it."""

from pathlib import Path
from typing import Any

import msgspec

from deploy.output import console
from deploy.reproduce.plan import Phase, Plan, told

HOW = """\
How to run this on a cluster: a data directory is a factory of its own, with its own Kafka (or with its topics deleted
before the next one begins: the tables are what is kept). On one machine of a phase:
    factory up --broker KAFKA:9092 --data DIR --settings PHASE.toml
and on others, for more hands: factory search | sample | evaluate --broker KAFKA:9092 --settings PHASE.toml.
A fork is a copy of the datasets/ folder of the directory that it names. End a phase when its goals are reached."""


def print_plan(plan: Plan, out: Path) -> None:
    """Each phase: its directory, stages, goals, and the settings that differ from the phase before it."""
    screen = console()
    screen.print(
        f"scale {plan.scale} · seeds {list(plan.seeds)} · arms {', '.join(plan.arms)} · {out}/", highlight=False
    )
    before: dict[str, Any] = {}
    for number, phase in enumerate(plan.phases, 1):
        values = told(phase, out)["settings"]
        screen.print(f"\n[{number}/{len(plan.phases)}] {phase.name}", style="bold", highlight=False, markup=False)
        _facts(screen, phase)
        for key, value in values.items():
            if before.get(key) != value and key not in {"factory.data", "factory.stages"}:
                screen.print(f"    {key} = {_text(value)}", highlight=False, markup=False, soft_wrap=True)
        gone = sorted(set(before) - set(values) - {"factory.data", "factory.stages"})
        for key in gone:
            screen.print(f"    {key}: the default again", highlight=False, markup=False)
        before = values
    if plan.scale == "lab":
        screen.print(f"\n{HOW}", highlight=False, markup=False, soft_wrap=True)


def _facts(screen: Any, phase: Phase) -> None:  # noqa: ANN401 - a rich Console
    stages = ", ".join(phase.settings.factory.stages)
    fork = f", a fork of {phase.fork}" if phase.fork else ""
    goals = "; ".join(_goal(goal) for goal in phase.goals)
    screen.print(f"  data {phase.dir}{fork}", highlight=False, markup=False)
    screen.print(f"  stages {stages}", highlight=False, markup=False)
    screen.print(f"  until {goals}", highlight=False, markup=False)


def _goal(goal: Any) -> str:  # noqa: ANN401 - a Goal
    if goal.of_sql:
        return f"{goal.what} as many as in {goal.of_dir}" if goal.of_dir != "." else f"all {goal.what}"
    return f"{goal.of:,} {goal.what}" if goal.of else f"the chosen {goal.what}"


def _text(value: Any) -> str:  # noqa: ANN401 - any setting
    return msgspec.json.encode(value).decode()
