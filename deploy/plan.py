"""What a command would do: checks before the start, `--dry-run`, and the settings in force."""

from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from deploy.output import console
from deploy.placement import is_shared, plan
from deploy.stages import STAGES
from processors import access, chat
from schemas import plugins
from schemas.access import shown
from schemas.load import BadSettings, known
from schemas.settings import Settings
from schemas.topics import TOPICS

LAST_PORT = 65_535


def check(settings: Settings) -> None:
    """Refuse what could not work, before anything starts.

    Raises:
        BadSettings, BadPolicy, BadPlugin: naming the setting and what to do.
    """
    access.check(settings)
    _check_plugins(settings)
    chat.resolve(settings.policy.path)
    for stage in settings.factory.stages:
        known(stage, STAGES, f"factory.stages: {stage!r}")
    if settings.policy.few_shot not in {"auto", "none"}:
        chat.few_shot(settings.policy.few_shot)
    for source in settings.problems.sources:
        if source.kind == "file" and not Path(source.name).is_file():
            raise BadSettings(f"problems.sources: {source.name}: no such file")
    if settings.evaluate.file and not Path(settings.evaluate.file).is_file():
        raise BadSettings(f"evaluate.file: {settings.evaluate.file}: no such file")
    if settings.metrics.port + len(plan(settings)) > LAST_PORT + 1:
        raise BadSettings(
            f"metrics.port = {settings.metrics.port}: the processes take the ports after it, too: lower it"
        )
    if settings.engine.url and not settings.engine.url.startswith(("http://", "https://")):
        raise BadSettings(f"engine.url = {settings.engine.url}: write it as http://HOST:PORT")


def _check_plugins(settings: Settings) -> None:
    """Import what is named and not ours (but an objective, which needs torch: RL does it before it loads the model)."""
    plugins.check()
    named = [(plugins.PROBLEM_SOURCES, source.kind) for source in settings.problems.sources]
    named += [(plugins.STRATEGIES, settings.search.strategy), (plugins.REWRITERS, settings.linearize.rewriter)]
    for point, name in named:
        if name not in point.built_in:
            plugins.load(point, name)


def changed(settings: Settings) -> dict[str, Any]:
    """The settings that differ from their defaults, as 'section.key': value; secrets are hidden."""
    now, default = shown(msgspec.to_builtins(settings)), msgspec.to_builtins(Settings())
    return {
        f"{section}.{key}": value
        for section, keys in now.items()
        for key, value in keys.items()
        if value != default[section][key]
    }


def print_plan(settings: Settings) -> None:
    """`factory up --dry-run`."""
    out = console()
    broker = settings.broker.bootstrap or "embedded (127.0.0.1, a free port)"
    out.print(f"broker    {broker}", highlight=False)
    out.print(f"policy    {chat.resolve(settings.policy.path)}", highlight=False)
    out.print(f"data      {Path(settings.factory.data).resolve()}", highlight=False)
    out.print(f"placement {'one engine shared by search, sample, evaluate' if is_shared(settings) else 'separate'}")
    processes = Table("process", "stages", "threads", box=None)
    for spec in plan(settings):
        processes.add_row(spec.name, ", ".join(spec.stages), str(spec.threads))
    out.print(processes)
    print_topics(settings, out)
    for name, value in changed(settings).items():
        out.print(f"set {name} = {value}", highlight=False)


def print_stages(stages: list[str], settings: Settings) -> None:
    """`factory STAGE --dry-run`."""
    out = console()
    reads = [topic.name for topic in TOPICS if set(topic.consumers) & set(stages)]
    out.print(f"stages    {', '.join(stages)} (one process)")
    out.print(f"consumes  {', '.join(reads) or 'tables or sources'}")
    out.print(f"broker    {settings.broker.bootstrap or 'the embedded one of ' + settings.factory.data + '/'}")
    for name, value in changed(settings).items():
        out.print(f"set {name} = {value}", highlight=False)


def print_topics(settings: Settings, out: Console) -> None:
    """The topics as they are created."""
    table = Table("topic", "key", "partitions", "consumed by", box=None)
    for topic in TOPICS:
        table.add_row(topic.name, topic.key, str(topic.partitions(settings)), ", ".join(topic.consumers))
    out.print(table)


def print_settings(settings: Settings, *, as_json: bool, all_: bool) -> None:
    """Every setting in force as TOML-like lines, or as JSON."""
    content = shown(msgspec.to_builtins(settings)) if all_ else changed(settings)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(content)).decode())
        return
    for section, keys in content.items():
        if not isinstance(keys, dict):
            print(f"{section} = {msgspec.json.encode(keys).decode()}")
            continue
        print(f"[{section}]")
        for key, value in keys.items():
            line = f"{key} = {msgspec.json.encode(value).decode()}"
            print(f"# {line}" if value is None else line)  # TOML has no null: a key that is not there
        print()
