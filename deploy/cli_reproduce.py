"""The command `reproduce`: the paper's experiment from the first problem to the report."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from deploy import options as o
from schemas.load import BadSettings, load
from schemas.settings import Settings

NEEDS_POLICY = ("gpu", "lab")


def reproduces(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("reproduce")(reproduce)


def reproduce(
    scale: Annotated[str, typer.Option("--scale", help="smoke, laptop, gpu or lab (prints its plan only).")] = "laptop",
    out: Annotated[Path, typer.Option("--out", help="Where everything lies.")] = Path("data/reproduce"),
    seeds: Annotated[str, typer.Option("--seeds", help="0,1,2; default: the scale's.")] = "",
    arms: Annotated[str, typer.Option("--arms", help="Of base,direct,best_of_n,astro.")] = "",
    ablation: Annotated[
        list[str] | None,
        typer.Option("--ablation", help="k=0..4, no-phrases, merge=low_q, merge=random, no-votes (repeatable)."),
    ] = None,
    policy: o.Policy = None,
    set_: o.Set = None,
    dry_run: o.DryRun = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Write the report of what there is.")] = False,
) -> None:
    """Run the paper's experiment with its controls and write a report; stopped, the same command goes on."""
    from deploy.reproduce import plan as planning
    from deploy.reproduce import show

    if report_only:
        _report(out)
        return
    if scale in NEEDS_POLICY and policy is None:
        raise BadSettings(f"--scale {scale} needs a model: --policy DIR or a hub's name")
    wanted = [name.strip() for name in arms.split(",") if name.strip()] or list(planning.ARMS)
    made = planning.make(scale, _numbers(seeds), wanted, ablation or [], out, _resolver(policy, set_ or []))
    if dry_run or scale == "lab":
        show.print_plan(made, out)
        return
    _run(made, out)


def _run(made: Any, out: Path) -> None:  # noqa: ANN401 - a Plan; its module is imported late
    from deploy.reproduce import run as running

    try:
        running.run(made, out)
    except (running.Interrupted, KeyboardInterrupt) as error:
        sentence = str(error) or f"stopped: {running.GO_ON}"
        print(f"factory: {sentence}", file=sys.stderr)
        sys.exit(130)
    _report(out)


def _report(out: Path) -> None:
    if not (out / "plan.json").is_file():
        raise BadSettings(f"--out {out}: no experiment there (no plan.json)")
    from deploy.reproduce import report

    report.write(out)
    print(f"report: {out / 'report.html'}, report.md, report.json")


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdigit() for part in parts):
        raise BadSettings(f"--seeds {text}: write whole numbers with commas, for example 0,1,2")
    return [int(part) for part in parts]


def _resolver(policy: str | None, texts: list[str]) -> Any:  # noqa: ANN401 - deploy.reproduce.plan.Resolve
    from processors.places import refuse

    own = [*texts, *([f"policy.path={msgspec.json.encode(policy).decode()}"] if policy else [])]

    def resolve(values: Mapping[str, Any]) -> Settings:
        settings = load(None, os.environ, [*(f"{key}={_toml(value)}" for key, value in values.items()), *own])
        refuse(settings, "factory reproduce", "its arms share files by links, so leave factory.store out")
        return settings

    return resolve


def _toml(value: Any) -> str:  # noqa: ANN401 - what TOML can say
    """A value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return msgspec.json.encode(value).decode()
