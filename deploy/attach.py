"""The tables for any other DuckDB (a notebook, its own command line, a tool with its driver): a script of their views.

Each view reads the files that the table's log names at one version and no others: after a compaction a glob over the
folder would count rows twice. The script says which versions; run the command again for later rows. Files stay readable
until `factory compact --keep-days` removes them.
"""

import duckdb

from deploy.sql import Pin, datasets
from processors.places import refuse
from processors.snapshot import REPLACED, SUPERSEDED, connection, view
from schemas.settings import Settings


def script(settings: Settings, pin: Pin = None) -> str:
    """SQL that makes a view of each table, and `superseded` and `replaced`, in a DuckDB that may read files.

    Raises:
        NotOnStore: they lie on a store.
        NoDatasets, NoVersion, Damaged: the tables cannot be read.
    """
    refuse(settings, "--attach-script", "`factory export` writes files for another DuckDB")
    tables = datasets(settings)
    versions = {name: table.version() for name, table in tables.open(pin).items()}
    files, conditions = tables.snapshot(versions)
    with connection(files, conditions) as here:
        made = [
            view(name, paths, conditions.get(name, "")) if paths else _empty(name, here)
            for name, paths in files.items()  # of every table, in the order in which the views need them
        ]
    views = [one.strip().replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1) for one in (*made, SUPERSEDED, REPLACED)]
    told = ", ".join(f"{name}@{version}" for name, version in versions.items())
    head = f"-- The tables in {tables.place} at {told}".replace("\n", " ")
    return "\n".join([head, *(f"{one};" for one in views)])


def _empty(name: str, here: duckdb.DuckDBPyConnection) -> str:
    """A view with a table's columns and no rows."""
    described = here.execute(f'DESCRIBE "{name}"').fetchall()
    columns = ", ".join(f'CAST(NULL AS {kind}) AS "{column}"' for column, kind, *_ in described)
    return f'CREATE VIEW "{name}" AS SELECT {columns} LIMIT 0'
