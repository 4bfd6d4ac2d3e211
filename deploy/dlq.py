"""Dead letters, asked: how many of which stage and why, one of them in full, and which can be sent again.

All of it comes from the tables, so it is answered without a broker, too. A letter that was sent again has a row in
`replays`; a stage that fails on the same bytes once more writes a new letter.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from deploy import sql
from processors.dataset import Datasets, quoted
from schemas.codec import content_sha, encode
from schemas.errors import Told
from schemas.messages import DeadLetter, Message, content_id
from schemas.settings import Settings
from schemas.tables import from_row
from schemas.topics import BY_NAME

SHOWN_CHARS = 4000
LETTERS = """
(SELECT d.* EXCLUDE (value), octet_length(d.value) AS bytes, coalesce(r.times, 0) AS sent FROM dead_letters d
 LEFT JOIN (SELECT row_id, count(*) AS times FROM replays WHERE what = 'sent' GROUP BY row_id) r ON r.row_id = d.id)
"""
"""The letters without their bytes; `sent` = how often each was sent again."""
KIND = "left(regexp_replace(error, '[0-9a-f]{8,}|[0-9]+', '#', 'g'), 100)"
"""An error without its numbers and ids: letters of one kind are counted together."""


class NoLetter(Told, LookupError):
    """No dead letter, or more than one, has such an id; the text says which."""


def condition(where: str, ids: Sequence[str] = (), *, everything: bool = False) -> str:
    """The WHERE clause for a user's condition and beginnings of ids; letters that were sent again only if asked for."""
    parts = [f"(\n{where}\n)"] if where else []
    if ids:
        parts.append("(" + " OR ".join(f"starts_with(id, {quoted(key)})" for key in ids) + ")")
    if not everything:
        parts.append("sent = 0")
    return " AND ".join(parts) or "true"


def counts(settings: Settings, where: str) -> pa.Table:
    """Letters by stage and kind of error, most first.

    Raises:
        BadQuery: `where` is no condition over the letters.
        NoDatasets: there are no tables yet.
    """
    return sql.query(
        settings,
        f"SELECT stage, topic, {KIND} AS error, count(*) AS letters, max(to_timestamp(time)) AS last "  # noqa: S608
        f"FROM {LETTERS} WHERE {where} GROUP BY ALL ORDER BY letters DESC, last DESC, stage, error",
    )


def rows(settings: Settings, where: str, limit: int) -> pa.Table:
    """The newest letters, without their bytes."""
    place = "CASE WHEN file <> '' THEN file || ':' || line ELSE topic || '/' || partition || '@' || \"offset\" END"
    return sql.query(
        settings,
        f"SELECT id, to_timestamp(time) AS time, stage, {place} AS place, input_id, bytes, attempt, sent, "  # noqa: S608
        f"left(error, 200) AS error FROM {LETTERS} WHERE {where} ORDER BY time DESC, id LIMIT {limit}",
    )


def one(settings: Settings, beginning: str) -> DeadLetter:
    """The letter whose id begins so.

    Raises:
        NoLetter: there is none, or several.
    """
    found = sql.query(settings, f"SELECT id FROM dead_letters WHERE starts_with(id, {quoted(beginning)}) LIMIT 6")  # noqa: S608
    ids = [str(key) for key in found.column("id").to_pylist()]
    if len(ids) != 1:
        raise NoLetter(
            f"several dead letters begin with {beginning!r}: {', '.join(ids)}" if ids
            else f"no dead letter's id begins with {beginning!r}: `factory dlq list --all` names them"
        )  # fmt: skip
    return next(_datasets(settings).messages(DeadLetter, f"id = {quoted(ids[0])}"))


def letters(settings: Settings, where: str) -> Iterator[tuple[DeadLetter, int]]:
    """Letters in full, oldest first, each with how often it was sent again."""
    chosen = sql.query(settings, f"SELECT id, sent FROM {LETTERS} WHERE {where}")  # noqa: S608
    sent = {str(row["id"]): int(row["sent"]) for row in chosen.to_pylist()}
    if sent:
        for letter in _datasets(settings).messages(DeadLetter, f"id IN ({', '.join(map(quoted, sent))})"):
            yield letter, sent[letter.id]


def original(settings: Settings, letter: DeadLetter) -> bytes | None:
    """The bytes that failed: the letter's own, or, where they were too large to be copied, those of its table's row.

    None where they are nowhere: a line of a file (which is read again at a start), or a row that is not there.
    """
    missing = [line for line in letter.detail.split("\n")[:2] if " bytes, too large" in line]
    if letter.value or not letter.topic or all(line.startswith("key of ") for line in missing):
        return letter.value if letter.topic else None
    if (topic := BY_NAME.get(letter.topic)) is None:
        return None
    # By its id, too: a message that was fed again has a row under the offset that it had before.
    place = f"_partition = {letter.partition} AND _offset = {letter.offset}"
    wanted = f"({place}) OR CAST({topic.id} AS VARCHAR) = {quoted(letter.input_id)}"
    for row in _datasets(settings).rows(topic.table, wanted):
        message: Message = from_row(row, topic.message)
        value = encode(message)
        if content_id(letter.stage, letter.topic, letter.partition, letter.offset, content_sha(value)) == letter.id:
            return value
    return None


def escaped(data: bytes) -> str:
    """The bytes as text of printable characters and line breaks alone: a terminal obeys none of it."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() or char == "\n" else _code(char) for char in text)


def _code(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def as_builtins(letter: DeadLetter) -> dict[str, Any]:
    """The letter as JSON can hold it: key and value as base64, and the value as text beside it."""
    return dict(msgspec.to_builtins(letter)) | {"text": escaped(letter.value)}


def render(letter: DeadLetter) -> str:
    """The letter as a person reads it."""
    place = f"{letter.file}:{letter.line}" if letter.file else f"{letter.topic}/{letter.partition}@{letter.offset}"
    text, cut = escaped(letter.value), ""
    if len(text) > SHOWN_CHARS:
        text, cut = text[:SHOWN_CHARS], f"\n… {len(letter.value)} bytes in all: --raw gives them untouched"
    lines = [
        f"id        {letter.id}",
        f"stage     {letter.stage}",
        f"from      {place}",
        f"input id  {letter.input_id or '(none could be read)'}",
        f"attempt   {letter.attempt}",
        f"error     {letter.error}",
        *([f"detail    {letter.detail}"] if letter.detail else []),
        f"key       {escaped(letter.key)}",
        f"value     {text}{cut}",
    ]
    return "\n".join(
        escaped(line.encode("utf-8", "surrogatepass")) if at < 7 else line for at, line in enumerate(lines)
    )


def _datasets(settings: Settings) -> Datasets:
    return sql.datasets(settings)
