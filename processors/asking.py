"""Somebody's own SQL over the datasets: it reads the tables and nothing else, and it ends.

Every place that takes SQL (`factory sql`, the studio, prompts.sql, sft.sql, --where) goes through here: one statement,
which only reads; no other file and no setting within its reach (Datasets.connect); and a limit for its time and its
memory ([sql]), so that a cross join by mistake stops neither the machine nor a trainer.
"""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from processors.dataset import Datasets
from schemas.errors import Told
from schemas.settings import SqlSection
from schemas.tables import TABLES

BATCH_ROWS = 256


class BadQuery(Told, ValueError):
    """The query cannot be answered; the text says why in a sentence."""


@contextmanager
def bounded(
    datasets: Datasets, limits: SqlSection, pin: Mapping[str, int] | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the tables as they are now (or at the versions in `pin`) that obeys the limits.

    The time runs until the context is left.

    Raises:
        BadQuery: for any error of DuckDB's inside, a limit that was met among them.
        NoDatasets: when there are no tables yet.
    """
    with datasets.connect(pin, memory_mb=limits.memory_mb) as connection:
        alarm = threading.Timer(limits.timeout_s, connection.interrupt)
        alarm.daemon = True
        alarm.start()
        try:
            yield connection
        except duckdb.InterruptException:
            raise BadQuery(
                f"the query was stopped after {limits.timeout_s:g} s: ask for less, or raise sql.timeout_s"
            ) from None
        except (duckdb.OutOfMemoryException, MemoryError):
            raise BadQuery(_too_large(limits)) from None
        except duckdb.Error as error:
            raise BadQuery(sentence(error)) from None
        finally:
            alarm.cancel()


def answer(
    connection: duckdb.DuckDBPyConnection, query: str, limits: SqlSection, parameters: Sequence[object] = ()
) -> pa.Table:
    """All rows of a query that `reading` has passed.

    Raises:
        BadQuery: they take more than sql.memory_mb.
        duckdb.Error: see `bounded`.
    """
    reader = connection.sql(query, params=list(parameters) or None).to_arrow_reader(BATCH_ROWS)
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches(reader):
        held.append(batch)
        size += batch.nbytes
        if size > limits.memory_mb << 20:
            raise BadQuery(_too_large(limits))
    return pa.Table.from_batches(held, schema=reader.schema)


def batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The batches of an answer of DuckDB's, whose errors stay DuckDB's.

    Once the first batch is out they come through Arrow, which keeps nothing but their text.

    Raises:
        duckdb.Error: the query failed at a later row (InterruptException, OutOfMemoryException: it was stopped).
    """
    try:
        yield from reader
    except (OSError, pa.ArrowException) as error:
        text = str(error)
        if "INTERRUPT" in text:
            raise duckdb.InterruptException(text) from None
        if isinstance(error, MemoryError) or text.startswith("Out of Memory"):
            raise duckdb.OutOfMemoryException(text) from None
        raise duckdb.Error(text) from None


def _too_large(limits: SqlSection) -> str:
    return f"the query needs more than {limits.memory_mb} MB: ask for less, or raise sql.memory_mb"


def reading(connection: duckdb.DuckDBPyConnection, text: str) -> str:
    """The statement in `text`, once it is sure that it only reads.

    Raises:
        BadQuery: for more or less than one statement, or one that would write.
        duckdb.Error: for SQL that is wrong (see sentence).
    """
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


def sentence(error: duckdb.Error) -> str:
    """DuckDB's message without its drawing of the query and its lists of candidates."""
    text = str(error).split("\n\nLINE", 1)[0].split("\n\tCandidate", 1)[0].split("\nLINE", 1)[0]
    text = " ".join(text.split())
    if "must be at the top level" in text:
        return "a query may not write: the tables are read-only"
    hint = "" if "Table with name" not in text else f" (the tables are: {', '.join(TABLES)})"
    return re.sub(r"^[A-Za-z ]{1,40} Error: ", "", text) + hint
