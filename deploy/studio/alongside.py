"""The studio of a running factory: a process of its own, so that nothing asked in it can slow or end the supervisor."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.local import hand_over
from schemas.settings import Settings

STOP_S = 5.0


@contextlib.contextmanager
def alongside(settings: Settings, say: Callable[[str], object]) -> Iterator[None]:
    """Serve the factory's data directory until the context is left; a studio that does not start harms nothing.

    Args:
        settings: the factory's.
        say: is given the line with the address once it answers, from a thread.
    """
    data = Path(settings.factory.data)
    handed, log = data / "state" / "studio.json", data / "logs" / "studio.log"
    hand_over(settings, handed)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "deploy.cli", "studio", "--settings", str(handed), "--parent", str(os.getpid())]
    with log.open("ab") as errors:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    threading.Thread(target=_pass_on, args=(child, say), name="studio-address", daemon=True).start()
    try:
        yield
    finally:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        with contextlib.suppress(OSError):
            handed.unlink(missing_ok=True)


def _pass_on(child: "subprocess.Popen[str]", say: Callable[[str], object]) -> None:
    assert child.stdout is not None
    with contextlib.suppress(ValueError):  # closed while it was read: the factory has ended
        for line in child.stdout:
            if line.startswith("studio: http"):
                say(line.partition("  (")[0].strip())
