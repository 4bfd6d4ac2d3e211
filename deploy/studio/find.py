"""Finding rows: the conditions of a list's search form, and one message by its id or the beginning of it."""

from typing import TypeVar

import msgspec

from deploy.studio.site import Asked, NotThere, Site
from deploy.studio.tables import OtherVersion, Row
from schemas import messages as m
from schemas.tables import from_row
from schemas.topics import BY_MESSAGE

M = TypeVar("M", bound=m.Message)


def conditions(asked: Asked, of: str) -> tuple[list[str], list[object]]:
    """SQL conditions on a table with a `problem`, and their parameters: the search text and the source.

    Args:
        asked: the request: `q` is the beginning of an id, or a part of the question; `source` is a problem's.
        of: the table's name in the question.
    """
    where, params = ["true"], list[object]()
    if text := asked.get("q"):
        params.append(text)
        at = f"${len(params)}"
        where.append(
            f"(starts_with({of}.id, {at}) OR starts_with({of}.problem.id, {at}) "
            f"OR contains(lower({of}.problem.question), lower({at})))"
        )
    if source := asked.get("source"):
        params.append(source)
        where.append(f"{of}.problem.source = ${len(params)}")
    return where, params


def sources(site: Site, table: str) -> list[str]:
    """The sources of the problems in a table."""
    query = f"SELECT DISTINCT problem.source AS source FROM {table} ORDER BY source"  # noqa: S608 - our own names
    return [str(row["source"]) for row in site.tables.kept(query)]


def message(site: Site, kind: type[M], id_: str) -> tuple[M, str]:
    """The message whose id (or problem's id) is or begins with `id_`, and the sha of its bytes.

    Raises:
        NotThere: when there is none, or several that only begin so.
        OtherVersion: the row is not one of this version's.
    """
    table = BY_MESSAGE[kind].table
    whole = f'SELECT * FROM "{table}" WHERE id = $1'  # noqa: S608 - our own name
    row = site.tables.one(whole, [id_])
    if not row and (meant := _ids(site, table, id_, nested="problem" in kind.__struct_fields__)):
        row = site.tables.one(whole, meant[:1])
    if not row:
        raise NotThere(f"no row of {table} has an id that begins with {id_!r}: it may be on its way to the table")
    return converted(row, kind), str(row["_sha"])


def converted(row: Row, kind: type[M]) -> M:
    """The message a row was made from.

    Raises:
        OtherVersion: it lacks a field, or has another value in it.
    """
    try:
        return from_row(row, kind)
    except KeyError as error:
        raise OtherVersion(f"a row of {BY_MESSAGE[kind].table} has no {error.args[0]}") from error
    except msgspec.ValidationError as error:
        raise OtherVersion(f"a row of {BY_MESSAGE[kind].table}: {error}") from error


def _ids(site: Site, table: str, id_: str, *, nested: bool) -> list[str]:
    """The one id that is meant."""
    also = "problem.id" if nested else "id"
    found = site.tables.rows(
        f"""SELECT id, id = $1 OR {also} = $1 AS whole FROM "{table}"
        WHERE starts_with(id, $1) OR starts_with({also}, $1) ORDER BY whole DESC, id = $1 DESC, id LIMIT 6""",  # noqa: S608 - ours
        [id_],
    )
    if len(found) > 1 and not found[0]["whole"]:
        raise NotThere(f"{id_!r} begins the ids of several {table}: {', '.join(row['id'] for row in found[:5])}")
    return [str(row["id"]) for row in found]
