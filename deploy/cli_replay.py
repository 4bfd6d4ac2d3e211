"""The commands that do something again: `factory dlq` (dead letters) and `factory replay` (a stage over old rows).

What changes anything is shown first and done with --run only.
"""

import sys
from typing import Annotated

import msgspec
import typer

from deploy import options as o
from deploy.output import console

Where = Annotated[str, typer.Option("--where", help="A SQL condition, as in --where \"stage = 'verify'\".")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of dead letters, or their beginnings.")]
Run = Annotated[bool, typer.Option("--run", "--yes", help="Do it; without it, only what would be done is shown.")]


def replays(app: typer.Typer) -> None:
    """Add these commands to the app."""
    letters = typer.Typer(help="Dead letters: what could not be processed, and why.", no_args_is_help=True)
    letters.command("list")(dlq_list)
    letters.command("show")(dlq_show)
    letters.command("replay")(dlq_replay)
    app.add_typer(letters, name="dlq")
    app.command("replay")(replay)


def dlq_list(
    ids: Ids = None,
    where: Where = "",
    all_: Annotated[bool, typer.Option("--all", help="Also those that were sent again.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows shown.")] = 50,
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    as_json: o.AsJson = False,
) -> None:
    """Dead letters by stage and error, then the newest of them."""
    from deploy import dlq
    from deploy.tabular import render

    settings = o.settings_from(file, set_, data)
    chosen = dlq.condition(where, ids or [], everything=all_)
    counts, rows = dlq.counts(settings, chosen), dlq.rows(settings, chosen, limit)
    if as_json:
        print(f'{{"counts": {render(counts, "json")},\n"letters": {render(rows, "json")}}}')
        return
    if not counts.num_rows:
        print("no dead letters" + ("" if all_ else " that were not sent again (--all shows those, too)"))
        return
    print(f"{render(counts)}\n\n{render(rows)}")


def dlq_show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A dead letter's id, or its beginning.")],
    raw: Annotated[bool, typer.Option("--raw", help="Only the original bytes, untouched.")] = False,
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    as_json: o.AsJson = False,
) -> None:
    """One dead letter: where it came from, the error, and its bytes with every control character escaped."""
    from deploy import dlq

    settings = o.settings_from(file, set_, data)
    letter = dlq.one(settings, id_)
    if raw:
        if sys.stdout.isatty():
            raise dlq.NoLetter("--raw writes bytes that a terminal might obey: redirect them into a file")
        sys.stdout.buffer.write(dlq.original(settings, letter) or letter.value)
    elif as_json:
        _print_json(dlq.as_builtins(letter))
    else:
        print(dlq.render(letter))


def dlq_replay(
    ids: Ids = None,
    where: Where = "",
    again: Annotated[bool, typer.Option("--again", help="Also those that were sent again before.")] = False,
    run: Run = False,
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    broker: o.Broker = None,
    as_json: o.AsJson = False,
) -> None:
    """Send the original bytes to their topic again, each letter once; shows what it would send first."""
    from deploy import dlq, dlq_replay

    settings = o.settings_from(file, set_, data, broker)
    chosen = dlq.condition(where, ids or [], everything=again)
    plan = dlq_replay.replay(settings, chosen, again=again) if run else dlq_replay.plan(settings, chosen)
    if as_json:
        _print_json(plan)
        return
    verb = "sent to" if plan.sent else "would go to"
    for topic, count in sorted(plan.send.items()):
        print(f"{count:,} {verb} {topic}")
    for fate, count in sorted(plan.skip.items()):
        print(f"{count:,} not: {dlq_replay.WHY_NOT[fate]}")
    if not plan.send:
        print("nothing to send" + ("" if again else " (--again: also what was sent before)"))
    elif not plan.sent:
        print("nothing was sent: --run does it")
    elif not plan.online:
        print("no factory runs: its stages get them when it is started")


def replay(
    stage: Annotated[str, typer.Argument(help="linearize or verify.")],
    from_: Annotated[str, typer.Option("--from", help="TABLE or TABLE@VERSION: the stage's input, as in trees@17.")],
    where: Where = "",
    to: Annotated[
        str, typer.Option("--to", help="Another topic, for everything that it gives; no table changes.")
    ] = "",
    run: Run = False,
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    broker: o.Broker = None,
    as_json: o.AsJson = False,
) -> None:
    """Run a stage again over old rows with today's code and settings; shows what would change first.

    The newest code wins: rows that it gives otherwise, or not any more, are named in the view `replaced`, and the
    default training set leaves them out. Exit code 1 if an input row failed.
    """
    from deploy import replay as again

    settings = o.settings_from(file, set_, data, broker)
    rows = again.source(settings, stage, from_, where)
    tell = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    report = again.run(settings, stage, rows, to, tell) if run else again.dry_run(settings, stage, rows)
    if as_json:
        _print_json(report)
    else:
        console().print("\n".join(again.lines(report, to)), markup=False, highlight=False)
    sys.exit(1 if report.counts.get("failed") else 0)


def _print_json(content: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(content)).decode())
