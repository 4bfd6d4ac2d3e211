"""The live panel of `factory up`: each stage's rate, lag and errors, the weights in each worker, the last evaluation.

Below them the ledger's last line, half a minute old at most. On a terminal it redraws in place; elsewhere (a log, a
pipe) it prints one line every ten seconds.
"""

import threading
import time
from typing import Any, Self

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deploy.ledger_watch import LastLine
from deploy.local import Factory
from deploy.output import console
from deploy.stages import STAGES
from processors import kafka, status
from schemas.settings import Settings
from schemas.topics import TOPICS

LAG_EVERY_S = 5.0
LINE_EVERY_S = 10.0
WINDOW_S = 15.0


class Lags:
    """The lag of every consumer group, asked for by a thread of its own so that a slow broker never stops the panel."""

    def __init__(self, settings: Settings) -> None:
        self.by_stage: dict[str, int] = {}
        self.silent = False
        """Whether the broker answered once and did not the last time."""
        self._settings = settings
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="lags", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop asking."""
        self._closing.set()
        self._thread.join(30)

    def _follow(self) -> None:
        while not self._closing.wait(LAG_EVERY_S):
            try:
                lags: dict[str, int] = {}
                for topic in TOPICS:
                    for group in topic.consumers:
                        lags[group] = lags.get(group, 0) + kafka.lag(self._settings, group, topic.name)
                self.by_stage, self.silent = lags, False
            except Exception:  # noqa: BLE001 - a thread's edge: whatever it is, the numbers are not to be had
                self.silent = self.silent or bool(self.by_stage)  # before its first answer it is only starting
                self.by_stage = {}


class Panel:
    """Draws a Factory; call it at every tick."""

    def __init__(self, settings: Settings, duration: float | None) -> None:
        self.console = console()
        self._lags = Lags(settings)
        self._ledger = LastLine(settings)
        self._duration = duration
        self._history: list[tuple[float, dict[str, dict[str, float]]]] = []
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._printed = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._lags.close()
        self._ledger.close()
        if self._live:
            self._live.stop()

    def tick(self, factory: Factory) -> None:
        """Redraw from the status files."""
        rows = status.read_all(factory.data)
        now = time.monotonic()
        totals = {stage: _total(rows, stage) for stage in STAGES}
        self._history = [(at, old) for at, old in self._history if now - at < WINDOW_S] + [(now, totals)]
        if self._live:
            self._live.update(self._draw(factory, rows, totals), refresh=True)
        elif now - self._printed >= LINE_EVERY_S:
            self._printed = now
            self.console.print(self._line(factory, rows, totals), soft_wrap=True, highlight=False)

    def rate(self, stage: str, field: str) -> float:
        """Units a second over the last seconds."""
        (first, old), (last, new) = self._history[0], self._history[-1]
        return max(new[stage][field] - old[stage][field], 0.0) / max(last - first, 1.0)

    def _draw(self, factory: Factory, rows: list[dict[str, Any]], totals: dict[str, dict[str, float]]) -> Group:
        table = Table(expand=True, box=None, pad_edge=False)
        for name in ("stage", "state", "records", "rate/s", "lag", "in hand", "errors", "tok/s", "weights"):
            table.add_column(name, justify="left" if name in {"stage", "state", "weights"} else "right")
        for process in factory.processes:
            for stage in process.spec.stages:
                t = totals[stage]
                state = process.state + (f" ({process.restarts} restarts)" if process.restarts else "")
                table.add_row(
                    stage, state, f"{t['records']:.0f}", f"{self.rate(stage, 'records'):.1f}",
                    str(self._lags.by_stage.get(stage, "")), f"{t['in_flight']:.0f}",
                    Text(f"{t['errors']:.0f}", style="red" if t["errors"] else ""),
                    f"{self.rate(stage, 'tokens'):.0f}" if t["tokens"] else "", _version(rows, stage),
                )  # fmt: skip
        return Group(self._title(factory), table, Text(_evaluation(rows)), self._ledger.text)

    def _title(self, factory: Factory) -> Text:
        at = time.monotonic() - factory.started
        left = f" of {self._duration:.0f}" if self._duration else ""
        broker = f"embedded broker {factory.broker.rss_mb():.0f} MB" if factory.broker else "cluster"
        broker += f", started anew {factory.recycled} time(s)" if factory.recycled else ""
        broker += ", does not answer" if self._lags.silent else ""
        state = "stopping: finishing what is in hand" if factory.stopping else "Ctrl-C stops gracefully"
        return Text(f"astro-factory  {at:.0f}{left} s  ·  {broker}  ·  {factory.data}/  ·  {state}", style="bold")

    def _line(self, factory: Factory, rows: list[dict[str, Any]], totals: dict[str, dict[str, float]]) -> str:
        at = time.monotonic() - factory.started
        parts = [f"{stage} {totals[stage]['records']:.0f}" for stage in STAGES if totals[stage]["records"]]
        tokens = sum(self.rate(stage, "tokens") for stage in ("search", "sample", "evaluate"))
        errors = sum(t["errors"] for t in totals.values())
        down = [p.spec.name for p in factory.processes if p.state == "backoff"]
        text = f"[{at:5.0f} s] {' · '.join(parts) or 'starting'} · {tokens:.0f} tok/s"
        text += f" · errors {errors:.0f}" if errors else ""
        text += f" · restarting {', '.join(down)}" if down else ""
        text += f" · broker started anew {factory.recycled} time(s)" if factory.recycled else ""
        text += " · the broker does not answer" if self._lags.silent else ""
        return " · ".join(part for part in (text, _evaluation(rows), self._ledger.text.plain) if part)


def _total(rows: list[dict[str, Any]], stage: str) -> dict[str, float]:
    mine = [row for row in rows if row.get("stage") == stage]
    return {f: sum(float(row.get(f) or 0) for row in mine) for f in ("records", "errors", "in_flight", "tokens")}


def _version(rows: list[dict[str, Any]], stage: str) -> str:
    versions = sorted({str(row["version"]) for row in rows if row.get("stage") == stage and "version" in row})
    return ", ".join(f"v{version}" for version in versions)


def _evaluation(rows: list[dict[str, Any]]) -> str:
    return next((str(row["evaluation"]) for row in rows if row.get("evaluation")), "")
