"""SQL over the datasets: one query, or a shell. Each query sees every table at one moment, while the factory runs.

A query may only read, and only the tables: the connection has no other file (Datasets.connect), statements other than
SELECT are refused, and so is a WITH that writes (DuckDB lets one COPY into any file it may read, which would be ours).
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from deploy.tabular import render
from processors.dataset import Datasets, NoDatasets
from schemas.errors import Told
from schemas.settings import Settings
from schemas.tables import TABLES

__all__ = ["BadQuery", "answer", "query", "render", "shell"]

HELP = """\
A query ends with Enter. The tables are pinned anew for each query.
  .tables      the tables and how many rows they hold
  .schema T    the columns of table T
  .json .csv .table   how answers are printed
  .quit        leave (or Ctrl-D)"""


class BadQuery(Told, ValueError):
    """The query cannot be answered; the text says why in a sentence."""


def datasets(settings: Settings) -> Datasets:
    """The tables of the data directory."""
    return Datasets(Path(settings.factory.data) / "datasets")


def query(settings: Settings, text: str) -> pa.Table:
    """The answer to one SELECT over all tables, pinned to one snapshot.

    Raises:
        BadQuery: for SQL that is wrong, more or less than one statement, or one that would write.
        NoDatasets: when there are no tables yet.
    """
    with datasets(settings).connect() as connection:
        try:
            found: pa.Table = connection.sql(_select(connection, text)).to_arrow_table()
        except duckdb.Error as error:
            raise BadQuery(_sentence(error)) from None
    return found


def _select(connection: duckdb.DuckDBPyConnection, text: str) -> str:
    """The statement in `text`, once it is sure that it only reads."""
    statements = connection.extract_statements(text)
    if len(statements) != 1:
        raise BadQuery("one query at a time, please" if statements else "the query is empty")
    kind = statements[0].type
    body = _until_semicolon(statements[0].query)
    if kind == duckdb.StatementType.EXPLAIN and not re.search(r"(?i)\banalyze\b", body):
        return body
    if kind not in {duckdb.StatementType.SELECT, duckdb.StatementType.MULTI}:
        raise BadQuery(f"only SELECT is answered here, not {kind.name}: the tables are read-only")
    # A statement that writes may stand at the top of a WITH, but never inside a subquery: DuckDB refuses it there.
    inner = f"FROM (\n{body}\n)"
    connection.execute(f"EXPLAIN {inner}")
    return inner if kind == duckdb.StatementType.MULTI else body  # PIVOT is several statements in one


def _until_semicolon(statement: str) -> str:
    """The statement without the semicolon that ends it and any comment after that."""
    data = statement.encode()
    ends = [at for at, _ in duckdb.tokenize(statement) if data[at : at + 1] == b";"]
    return data[: ends[0]].decode() if ends else statement


def _sentence(error: duckdb.Error) -> str:
    """DuckDB's message without its drawing of the query and its lists of candidates."""
    text = str(error).split("\n\nLINE", 1)[0].split("\n\tCandidate", 1)[0].split("\nLINE", 1)[0]
    text = " ".join(text.split())
    if "must be at the top level" in text:
        return "a query may not write: the tables are read-only"
    hint = "" if "Table with name" not in text else f" (the tables are: {', '.join(TABLES)})"
    return re.sub(r"^[A-Za-z ]{1,40} Error: ", "", text) + hint


def answer(settings: Settings, line: str, form: str = "table") -> str:
    """What the shell prints for a line: a query's answer, a dot command's, or one sentence about what was wrong."""
    command, _, rest = line.strip().partition(" ")
    try:
        if command == ".tables":
            return render(_sizes(settings), form)
        if command == ".schema":
            return render(_columns(settings, rest.strip().rstrip(";")), form)
        if command.startswith("."):
            return HELP
        return render(query(settings, line), form)
    except (BadQuery, NoDatasets) as error:
        return f"error: {error}"


def _sizes(settings: Settings) -> pa.Table:
    counts = [f'SELECT \'{name}\' AS "table", count(*) AS rows FROM "{name}"' for name in TABLES]  # noqa: S608 - ours
    return query(settings, " UNION ALL ".join(counts))


def _columns(settings: Settings, name: str) -> pa.Table:
    if name not in TABLES:
        raise BadQuery(f"no table {name!r}; there are: {', '.join(TABLES)}")
    return query(settings, f'SELECT column_name, column_type FROM (DESCRIBE "{name}")')  # noqa: S608 - a known name


def shell(settings: Settings) -> None:
    """Answer lines until .quit or the end of the input; the history is kept in the data directory."""
    with datasets(settings).connect():  # says at once if there is nothing to ask
        pass
    form = "table"
    for line in _lines(settings):
        if line.strip() in {".quit", ".exit", "exit", "quit"}:
            return
        if line.strip() in {".json", ".csv", ".table"}:
            form = line.strip()[1:]
        elif line.strip():
            print(answer(settings, line, form))


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
        ".tables",
        ".schema",
        ".json",
        ".csv",
        ".table",
        ".quit",
    }
