"""Prometheus: what the stages of this process count, and vLLM's own metrics, at http://127.0.0.1:PORT/metrics.

The numbers are those of status.py, which the panel, `factory top` and the studio show as well: a scrape reads them, and
nothing is counted twice. Where the process listens stands in <data>/metrics/STAGE-HOST-PID.json, in the form in which
Prometheus looks for what it scrapes (file_sd_configs), and in the status file.
"""

import contextlib
import errno
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from prometheus_client import REGISTRY, start_http_server
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from processors import kafka
from processors.status import BOUNDS_S, Status, alive
from schemas.load import BadSettings
from schemas.settings import Settings
from schemas.topics import TOPICS

LAG_AGE_S = 60.0
"""A lag that was measured longer ago is not told any more, where no scrapes are farther apart (Exporter)."""


class Number(NamedTuple):
    """One number of a stage: `factory_<stage>_<name>`, and for a counter `_total` behind it."""

    name: str
    kind: Literal["counter", "gauge"]
    field: str
    """Of Status.read()."""
    means: str


NUMBERS = (
    Number("records", "counter", "records", "messages (sft and rl: steps, evaluate: versions) that were done"),
    Number("errors", "counter", "errors", "messages that became dead letters, and other failures"),
    Number("retries", "counter", "retries", "attempts after a transient error"),
    Number("tokens", "counter", "tokens", "tokens sampled by this process's engine (sft and rl: trained)"),
    Number("in_flight", "gauge", "in_flight", "units in hand; what a unit is stands at duration_seconds"),
    Number("lag", "gauge", "lag", "messages that wait for the stage's group, wherever its processes run"),
    Number("weights_version", "gauge", "version", "version of the weights in use"),
    Number("step", "gauge", "step", "optimizer steps done"),
    Number("loss", "gauge", "loss", "loss of the last step"),
    Number("pass_at_1", "gauge", "pass_at_1", "pass@1 of the last version that was evaluated"),
    Number("start_time_seconds", "gauge", "started", "when the stage was started, in s since the epoch"),
    Number("progress_time_seconds", "gauge", "progress", "when the last record was done, in s since the epoch"),
)
DURATION = (
    "seconds that a unit was in hand: a message; produce, prompts: a batch; sink: a commit; sft, rl: a step; "
    "evaluate: a version"
)


@contextlib.contextmanager
def serving(settings: Settings, statuses: Sequence[Status]) -> Iterator[str]:
    """Serve the numbers of this process's stages until the context is left.

    Args:
        settings: [metrics]; the data directory; the broker, which is asked for the lag.
        statuses: of the stages that the process hosts; none = its memory and processor time alone, told in no file.

    Yields:
        The address, '' where metrics.serve is off.

    Raises:
        BadSettings: metrics.host and metrics.port cannot be listened on.
    """
    if not settings.metrics.serve:
        yield ""
        return
    server, thread = _listen(settings)
    exporter = Exporter(settings, statuses)
    REGISTRY.register(exporter)
    target = f"{_name(settings.metrics.host)}:{server.server_port}"
    announcement = _announce(settings, statuses, target) if statuses else None
    for status in statuses:
        status.set(metrics=f"http://{target}/metrics")
    try:
        yield f"http://{target}/metrics"
    finally:
        if announcement:
            announcement.unlink(missing_ok=True)
        REGISTRY.unregister(exporter)
        server.shutdown()
        server.server_close()
        thread.join(5)
        exporter.close()


def numbers(status: Status) -> Iterator[Metric]:
    """All that one stage tells."""
    row, prefix = status.read(), f"factory_{status.stage}"
    for number in NUMBERS:
        if number.field == "lag" and row.get("idle"):  # nothing waits for a stage that is not meant to work
            continue
        value = row.get(number.field, 0 if number.kind == "counter" else None)
        if isinstance(value, int | float):  # a lag is None while nobody knows it
            family = CounterMetricFamily if number.kind == "counter" else GaugeMetricFamily
            yield family(f"{prefix}_{number.name}", number.means, value=value)
    took, below, buckets = status.durations(), 0, []
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), took.counts, strict=True):
        below += count
        buckets.append((bound, float(below)))
    yield HistogramMetricFamily(f"{prefix}_duration_seconds", DURATION, buckets=buckets, sum_value=took.seconds)


