"""`factory ledger --watch`, and the ledger's last line for the panel of `factory up`: the books, looked at again."""

import contextlib
import threading
import time

import msgspec
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from deploy import ledger, ledger_show
from deploy.output import console
from processors.kafka import BrokerMissing
from schemas.settings import Settings

EVERY_S = 5.0
PANEL_EVERY_S = 30.0
"""A look costs about a third of a second of processor time, which the factory wants for itself."""


def watch(settings: Settings, *, as_json: bool) -> bool:
    """Show the ledger again and again until Ctrl-C: in place on a terminal, one after the other in a pipe.

    Args:
        settings: the data directory and the broker.
        as_json: a line of JSON a look.

    Returns:
        Whether it closed when it was looked at last.

    Raises:
        NoDatasets: when there are no tables.
    """
    out = console()
    screen = Live(console=out, auto_refresh=False) if out.is_terminal and not as_json else None
    closes = True
    with contextlib.suppress(KeyboardInterrupt), screen or contextlib.nullcontext():
        while True:
            began = time.monotonic()
            shown: RenderableType
            try:
                books = ledger.compute(settings)
                closes = books.closes
                shown = msgspec.json.encode(books).decode() if as_json else ledger_show.render(books)
            except BrokerMissing as error:  # it may come back
                shown = msgspec.json.encode({"error": str(error)}).decode() if as_json else Text(str(error))
            if as_json:
                print(shown, flush=True)
            elif screen:
                screen.update(shown, refresh=True)
            else:
                out.print(shown)
            time.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))
    return closes


class LastLine:
    """The ledger's last line as it was a moment ago, computed by a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self.text = Text("")
        self._settings = settings
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="ledger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._closing.set()
        self._thread.join(30)

    def _follow(self) -> None:
        while not self._closing.wait(PANEL_EVERY_S):
            try:
                self.text = Text("ledger: ").append_text(ledger_show.last_line(ledger.compute(self._settings)))
            except Exception as error:  # noqa: BLE001 - the process edge: a panel says what happened and goes on
                self.text = Text(f"ledger: not known now ({type(error).__name__})", style="dim")
