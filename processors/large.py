"""A message above the broker's size limit travels as a file and a small record that names it by its sha256.

The file lies in <data>/large, so stages on several machines need the data directory in common for such messages. It
stays until a clearing (deploy/leftovers.py) finds that its message is in its table and every stage has passed it. With
factory.store it lies on the store, in large/, and stays there. Nobody but this module knows the difference: what it
hands on are the message's own bytes, so that shas, ids and rows are the same whichever way a message came.
"""

import hashlib
import os
from pathlib import Path

import msgspec
import zstandard

from schemas.codec import BadMessage, encode
from schemas.messages import DeadLetter, Message, Reference
from schemas.settings import Settings
from schemas.topics import message_id

OVERHEAD_BYTES = 4096
"""Of the size limit: for the record's key and headers, and the batch around it."""
_MARK = encode(Reference(kind="", id="", sha256="", bytes=0)).partition(b",")[0]
"""What the bytes of every reference begin with, and no message's."""


class NotReadable(RuntimeError):
    """The disk failed: nothing is said about the message, so the process should end and read it again."""


def packed(settings: Settings, message: Message) -> bytes:
    """What to send for a message: its bytes, or those of a reference once its file is on the disk."""
    data = encode(message)
    if len(data) + OVERHEAD_BYTES <= settings.broker.message_max_bytes:
        return data
    sha = hashlib.sha256(data).hexdigest()
    _write(settings, sha, data)
    return encode(Reference(kind=type(message).__name__, id=message_id(message), sha256=sha, bytes=len(data)))


def unpacked(settings: Settings, value: bytes | None) -> bytes:
    """The message's own bytes, from a record's value.

    Raises:
        BadMessage: the file that the record names is missing or holds something else.
        NotReadable: the disk failed; the message is as good as before.
    """
    if not value or not value.startswith(_MARK):
        return value or b""
    try:
        reference = msgspec.json.decode(value, type=Reference)
        packed = _read(settings, reference.sha256)
        data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=reference.bytes)
    except (msgspec.MsgspecError, UnicodeDecodeError, FileNotFoundError, zstandard.ZstdError) as error:
        raise BadMessage(f"a message that travels as a file cannot be read: {error}") from error
    except OSError as error:
        raise NotReadable(f"a message that travels as a file cannot be read now: {error}") from error
    if hashlib.sha256(data).hexdigest() != reference.sha256:
        raise BadMessage(f"a message that travels as a file: {reference.sha256} has changed since it was sent")
    return data


def fitting(settings: Settings, letter: DeadLetter) -> DeadLetter:
    """A dead letter that a record has room for: bytes that are too many stay where they came from, and it says so.

    It never becomes a file itself: the sink's own letters are about records that no file helps.
    """
    for name in sorted(("value", "key"), key=lambda name: len(getattr(letter, name)), reverse=True):
        if len(encode(letter)) + OVERHEAD_BYTES <= settings.broker.message_max_bytes:
            break
        data: bytes = getattr(letter, name)
        if len(data) < OVERHEAD_BYTES:
            break  # it is not what is too large
        told = f"{name} of {len(data)} bytes, too large to be copied: read them where they came from; sha256 "
        detail = f"{told}{hashlib.sha256(data).hexdigest()}\n{letter.detail}"
        letter = msgspec.structs.replace(letter, detail=detail, **{name: b""})
    return letter


def named(value: bytes | None) -> str:
    """The sha256 of the file that a record's value names; '' for a value that is the message itself."""
    if not value or not value.startswith(_MARK):
        return ""
    try:
        return msgspec.json.decode(value, type=Reference).sha256
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def _path(settings: Settings, sha: str) -> Path:
    """The file's name comes from the sha alone: a record can name no other file."""
    return folder(settings) / f"{sha}.json.zst"


def folder(settings: Settings) -> Path:
    """Where the files lie, each called <sha256>.json.zst."""
    return Path(settings.factory.data) / "large"


def _read(settings: Settings, sha: str) -> bytes:
    if not settings.factory.store:
        return _path(settings, sha).read_bytes()
    from processors.store import Store, StoreFailed

    try:
        return Store(settings.factory.store).folder(f"large/{_path(settings, sha).name}").read_bytes()
    except StoreFailed as error:
        raise NotReadable(f"a message that travels as a file cannot be read now: {error}") from error


def _write(settings: Settings, sha: str, data: bytes) -> None:
    """By rename, and once: the name says what is in it. A file that is there is young again: it is needed now."""
    path = _path(settings, sha)
    if settings.factory.store:
        from processors.store import Store, StoreFailed

        try:
            Store(settings.factory.store).take(f"large/{path.name}", zstandard.compress(data))
        except StoreFailed as error:
            raise NotReadable(f"a message that travels as a file cannot be written now: {error}") from error
        return
    if path.exists():
        path.touch()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(zstandard.compress(data))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
