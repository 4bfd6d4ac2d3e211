"""`factory studio`: the pages of a data directory in a browser, on this machine."""

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from deploy import options as o


def studio(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("studio")(studio_command)


def studio_command(
    data: o.Data = None,
    port: Annotated[int, typer.Option("--port", help="0 = a free one.")] = 0,
    host: Annotated[str, typer.Option("--host", help="Where it listens; there is no login.")] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="Another name that it answers to (repeatable).")
    ] = None,
    beside: Annotated[
        list[Path] | None, typer.Option("--beside", help="Another data directory, to lay its runs over (repeatable).")
    ] = None,
    file: o.SettingsFile = None,
    set_: o.Set = None,
    broker: o.Broker = None,
    dry_run: o.DryRun = False,
    parent: Annotated[int, typer.Option("--parent", hidden=True)] = 0,
) -> None:
    """Look at everything in a browser: flow, trees, traces, rollouts, training, SQL, ledger, dead letters."""
    from deploy.process import die_with
    from deploy.studio import serve

    settings = o.settings_from(file, set_, data, broker)
    site = serve.site(settings, beside or [])
    if dry_run:
        print(f"would serve {settings.factory.data} on {host}, port {port or 'free'}")
        return
    if parent:
        die_with(parent)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with serve.open_to(site, host, port, allow_host or []) as (url, notes):
        for note in notes:
            print(note, file=sys.stderr)
        print(f"studio: {url}  (Ctrl-C ends it)", flush=True)
        stopping.wait()
