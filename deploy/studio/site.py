"""What every page of the studio works with: the request as it was asked, the answer it gives, and the site itself.

A page is a plain function from the site and a request to a Page; it knows nothing of HTTP. All its state is in the
request's address, so every view is a link.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
from tokenizers import Tokenizer

from deploy.studio.books import Books
from deploy.studio.pulse import Pulse
from deploy.studio.tables import Tables
from processors.dataset import Datasets
from schemas.errors import Told
from schemas.settings import Settings

PER_PAGE = 50
MEMORY_MB = 1024
"""What the questions of one data directory may use together (or sql.memory_mb): a factory runs beside."""


class NotThere(Told, LookupError):
    """No such thing; the text says what was looked for."""


class Asked(msgspec.Struct, frozen=True):
    """A request: its path's names and its address's parameters."""

    path: str
    names: Mapping[str, str]
    params: list[tuple[str, str]]

    def get(self, name: str, default: str = "") -> str:
        """The first value of a parameter, without spaces around it."""
        return next((value.strip() for key, value in self.params if key == name), default)

    def all(self, name: str) -> list[str]:
        """Every value of a parameter."""
        return [value for key, value in self.params if key == name and value]

    def number(self, name: str, default: int = 0) -> int:
        """A parameter that is a whole number; what is none counts as the default."""
        text = self.get(name)
        return int(text) if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 10 else default

    def link(self, **changes: object) -> str:
        """This address with some parameters changed; None or '' takes one out."""
        kept = [(key, value) for key, value in self.params if key not in changes and value != ""]
        added = [(key, str(value)) for key, value in changes.items() if value not in (None, "")]
        query = urlencode(kept + added)
        return self.path + ("?" + query if query else "")


class Page(msgspec.Struct, frozen=True):
    """What a page answers: a template and its values."""

    template: str
    values: dict[str, Any]


class Site:
    """The studio of one data directory.

    Args:
        settings: the data directory, and where its broker is.
        beside: further data directories, whose runs can be laid over this one's.
    """

    def __init__(self, settings: Settings, beside: Mapping[str, Tables] | None = None) -> None:
        self.settings = settings
        self.data = Path(settings.factory.data)
        self.tables = Tables(self.data, memory_mb(settings), Datasets.of(settings))
        self.beside = dict(beside or {})
        self.pulse = Pulse(settings)
        self.books = Books(settings, self.tables)
        self.token = secrets.token_urlsafe(24)
        """Stands in every form that changes something; another site's page cannot know it."""
        self.tokenizers: dict[Path, Tokenizer] = {}
        """Those that were used last, by their files."""


def memory_mb(settings: Settings) -> int:
    """What the questions of one data directory may use."""
    return min(MEMORY_MB, settings.sql.memory_mb)


def pages(asked: Asked, found: list[Any]) -> dict[str, Any]:
    """The links to the pages before and after; `found` holds one row more than a page where there is a next one."""
    at = max(0, asked.number("page"))
    return {
        "rows": found[:PER_PAGE],
        "first": at * PER_PAGE + 1,
        "before": asked.link(page=at - 1 if at > 1 else None) if at else "",
        "after": asked.link(page=at + 1) if len(found) > PER_PAGE else "",
    }


def window(asked: Asked) -> str:
    """The LIMIT of a list's question: a page and one row more."""
    return f"LIMIT {PER_PAGE + 1} OFFSET {max(0, asked.number('page')) * PER_PAGE}"
