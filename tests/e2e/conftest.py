"""One real run of the factory for all modules of this folder that look at what one leaves: it costs minutes."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest
from commands import FACTORY, ask, flags, goes_round
from prometheus_client.parser import text_string_to_metric_families


def look_at(data: Path) -> None:
    """Scrape every process as Prometheus does, twice (the second time the lag is known), and ask `factory top`."""
    found: dict[str, float] = {}
    for wait in (15, 0):
        for file in (data / "metrics").glob("*.json"):
            for group in json.loads(file.read_text("utf-8")):
                with urlopen(f"http://{group['targets'][0]}/metrics", timeout=30) as answer:
                    families = text_string_to_metric_families(answer.read().decode())
                    found |= {sample.name: sample.value for family in families for sample in family.samples}
        time.sleep(wait)
    (data.parent / "scraped.json").write_text(json.dumps(found), "utf-8")
    (data.parent / "top.json").write_text(json.dumps(ask(data, "top")), "utf-8")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, wipe_cluster: Callable[[], None]) -> Path:
    """A data directory after `factory up` went all the way round and was stopped by Ctrl-C."""
    data = tmp_path_factory.mktemp("factory") / "data"
    wipe_cluster()
    log = data.parent / "up.log"
    with log.open("wb") as out:
        child = subprocess.Popen([*FACTORY, "up", *flags(data), "--for", "12m"], stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 700
            while time.monotonic() < deadline and child.poll() is None and not goes_round(data):
                time.sleep(5)
            look_at(data)
            child.send_signal(signal.SIGINT)
            code = child.wait(180)
        finally:
            child.kill()
    text = log.read_text("utf-8")
    assert code == 0, text[-4000:]
    assert "factory sql" in text, "the summary offers queries to try"
    return data
