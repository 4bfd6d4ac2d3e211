"""The command that lists what installed packages add: `factory plugins`."""

import sys

import typer

from deploy import options as o


def plugins(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command("plugins")(list_plugins)


def list_plugins(as_json: o.AsJson = False) -> None:
    """Parts that installed packages add (docs/extending.md), each imported to try it. Exit code 1 if one cannot be."""
    from rich.table import Table

    from deploy.cli_ask import print_json
    from deploy.extending import tried
    from deploy.output import console
    from schemas.plugins import POINTS

    found = tried()
    if as_json:
        print_json(found)
    else:
        table = Table("group", "name", "object", "package", "state", box=None)
        for one in found:
            table.add_row(one.point, one.name, one.object, one.package, one.problem or "ok")
        console().print(table)
        for point in POINTS:
            print(f"built in, {point.group}: {', '.join(point.built_in)}")
    sys.exit(1 if any(one.problem for one in found) else 0)
