"""The command that hands data to other tools: `factory export`."""

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
        str, typer.Option("--as-of", help="A time (2026-01-31T18:00, or 10m ago) or TABLE@VERSION,...")
    ] = "",
    file: o.SettingsFile = None,
    set_: o.Set = None,
    data: o.Data = None,
    policy: o.Policy = None,
    as_json: o.AsJson = False,
) -> None:
    """Export a table or a query's answer with a dataset card; `datasets.load_dataset(OUT)` opens it."""
    from deploy import export as exporting
    from deploy.as_of import pinned
    from deploy.cli_ask import print_json
    from deploy.export_files import FORMATS, NotExported
    from deploy.sql import datasets

    settings = o.settings_from(file, set_, data, policy=policy)
    if form not in FORMATS:
        raise NotExported(f"--format {form}: write one of {', '.join(FORMATS)}")
    if len(names) > 2:
        raise NotExported(f"one table and one place, please, not {len(names)} names: {' '.join(names)}")
    what = exporting.wanted(settings, FORMATS[form], "".join(names[:-1]), sql, as_of)
    pin = pinned(datasets(settings), as_of, datetime.now().astimezone()) if as_of else None
    done = exporting.export(settings, FORMATS[form], what, Path(names[-1]), pin)
    if as_json:
        print_json(done)
    else:
        print(f"{done.rows:,} rows in {done.files} file(s), {done.bytes / 1e6:,.1f} MB, and their card: {done.out}")
