"""Flow: the stages left to right with what they do at this moment; and the ledger, which says that nothing is lost."""

import time
from typing import Any

import msgspec

from deploy.studio import charts
from deploy.studio.pulse import Look
from deploy.studio.site import Asked, Page, Site
from schemas.errors import Told
from schemas.tables import TABLES


class Card(msgspec.Struct, frozen=True):
    """A stage at its place in the flow."""

    stage: str
    title: str
    takes: str
    """The topic it reads, '' = none (or tables)."""
    gives: str
    """The table whose latest rows the card leads to."""


DATA = (
    Card("produce", "produce", "", "problems"),
    Card("search", "search", "problems", "trees"),
    Card("linearize", "linearize", "trees", "traces"),
    Card("verify", "verify", "traces", "examples"),
    Card("sink", "sink", "", "examples"),
    Card("sft", "SFT", "", "training"),
)
LEARN = (
    Card("prompts", "prompts", "", "prompts"),
    Card("sample", "sample", "prompts", "rollouts"),
    Card("verify", "verify", "rollouts", "rewards"),
    Card("rl", "RL", "rewards", "training"),
    Card("evaluate", "evaluate", "", "evaluations"),
)


def page(site: Site, _asked: Asked) -> Page:
    """The stages; static/studio.js asks for this page again every two seconds and changes its live part."""
    look = site.pulse.look()
    counts, sentence = _counts(site)
    now = time.time()
    values = {
        "data": [_card(site, look, card, counts) for card in DATA],
        "learn": [_card(site, look, card, counts) for card in LEARN],
        "processes": sorted(look.rows, key=lambda row: (str(row.get("stage")), int(row.get("pid", 0)))),
        "now": now,
        "counts": counts,
        "sentence": sentence,
        "broker": site.pulse.broker,
        "lag_age": time.monotonic() - site.pulse.lag_at if site.pulse.lag_at else None,
        "evaluation": next((str(row["evaluation"]) for row in look.rows if row.get("evaluation")), ""),
    }
    return Page("flow.html", values)


def _card(site: Site, look: Look, card: Card, counts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    mine = [row for row in look.rows if row.get("stage") == card.stage]
    versions = sorted({int(row["version"]) for row in mine if str(row.get("version", "")).isdigit()})
    lag = site.pulse.lags.get((card.stage, card.takes)) if not site.pulse.broker else None
    if lag is None and card.stage == "sink" and mine:
        lag = int(look.total("sink", "lag"))
    return {
        "card": card,
        "processes": len(mine),
        "rate": site.pulse.rate(card.stage, "records"),
        "tokens": site.pulse.rate(card.stage, "tokens"),
        "spark": charts.spark(site.pulse.rates(card.stage, "records")),
        "records": look.total(card.stage, "records"),
        "in_flight": look.total(card.stage, "in_flight"),
        "errors": look.total(card.stage, "errors"),
        "lag": lag,
        "versions": versions,
        "waiting": next((str(row["waiting"]) for row in mine if row.get("waiting")), ""),
        "rows": counts.get(card.gives, {}).get("rows"),
        "last": counts.get(card.gives, {}).get("last"),
    }


def _counts(site: Site) -> tuple[dict[str, dict[str, Any]], str]:
    """Rows and newest row of each table; or the sentence why there are none."""
    parts = [f"SELECT '{name}' AS name, count(*) AS rows, max(_time) AS last FROM \"{name}\"" for name in TABLES]  # noqa: S608 - our own names
    try:
        return {row["name"]: row for row in site.tables.kept(" UNION ALL ".join(parts))}, ""
    except Told as error:
        return {}, str(error)


def ledger(site: Site, _asked: Asked) -> Page:
    """Every id that went in: answered, left out for a reason, dead, in flight, or lost."""
    busy = site.books.look(0.5)
    found = site.books.found
    amounts = ("generated", "trained", "stale", "filtered", "failed", "in_flight", "lost")
    values = {"ledger": found, "busy": busy, "error": site.books.error, "amounts": amounts, "books": site.books}
    return Page("ledger.html", values)
