"""`factory top`: a running factory in the terminal, with the numbers of the panel of `factory up`, from anywhere.

It only looks: it starts nothing, stops nothing and removes nothing. Processes that do not share the data directory are
seen in the lag alone.
"""

import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Footer, Static

from deploy.ledger_watch import LastLine
from deploy.numbers import COLUMNS, Look, Numbers, StageNow
from deploy.output import console, duration
from deploy.tabular import visible
from processors import status
from schemas.errors import Told
from schemas.settings import Settings

EVERY_S = 1.0
RATE_OVER_S = 2.0
"""Between the two looks of which one answer (no terminal, --once, --json) is made."""
LAG_WAIT_S = 20.0
STAGES = ("stage", "processes", *COLUMNS, "waits")
PROCESSES = ("stage", "host", "pid", "up for", "last record", "metrics")
LEFT = {"stage", "host", "weights", "waits", "metrics"}


class NotRunning(Told, RuntimeError):
    """There is nothing to look at; the text says what to do."""


def check(settings: Settings) -> None:
    """Refuse a directory in which nothing runs, unless a broker is named whose groups can be looked at.

    Raises:
        NotRunning: naming it.
    """
    data = settings.factory.data
    if not settings.broker.bootstrap and not status.read_all(Path(data), clean=False):
        raise NotRunning(
            f"no process of a factory runs in {data}/: start one with `factory up --data {data}`, or "
            "name its directory with --data"
        )


def once(settings: Settings) -> Look:
    """One look, with rates over two seconds."""
    numbers = Numbers(settings)
    try:
        numbers.look()
        began = time.monotonic()
        numbers.lags.wait(LAG_WAIT_S)
        time.sleep(max(0.0, RATE_OVER_S - (time.monotonic() - began)))
        return numbers.look()
    finally:
        numbers.close()


def render(look: Look, data: str) -> Group:
    """One look for people."""
    return Group(
        title(look, data),
        _drawn(STAGES, [stage_cells(now) for now in look.stages.values() if now.processes or now.lag]),
        _drawn(PROCESSES, [process_cells(row, look.time) for row in look.processes]),
        Text(visible(look.evaluation)),
    )


def title(look: Look, data: str) -> Text:
    """Which factory it is, and what is wrong with looking at it."""
    count = len({(row.get("host"), row["pid"]) for row in look.processes})
    running = f"{count} process{'es' * (count > 1)}" if count else "no process runs here"
    text = Text(f"astro-factory  ·  {visible(data)}/  ·  {running}", style="bold")
    if look.broker:
        text.append(f"  ·  no lag: {visible(look.broker)}", style="red")
    return text


def stage_cells(now: StageNow) -> list[Text]:
    """A cell a column of STAGES."""
    cells = [Text(cell) for cell in (now.stage, str(now.processes), *now.cells(), visible(now.waiting))]
    if now.errors:
        cells[STAGES.index("errors")].stylize("red")
    if not now.processes:
        for cell in cells:
            cell.stylize("dim")
    return _aligned(STAGES, cells)


def process_cells(row: dict[str, Any], now: float) -> list[Text]:
    """A cell a column of PROCESSES."""
    up, idle = (duration(now - float(row.get(field) or now)) for field in ("started", "progress"))
    texts = (
        row.get("stage", ""),
        row.get("host", ""),
        row.get("pid", ""),
        up,
        f"{idle} ago" if row.get("records") else "none",
        row.get("metrics", ""),
    )
    return _aligned(PROCESSES, [Text(visible(str(text))) for text in texts])


def _aligned(columns: tuple[str, ...], cells: list[Text]) -> list[Text]:
    for name, cell in zip(columns, cells, strict=True):
        cell.justify = "left" if name in LEFT else "right"
    return cells


def _drawn(columns: tuple[str, ...], rows: list[list[Text]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in LEFT else "right")
    for row in rows:
        table.add_row(*row)
    return table


class Top(App[None]):
    """The screen: the stages, their processes, the last evaluation, the ledger's last line.

    Args:
        settings: the data directory and the broker.
    """

    CSS = """
    Screen { layout: vertical; }
    #title { height: auto; }
    #stages { height: auto; max-height: 60%; }
    #processes { height: 1fr; margin-top: 1; }
    #said { height: auto; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("q", "quit", "Quit"), ("tab", "focus_next", "Other table")]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._data = settings.factory.data
        self._numbers = Numbers(settings)
        self._ledger = LastLine(settings)

    def compose(self) -> ComposeResult:
        """Top to bottom."""
        yield Static(id="title")
        yield DataTable(id="stages", cursor_type="row")
        yield DataTable(id="processes", cursor_type="row")
        yield Static(id="said")
        yield Footer()

    def on_mount(self) -> None:
        """Draw now, and every second."""
        for name, columns in (("#stages", STAGES), ("#processes", PROCESSES)):
            table = self.query_one(name, DataTable)
            for column in columns:
                table.add_column(Text(column, justify="left" if column in LEFT else "right"), key=column)
        self.draw()
        self.set_interval(EVERY_S, self.draw)

    def draw(self) -> None:
        """Look, and show it."""
        look = self._numbers.look()
        self.query_one("#title", Static).update(title(look, self._data))
        _fill(self.query_one("#stages", DataTable), STAGES, {n.stage: stage_cells(n) for n in look.stages.values()})
        processes = {
            "-".join(str(row.get(name)) for name in ("stage", "host", "pid")): process_cells(row, look.time)
            for row in look.processes
        }
        _fill(self.query_one("#processes", DataTable), PROCESSES, processes)
        said = [Text(visible(look.evaluation)), self._ledger.text]
        self.query_one("#said", Static).update(Text("\n").join(text for text in said if text))

    def close(self) -> None:
        """Stop looking."""
        self._numbers.close()
        self._ledger.close()


def _fill(table: "DataTable[Text]", columns: tuple[str, ...], rows: dict[str, list[Text]]) -> None:
    """Change only what is new, so that the cursor and the place that is scrolled to stay."""
    for key in [str(key.value) for key in table.rows if key.value not in rows]:
        table.remove_row(key)
    for name, cells in rows.items():
        if name not in table.rows:
            table.add_row(*cells, key=name)
            continue
        for column, cell, old in zip(columns, cells, table.get_row(name), strict=True):
            if cell != old:
                table.update_cell(name, column, cell, update_width=True)


def run(settings: Settings, *, one: bool) -> None:
    """Show it until `q`; where there is no terminal, or with `one`, print one look.

    Raises:
        NotRunning: there is nothing to look at.
    """
    check(settings)
    if one or not (sys.stdout.isatty() and sys.stdin.isatty()):
        console().print(render(once(settings), settings.factory.data))
        return
    app = Top(settings)
    try:
        app.run()
    finally:
        app.close()
