"""Dead letters: what could not be processed, its original bytes, and sending them again behind a confirmation.

A replay is that of `factory dlq replay` (deploy/dlq_replay.py): the very bytes with their key go onto the topic that
they were read from, and a row in `replays` says so; the letter's row stays. Without a running factory the tables keep
the message, and the stage gets it when the factory is started.
"""

from typing import Any
from urllib.parse import quote

from kafka.errors import KafkaError

from deploy import dlq, dlq_replay
from deploy.studio import find
from deploy.studio.site import Asked, NotThere, Page, Site, pages, window
from processors.dataset import quoted
from schemas import messages as m
from schemas.errors import Told
from schemas.topics import BY_NAME

SHOWN_BYTES = 20_000
SENT = {
    "online": "Its bytes were sent again: the stage takes them from there, and this row stays.",
    "offline": "Its bytes were sent again and are kept in the tables: no factory runs, so the stage gets them when one "
    "is started. This row stays.",
}
"""What the page says after a replay, by what `replayed` in its address is."""


class NoReplay(Told, RuntimeError):
    """This dead letter cannot be sent again; the text says why."""


def listed(site: Site, asked: Asked) -> Page:
    """The newest dead letters, of one stage or all."""
    where, params = ["true"], list[object]()
    if stage := asked.get("stage"):
        params.append(stage)
        where.append(f"stage = ${len(params)}")
    if text := asked.get("q"):
        params.append(text)
        at = f"${len(params)}"
        where.append(f"(starts_with(id, {at}) OR starts_with(input_id, {at}) OR contains(lower(error), lower({at})))")
    found = site.tables.rows(
        f"""SELECT id, stage, topic, partition, "offset", input_id, file, line, left(error, 300) AS error, attempt,
          bytes, sent, time FROM {dlq.LETTERS} WHERE {" AND ".join(where)}
        ORDER BY time DESC {window(asked)}""",  # noqa: S608 - our own names
        params,
    )
    stages = site.tables.kept("SELECT stage, count(*) AS n FROM dead_letters GROUP BY stage ORDER BY n DESC")
    return Page("letters.html", pages(asked, found) | {"stages": stages})


def page(site: Site, asked: Asked) -> Page:
    """One dead letter; with `confirm`, the question whether to send it again."""
    letter = _letter(site, asked)
    text = letter.value[:SHOWN_BYTES].decode("utf-8", "replace")
    size = len(letter.value)
    values: dict[str, Any] = {"letter": letter, "text": text, "cut": size > SHOWN_BYTES, "size": size}
    values |= {"key": letter.key.decode("utf-8", "replace"), "why_not": _why_not(site, letter)}
    again = site.tables.one("SELECT count(*) AS n FROM dead_letters WHERE input_id = $1 AND id <> $2 AND $1 <> ''",
                            [letter.input_id, letter.id])  # fmt: skip
    sent = site.tables.one("SELECT count(*) AS n FROM replays WHERE what = 'sent' AND row_id = $1", [letter.id])
    values |= {"others": again["n"], "sent": sent["n"], "said": SENT.get(asked.get("replayed"), "")}
    return Page("letter.html", values | {"confirm": bool(asked.get("confirm"))})


def replay(site: Site, asked: Asked) -> str:
    """Send a dead letter's bytes again; the address of the page that says so.

    Raises:
        NoReplay: its bytes are not there, it came from a file, or the broker did not take them.
        BrokerMissing, TableBusy, NotWritten: see dlq_replay.replay.
    """
    letter = _letter(site, asked)
    if why_not := _why_not(site, letter):
        raise NoReplay(why_not)
    try:
        done = dlq_replay.replay(site.settings, f"id = {quoted(letter.id)}")
    except KafkaError as error:
        raise NoReplay(
            f"the broker did not take it ({str(error) or type(error).__name__}): nothing is lost, try again in a while"
        ) from error
    if not done.send:
        raise NoReplay(dlq_replay.WHY_NOT[next(iter(done.skip), "sent")])
    return f"/letters/{quote(letter.id, safe='')}?replayed={'online' if done.online else 'offline'}"


def _why_not(site: Site, letter: m.DeadLetter) -> str:
    if not letter.topic:
        return "it is a line of a file: put the line right and `factory produce` takes it up"
    if letter.topic not in BY_NAME:
        return f"this version has no topic {letter.topic}"
    if dlq.original(site.settings, letter) is None:
        return "its bytes were too large to be copied, and the row that they came from is not in its table"
    return ""


def _letter(site: Site, asked: Asked) -> m.DeadLetter:
    id_ = asked.names["id"]
    found = site.tables.one("SELECT * FROM dead_letters WHERE id = $1", [id_])
    if not found:
        raise NotThere(f"no dead letter {id_!r}")
    return find.converted(found, m.DeadLetter)
