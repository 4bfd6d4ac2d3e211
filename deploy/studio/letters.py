"""Dead letters: what could not be processed, its original bytes, and sending them again behind a confirmation.

A replay puts the very bytes with their key onto the topic that they were read from; the letter's row stays.
"""

from typing import Any

from deploy.studio.site import Asked, NotThere, Page, Site, pages, window
from processors import kafka
from schemas.errors import Told
from schemas.topics import BY_NAME

SHOWN_BYTES = 20_000
SEND_S = 30.0


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
          octet_length(value) AS bytes, time FROM dead_letters WHERE {" AND ".join(where)}
        ORDER BY time DESC {window(asked)}""",  # noqa: S608 - our own names
        params,
    )
    stages = site.tables.rows("SELECT stage, count(*) AS n FROM dead_letters GROUP BY stage ORDER BY n DESC")
    return Page("letters.html", pages(asked, found) | {"stages": stages})


def page(site: Site, asked: Asked) -> Page:
    """One dead letter; with `confirm`, the question whether to send it again."""
    letter = _letter(site, asked)
    value: bytes = letter["value"]
    text = value[:SHOWN_BYTES].decode("utf-8", "replace")
    values: dict[str, Any] = {"letter": letter, "text": text, "cut": len(value) > SHOWN_BYTES, "size": len(value)}
    values |= {"key": letter["key"].decode("utf-8", "replace"), "why_not": _why_not(letter), "sent": ""}
    again = site.tables.one("SELECT count(*) AS n FROM dead_letters WHERE input_id = $1 AND id <> $2 AND $1 <> ''",
                            [letter["input_id"], letter["id"]])  # fmt: skip
    return Page("letter.html", values | {"confirm": bool(asked.get("confirm")), "others": again["n"]})


def replay(site: Site, asked: Asked) -> Page:
    """Send a dead letter's bytes again.

    Raises:
        NoReplay: when the bytes were not kept, or it came from a file.
        BrokerMissing: when no broker answers.
    """
    letter = _letter(site, asked)
    if why_not := _why_not(letter):
        raise NoReplay(why_not)
    producer = kafka.producer(site.settings)
    try:
        future = producer.send(letter["topic"], key=letter["key"] or None, value=letter["value"])
        producer.flush(SEND_S)
        sent = future.get(SEND_S)
    finally:
        producer.close()
    shown = page(site, Asked(f"/letters/{letter['id']}", asked.names, []))
    place = f"sent to {sent.topic}, partition {sent.partition}, offset {sent.offset}"
    return Page("letter.html", shown.values | {"sent": place})


def _why_not(letter: dict[str, Any]) -> str:
    if letter["topic"] not in BY_NAME:
        return "it is a line of a file: put the line right and `factory produce` takes it up"
    if not letter["value"]:
        return "its bytes were too large to be copied: they are only where they came from"
    return ""


def _letter(site: Site, asked: Asked) -> dict[str, Any]:
    id_ = asked.names["id"]
    found = site.tables.one("SELECT * FROM dead_letters WHERE id = $1", [id_])
    if not found:
        raise NotThere(f"no dead letter {id_!r}")
    return found