class Exporter(Collector):
    """What Prometheus asks. Each scrape makes a thread measure the lag, which the next one tells.

    So nobody asks the broker where nobody scrapes, and a broker that is slow does not make a scrape late. A lag is told
    until it is LAG_AGE_S old, or twice the time between the last two scrapes where that is more.
    """

    def __init__(self, settings: Settings, statuses: Sequence[Status]) -> None:
        self._settings, self._statuses = settings, statuses
        self._asked, self._closing = threading.Event(), threading.Event()
        self._measured = self._scraped = time.monotonic()
        consumed = {s.stage: [t.name for t in TOPICS if s.stage in t.consumers] for s in statuses}
        self._groups = [(status, consumed[status.stage]) for status in statuses if consumed[status.stage]]
        self._thread = threading.Thread(target=self._follow, name="metrics-lag", daemon=True)
        self._thread.start()

    def describe(self) -> Iterator[Metric]:
        """The names, without anything being measured."""
        for status in self._statuses:
            yield from numbers(status)

    def collect(self) -> Iterator[Metric]:
        """All numbers of all stages."""
        now = time.monotonic()
        gap, self._scraped = now - self._scraped, now
        if now - self._measured > max(LAG_AGE_S, 2 * gap):
            self._tell({})
        self._asked.set()
        yield from self.describe()

    def close(self) -> None:
        """Stop measuring."""
        self._closing.set()
        self._asked.set()
        self._thread.join(5)

    def _follow(self) -> None:
        while self._asked.wait() and not self._closing.is_set():
            self._asked.clear()
            lags: dict[str, int] = {}
            with contextlib.suppress(Exception):  # a thread's edge: whatever it is, the lag is not known now
                for status, topics in self._groups:
                    lags[status.stage] = sum(kafka.lag(self._settings, status.stage, topic) for topic in topics)
            self._tell(lags)

    def _tell(self, lags: dict[str, int]) -> None:
        for status, _ in self._groups:
            status.set(lag=lags.get(status.stage))
        self._measured = time.monotonic()


def _listen(settings: Settings) -> tuple[Any, threading.Thread]:
    host, port = settings.metrics.host, settings.metrics.port
    try:
        return start_http_server(port, host)
    except OSError as error:
        advice = {
            errno.EADDRINUSE: "the port is in use: choose another one, or 0 for a free one",
            errno.EACCES: "this user may not listen there: choose a port above 1023, or 0 for a free one",
        }.get(error.errno or 0, f"{error.strerror or error}: set metrics.host to an address of this machine")
        raise BadSettings(f"metrics.host = {host}, metrics.port = {port}: {advice}") from error


def _name(host: str) -> str:
    """The host as others reach it: every address is told by the machine's name."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - asked for by the settings
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _announce(settings: Settings, statuses: Sequence[Status], target: str) -> Path:
    """Write the file in which Prometheus finds this process, and remove those of processes that were killed."""
    folder = Path(settings.factory.data) / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"*-{socket.gethostname()}-*.json"):
        pid = old.stem.rpartition("-")[2]
        if pid.isdigit() and not alive(int(pid)):
            old.unlink(missing_ok=True)
    found: list[dict[str, Any]] = [
        {"targets": [target], "labels": {"stages": ",".join(status.stage for status in statuses)}}
    ]
    if settings.engine.url and (server := urlsplit(settings.engine.url)).netloc:
        labels = {"stages": "vllm serve", "__scheme__": server.scheme}
        found.append({"targets": [server.netloc.rpartition("@")[2]], "labels": labels})
    path = folder / statuses[0].path.name
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(found), "utf-8")
    temporary.replace(path)
    return path
