"""SQL over the datasets: one query, or a shell. Each query sees every table at one moment, while the factory runs.

A query may only read, only the tables, and only so long (processors/asking.py): the connection has no other file,
statements other than SELECT are refused, and so is a WITH that writes (DuckDB lets one COPY into any file it may read,
which would be ours).
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from deploy.tabular import render
from processors import asking
from processors.asking import BadQuery, bounded, reading, sentence
from processors.dataset import Datasets
from schemas.errors import Told
from schemas.settings import Settings
from schemas.tables import TABLES

__all__ = ["BadQuery", "answer", "query", "reading", "render", "sentence", "shell"]

Pin = Mapping[str, int] | None
"""Versions of tables (deploy/as_of.py)."""
HELP = """\
A query ends with Enter. The tables are pinned anew for each query (with --as-of: they stay as they were).
  .tables      the tables and how many rows they hold
  .schema T    the columns of table T
  .json .csv .table   how answers are printed
  .quit        leave (or Ctrl-D)"""


def datasets(settings: Settings) -> Datasets:
    """The tables of the data directory."""
    return Datasets.of(settings)


def query(settings: Settings, text: str, pin: Pin = None) -> pa.Table:
    """The answer to one SELECT over all tables, pinned to one snapshot: as they are now, or at the versions in `pin`.

    Raises:
        BadQuery: for SQL that is wrong, more or less than one statement, one that would write, or one beyond [sql].
        NoDatasets: when there are no tables yet.
    """
    with bounded(datasets(settings), settings.sql, pin) as connection:
        return asking.answer(connection, reading(connection, text), settings.sql)


def answer(settings: Settings, line: str, form: str = "table", pin: Pin = None) -> str:
    """What the shell prints for a line: a query's answer, a dot command's, or one sentence about what was wrong."""
    command, _, rest = line.strip().partition(" ")
    try:
        if command == ".tables":
            return render(_sizes(settings, pin), form)
        if command == ".schema":
            return render(_columns(settings, rest.strip().rstrip(";")), form)
        if command.startswith("."):
            return HELP
        return render(query(settings, line, pin), form)
    except Told as error:
        return f"error: {error}"


def _sizes(settings: Settings, pin: Pin) -> pa.Table:
    counts = [f'SELECT \'{name}\' AS "table", count(*) AS rows FROM "{name}"' for name in TABLES]  # noqa: S608 - ours
    return query(settings, " UNION ALL ".join(counts), pin)


def _columns(settings: Settings, name: str) -> pa.Table:
    if name not in TABLES:
        raise BadQuery(f"no table {name!r}; there are: {', '.join(TABLES)}")
    return query(settings, f'SELECT column_name, column_type FROM (DESCRIBE "{name}")')  # noqa: S608 - a known name


def shell(settings: Settings, pin: Pin = None) -> None:
    """Answer lines until .quit or the end of the input; the history is kept in the data directory."""
    with datasets(settings).connect(pin):  # says at once if there is nothing to ask
        pass
    form = "table"
    for line in _lines(settings):
        if line.strip() in {".quit", ".exit", "exit", "quit"}:
            return
        if line.strip() in {".json", ".csv", ".table"}:
            form = line.strip()[1:]
        elif line.strip():
            print(answer(settings, line, form, pin))


def _lines(settings: Settings) -> Iterator[str]:
    """Lines typed at a prompt; from a pipe, its lines as they are."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    ask = _prompt(settings)
    print(f"{', '.join(TABLES)}\n.help for help, .quit to leave")
    while True:
        try:
            yield ask()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _prompt(settings: Settings) -> Callable[[], str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory

    history = Path(settings.factory.data) / "state" / "sql_history"
    history.parent.mkdir(parents=True, exist_ok=True)
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)), completer=WordCompleter(sorted(_words())), complete_while_typing=False
    )
    return lambda: session.prompt("sql> ")


def _words() -> Iterable[str]:
    keywords = "select from where group by order limit count avg min max sum join on using unnest distinct having"
    columns = {name for schema in TABLES.values() for name in schema.names}
    return {
        *keywords.split(),
        *columns,
        *TABLES,
        "superseded",
        "replaced",
        ".tables",
        ".schema",
        ".json",
        ".csv",
        ".table",
        ".quit",
    }
