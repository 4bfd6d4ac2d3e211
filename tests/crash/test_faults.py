"""A broker that is far, resets its connections and hangs for a while: work goes on by itself and nothing is lost.

`make crash` has more and longer ones (faults.py).
"""

from pathlib import Path

import faults
import pytest


@pytest.mark.slow
def test_a_far_broker_that_resets_connections_and_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "TREES", 24)
    assert faults.far(tmp_path, 0.1, resets=2, between_s=2.0, pause_s=8.0) > 0
