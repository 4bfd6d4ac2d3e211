"""The live panel of `factory up`: each stage's rate, lag and errors, the weights in each worker, the last evaluation.

Below them the ledger's last line, half a minute old at most. On a terminal it redraws in place; elsewhere (a log, a
pipe) it prints one line every ten seconds.
"""

import time
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deploy.ledger_watch import LastLine
from deploy.local import Factory
from deploy.numbers import COLUMNS, Look, Numbers
from deploy.output import console
from deploy.tabular import visible
from schemas.settings import Settings

LINE_EVERY_S = 10.0


class Panel:
    """Draws a Factory; call it at every tick."""

    def __init__(self, settings: Settings, duration: float | None) -> None:
        self.console = console()
        self._numbers = Numbers(settings)
        self._ledger = LastLine(settings)
        self._duration = duration
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._printed = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._numbers.close()
        self._ledger.close()
        if self._live:
            self._live.stop()

    def tick(self, factory: Factory) -> None:
        """Redraw from the status files."""
        look = self._numbers.look(clean=True)
        if self._live:
            self._live.update(self._draw(factory, look), refresh=True)
        elif time.monotonic() - self._printed >= LINE_EVERY_S:
            self._printed = time.monotonic()
            self.console.print(self._line(factory, look), soft_wrap=True, highlight=False)

    def _draw(self, factory: Factory, look: Look) -> Group:
        table = Table(expand=True, box=None, pad_edge=False)
        for name in ("stage", "state", *COLUMNS, "waits"):
            table.add_column(name, justify="left" if name in {"stage", "state", "weights", "waits"} else "right")
        for process in factory.processes:
            state = process.state + (f" ({process.restarts} restarts)" if process.restarts else "")
            for stage in process.spec.stages:
                now = look.stages[stage]
                cells = [Text(cell) for cell in now.cells()]
                if now.errors:
                    cells[COLUMNS.index("errors")].stylize("red")
                table.add_row(stage, state, *cells, Text(visible(now.waiting)))
        return Group(self._title(factory), table, Text(look.evaluation), self._ledger.text)

    def _title(self, factory: Factory) -> Text:
        at = time.monotonic() - factory.started
        left = f" of {self._duration:.0f}" if self._duration else ""
        broker = f"embedded broker {factory.broker.rss_mb():.0f} MB" if factory.broker else "cluster"
        broker += f", started anew {factory.recycled} time(s)" if factory.recycled else ""
        broker += ", does not answer" if self._numbers.lags.silent else ""
        state = "stopping: finishing what is in hand" if factory.stopping else "Ctrl-C stops gracefully"
        return Text(f"astro-factory  {at:.0f}{left} s  ·  {broker}  ·  {factory.data}/  ·  {state}", style="bold")

    def _line(self, factory: Factory, look: Look) -> str:
        at = time.monotonic() - factory.started
        parts = [f"{now.stage} {now.records}" for now in look.stages.values() if now.records]
        tokens = sum(look.stages[stage].token_rate for stage in ("search", "sample", "evaluate"))
        errors = sum(now.errors for now in look.stages.values())
        waits = [f"{now.stage} waits: {visible(now.waiting)}" for now in look.stages.values() if now.waiting]
        down = [p.spec.name for p in factory.processes if p.state == "backoff"]
        text = f"[{at:5.0f} s] {' · '.join(parts) or 'starting'} · {tokens:.0f} tok/s"
        text += f" · errors {errors} (factory dlq list)" if errors else ""
        text += f" · {', '.join(waits)}" if waits else ""
        text += f" · restarting {', '.join(down)}" if down else ""
        text += f" · broker started anew {factory.recycled} time(s)" if factory.recycled else ""
        text += " · the broker does not answer" if self._numbers.lags.silent else ""
        return " · ".join(part for part in (text, look.evaluation, self._ledger.text.plain) if part)
