"""SFT as a process of its own, killed with SIGKILL in the middle: the curve has no gap and no second truth."""

import os
import signal
import subprocess
import sys

import msgspec
import pytest
from running import until
from test_sft import FLAGS, curve, example, handed_over, plain  # noqa: F401 - a fixture

MAIN = """
import sys, msgspec
from pathlib import Path
from schemas.settings import Settings
from processors.status import Status
from trainers import sft
settings = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Settings)
sft.run(settings, Status(settings, "sft"))
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_bit_for_bit(make_factory, plain, tmp_path) -> None:  # noqa: F811
    factory = make_factory(*FLAGS)
    factory.table(*[example(i) for i in range(40)])
    (tmp_path / "settings.json").write_bytes(msgspec.json.encode(factory.settings))

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

    def start() -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", MAIN, str(tmp_path / "settings.json")], env=environment)

    first = start()
    until(lambda: len(curve(factory)) >= 5 or first.poll() is not None, 120)
    first.send_signal(signal.SIGKILL)
    assert first.wait(10) == -signal.SIGKILL
    second = start()
    try:
        until(lambda: handed_over(factory) or second.poll() is not None, 120)
        second.terminate()
        assert second.wait(60) == 0
    finally:
        second.kill()
    assert curve(factory) == plain[0]
