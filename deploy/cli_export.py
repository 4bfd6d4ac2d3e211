"""The command that hands data to other tools: `factory export`."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from deploy import options as o


def exports(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command("export")(export)


def export(
    names: Annotated[
        list[str], typer.Argument(metavar="[TABLE] OUT", help="A table, unless --sql says what; the directory to make.")
    ],
    form: Annotated[
        str, typer.Option("--format", help="hf, trl (SFTTrainer, GRPOTrainer), parquet (with bookkeeping) or jsonl.")
    ],
    sql: Annotated[str, typer.Option("--sql", help="One query; --format trl alone exports the training set.")] = "",
    as_of: Annotated[
        str, typer.Option("--as-of", help="A time (2026-01-31T18:00; 10m: ten minutes ago) or TABLE@VERSION,...")
    ] = "",
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    policy: o.Policy = None,
    as_json: o.AsJson = False,
) -> None:
    """Export a table or a query's answer with a dataset card; `datasets.load_dataset(OUT)` opens it."""
    from deploy import export as exporting
    from deploy.as_of import pinned, resolved
    from deploy.cli_ask import print_json
    from deploy.export_files import FORMATS, NotExported
    from deploy.sql import datasets

    settings = o.settings_from(file, set_, data, policy=policy)
    if form not in FORMATS:
        raise NotExported(f"--format {form}: write one of {', '.join(FORMATS)}")
    if len(names) > 2:
        raise NotExported(f"one table and one place, please, not {len(names)} names: {' '.join(names)}")
    now = datetime.now().astimezone()
    what = exporting.wanted(settings, FORMATS[form], "".join(names[:-1]), sql, resolved(as_of, now))
    pin = pinned(datasets(settings), as_of, now) if as_of else None
    with _sigterm_unwinds():
        done = exporting.export(settings, FORMATS[form], what, Path(names[-1]), pin)
    if as_json:
        print_json(done)
    else:
        print(f"{done.rows:,} rows in {done.files} file(s), {done.bytes / 1e6:,.1f} MB, and their card: {done.out}")


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM ends the command as an exception, so that what is half written is removed; a second one is ignored."""
    came = False

    def end(number: int, _frame: object) -> None:
        nonlocal came
        came = True
        signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except RuntimeError:  # what DuckDB makes of the exception when the signal comes during its work
        if came:
            sys.exit(128 + signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
