"""The commands that ask something: SQL, the ledger, lag, topics, trees and traces, doctor. Each has --json."""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from deploy import options as o
from deploy.output import console


def ask(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command("sql")(sql)
    app.command("ledger")(ledger)
    app.command("lag")(lag)
    app.command("topics")(topics)
    app.command("doctor")(doctor)
    app.command("grade")(grade)
    show = typer.Typer(help="Look at one tree or trace, or follow a problem.", no_args_is_help=True)
    show.command("tree")(show_tree)
    show.command("trace")(show_trace)
    show.command("problem")(show_problem)
    app.add_typer(show, name="show")


def sql(
    query: Annotated[str | None, typer.Argument(help="One query; without it a shell starts.")] = None,
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    as_json: o.AsJson = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="A time (2026-01-31T18:00; 10m: ten minutes ago) or TABLE@VERSION,...")
    ] = None,
    attach_script: Annotated[
        bool, typer.Option("--attach-script", help="Print SQL that makes the tables' views in another DuckDB.")
    ] = False,
) -> None:
    """Ask the datasets in SQL (DuckDB), all tables pinned to one snapshot (now, or as of then), while they grow."""
    from deploy import attach
    from deploy import sql as asking
    from deploy.as_of import pinned

    settings = o.settings_from(file, set_, data)
    pin = pinned(asking.datasets(settings), as_of, datetime.now().astimezone()) if as_of else None
    if attach_script:
        if query is not None:
            raise asking.BadQuery("--attach-script prints the tables' views: leave the query out")
        print(attach.script(settings, pin))
        return
    if query is None:
        asking.shell(settings, pin)
        return
    form = "json" if as_json else "csv" if csv else "table"
    print(asking.render(asking.query(settings, query, pin), form))


def ledger(
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    broker: o.Broker = None,
    as_json: o.AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every five seconds, until Ctrl-C.")] = False,
) -> None:
    """Check that nothing is lost: every id taken in has an output, a reason, or is in flight. Exit code 1 if not."""
    from deploy import ledger as books
    from deploy import ledger_show, ledger_watch

    settings = o.settings_from(file, set_, data, broker)
    if watch:
        sys.exit(0 if ledger_watch.watch(settings, as_json=as_json) else 1)
    computed = books.compute(settings)
    if as_json:
        print_json(computed)
    else:
        console().print(ledger_show.render(computed))
    sys.exit(0 if computed.closes else 1)


def lag(
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    broker: o.Broker = None,
    as_json: o.AsJson = False,
) -> None:
    """How far each consumer group is behind its topics, in messages."""
    from rich.table import Table

    from processors import kafka

    settings = o.settings_from(file, set_, data, broker)
    rows = [{"topic": topic, "group": group, "lag": lag} for (group, topic), lag in kafka.lags(settings).items()]
    if as_json:
        print_json(rows)
        return
    table = Table("topic", "group", "lag", box=None)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console().print(table)


def topics(
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    broker: o.Broker = None,
    as_json: o.AsJson = False,
) -> None:
    """The topics, their ids and how many messages each partition holds."""
    from rich.table import Table

    from processors import kafka
    from schemas.topics import TOPICS

    settings = o.settings_from(file, set_, data, broker)
    ids = kafka.topic_ids(settings)
    ends = kafka.highwater(settings, [topic.name for topic in TOPICS])
    rows = []
    for topic in TOPICS:
        high = [end for (name, _), end in sorted(ends.items()) if name == topic.name]
        rows.append(
            {"topic": topic.name, "id": ids.get(topic.name, ""), "partitions": len(high), "messages": sum(high)}
        )
    if as_json:
        print_json(rows)
        return
    table = Table("topic", "id", "partitions", "messages", box=None)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console().print(table)


def show_tree(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A tree's or problem's id, or its beginning.")],
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    as_json: o.AsJson = False,
) -> None:
    """A search tree: steps with Q, visits, prior and verdicts."""
    from deploy import show

    tree = show.find_tree(o.settings_from(file, set_, data), id_)
    if as_json:
        print_json(tree)
    else:
        console().print(show.render_tree(tree))


def show_trace(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A trace's id, or its beginning.")],
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    as_json: o.AsJson = False,
) -> None:
    """A chain of thought, its reflections and backtracks coloured."""
    from deploy import show

    trace = show.find_trace(o.settings_from(file, set_, data), id_)
    if as_json:
        print_json(trace)
    else:
        console().print(show.render_trace(trace))


def show_problem(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A problem's id, or its beginning.")],
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    as_json: o.AsJson = False,
) -> None:
    """Follow one problem through every stage: what became of it, when, after how long, and what it waits for."""
    from deploy import show

    problem = show.follow(o.settings_from(file, set_, data), id_)
    if as_json:
        print_json(problem)
    else:
        console().print(show.render_problem(problem))


def grade(
    pairs: Annotated[str, typer.Argument(metavar="PAIRS.jsonl", help="Lines of {gold, answer}; '-' is stdin.")],
    output: Annotated[Path | None, typer.Option("--output", help="Where the verdicts go; default: stdout.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Grading processes; default: cores.")] = None,
    file: o.SettingsFile = None,
    set_: o.Set = None,
) -> None:
    """Grade pairs of answers: one line of {outcome, seconds} a pair, in order. Exit code 1 if a line is no pair."""
    from deploy import grade as grading

    count = workers or os.cpu_count() or 1
    settings = o.settings_from(file, [*(set_ or []), f"verify.workers={count}"])
    sys.exit(1 if grading.grade(settings, pairs, output) else 0)


def doctor(
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    broker: o.Broker = None,
    as_json: o.AsJson = False,
) -> None:
    """Check the machine, the installation, the policy, the broker and the tables. Exit code 1 if something is wrong."""
    from deploy import doctor as checks

    found = checks.examine(o.settings_from(file, set_, data, broker))
    if as_json:
        print_json(found)
    else:
        for check in found:
            print(
                f"{'ok ' if check.ok else 'BAD'} {check.name}: {check.found}" + (f" -> {check.advice}" * (not check.ok))
            )
    sys.exit(0 if all(check.ok for check in found) else 1)


def print_json(content: Any) -> None:  # noqa: ANN401 - anything msgspec can encode
    """Indented JSON on stdout."""
    print(msgspec.json.format(msgspec.json.encode(content)).decode())
