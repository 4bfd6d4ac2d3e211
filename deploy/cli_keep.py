"""The command that keeps a data directory small and whole: `factory compact`."""

from typing import Annotated

import typer

from deploy import options as o


def keeps(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command("compact")(compact)


def compact(
    tables: Annotated[list[str] | None, typer.Argument(metavar="[TABLE...]", help="Default: every table.")] = None,
    keep_days: Annotated[
        float | None,
        typer.Option("--keep-days", min=0, help="Also remove files that nobody needs and that are older than this."),
    ] = None,
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    broker: o.Broker = None,
    as_json: o.AsJson = False,
) -> None:
    """Merge the tables' small files and mend what a power cut left half-written; the factory may run meanwhile."""
    from deploy import compact as compacting
    from deploy.cli_ask import print_json

    done = compacting.run(o.settings_from(file, set_, data, broker), tables or [], keep_days)
    if as_json:
        print_json(done)
    else:
        print(compacting.render(done))
