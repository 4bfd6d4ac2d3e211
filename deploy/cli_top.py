"""`factory top`: the numbers of a running factory, live in the terminal."""

from typing import Annotated

import typer

from deploy import options as o


def tops(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command("top")(top_command)


def top_command(
    once: Annotated[bool, typer.Option("--once", help="Print one look and end.")] = False,
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    broker: o.Broker = None,
    as_json: o.AsJson = False,
) -> None:
    """Watch a running factory: each stage's rate, lag, errors and weights, as in the panel of `factory up`."""
    from deploy import top
    from deploy.cli_ask import print_json

    settings = o.settings_from(file, set_, data, broker)
    if not as_json:
        top.run(settings, one=once)
        return
    top.check(settings)
    print_json(top.once(settings))
