"""Bytes on the wire: JSON by msgspec, decoded strictly, with the content sha that names one copy of a message."""

import hashlib
from typing import TypeVar

import msgspec

from schemas.messages import Message

M = TypeVar("M", bound=Message)


class BadMessage(ValueError):
    """The bytes are not a message of the expected type; the text says where and why."""


def encode(message: Message) -> bytes:
    """Deterministic JSON: fields in declaration order, floats in shortest round-trip form."""
    return msgspec.json.encode(message)


def decode(data: bytes, kind: type[M]) -> M:
    """The message in `data`.

    Raises:
        BadMessage: for bytes that are not JSON, not UTF-8, or not of this type.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"not a {kind.__name__}: {error}") from error


def content_sha(data: bytes) -> str:
    """sha256 (hex) of the encoded message: two copies of one id with other contents differ here."""
    return hashlib.sha256(data).hexdigest()
