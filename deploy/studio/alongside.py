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
def alongside(settings: Settings, say: Callable[[str], object], port: int = 0) -> Iterator[None]:
    """Serve the factory's data directory until the context is left; a studio that does not start harms nothing.

    Args:
        settings: the factory's.
        say: is given, from a thread, the line with the address once it answers, and one when it ends by itself.
        port: 0 = a free one.
    """
    data = Path(settings.factory.data)
    handed, log = data / "state" / "studio.json", data / "logs" / "studio.log"
    leaving = threading.Event()
    try:
        child = _start(settings, port, handed, log)
    except OSError as error:
        say(f"the studio could not be started: {error}")
        child = None
    else:
        threading.Thread(target=_pass_on, args=(child, say, log, leaving), name="studio-address", daemon=True).start()
    try:
        yield
    finally:
        leaving.set()
        if child is not None:
            _end(child)
        with contextlib.suppress(OSError):
            handed.unlink(missing_ok=True)


def _start(settings: Settings, port: int, handed: Path, log: Path) -> "subprocess.Popen[str]":
    for path in (handed, log):
        path.parent.mkdir(parents=True, exist_ok=True)
    hand_over(settings, handed)
    command = [sys.executable, "-m", "deploy.cli", "studio", "--settings", str(handed), "--port", str(port)]
    with log.open("ab") as errors:
        return subprocess.Popen(
            [*command, "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )


def _end(child: "subprocess.Popen[str]") -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _pass_on(child: "subprocess.Popen[str]", say: Callable[[str], object], log: Path, leaving: threading.Event) -> None:
    assert child.stdout is not None
    with contextlib.suppress(ValueError):  # closed while it was read: the factory has ended
        for line in child.stdout:
            if line.startswith("studio: http"):
                say(line.partition("  (")[0].strip())
    code = child.wait()
    if not leaving.is_set():
        say(f"the studio ended (code {code}): see {log}")
