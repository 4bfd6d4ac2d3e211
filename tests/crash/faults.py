"""Faults of the way to the broker (run by `make crash`): it hangs for a minute; it is far and resets.

What a disk can do to tables and checkpoints is tested where these are.
"""

import os
import signal
import time
from pathlib import Path

import pytest
from crashing import PATIENCE_S, holds, running
from proxy import proxied
from test_killed_words import done, prepared

from deploy.feeding import feed_again

TREES, GROUPS = 400, 40
FAR = ("broker.connect_timeout_s=60",)
"""Patience for a far broker in the reading commands, not in what is tested."""


def paused(folder: Path, seconds: float) -> str:
    """The broker stops answering (SIGSTOP) for so long while work flows. Returns all that `factory up` printed."""
    factory = prepared(folder, TREES, GROUPS)
    with running(factory, 20):
        factory.until(lambda: factory.count("traces") > 0, PATIENCE_S, "the first traces")
        pid = factory.broker()["pid"]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
        factory.until(lambda: done(factory), PATIENCE_S, "answers to everything")
        assert factory.broker()["pid"] == pid, "the broker that hung is the one that goes on"
        told = factory.stop()
    holds(factory)
    return told


def far(folder: Path, latency_s: float, resets: int, between_s: float, pause_s: float) -> int:
    """Everything goes through a slow proxy that cuts all connections now and then. Returns how many it cut.

    At the end the broker behind it also stops answering, for `pause_s`.
    """
    with proxied(folder / "broker.log", latency_s) as proxy:
        factory = prepared(folder, TREES, GROUPS, *FAR, f'broker.bootstrap="127.0.0.1:{proxy.port}"')
        feed_again(factory.settings)
        with running(factory, 20):
            for _ in range(resets):
                factory.until(lambda: proxy.connections > 0, PATIENCE_S, "a connection")
                proxy.reset()
                time.sleep(between_s)
            proxy.broker.send_signal(signal.SIGSTOP)
            time.sleep(pause_s)
            proxy.broker.send_signal(signal.SIGCONT)
            factory.until(lambda: done(factory), PATIENCE_S, "answers to everything")
            factory.stop()
            holds(factory)
        return proxy.cut


@pytest.mark.timeout(1800)
def test_a_broker_that_hangs_for_a_minute(tmp_path: Path) -> None:
    assert "the broker does not answer" in paused(tmp_path, 60.0)


@pytest.mark.timeout(1800)
def test_a_far_broker_whose_connections_are_reset(tmp_path: Path) -> None:
    cut = far(tmp_path, 0.1, resets=10, between_s=3.0, pause_s=8.0)
    print(cut, "connections cut")
    assert cut > 0
