"""How a Kafka cluster lets us in: TLS and SASL as settings, of which none is ever a secret itself.

A password in a settings file ends in a repository, in the settings that `factory up` hands to its processes, and on a
screen. So a setting only names the place of a secret (`env:NAME`, `file:PATH`), and whoever needs it reads it there at
that moment. What contradicts itself is refused when the settings are read, in a sentence that never holds the value.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from schemas.errors import Told
from schemas.kinds import Section

SECRETS = ("broker.sasl_password", "broker.ssl_password")
"""The settings that name the place of a secret."""
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
HIDDEN = "(hidden)"
_PLACE = re.compile(r"(env|file):(\S.*)")
_TELLTALE = re.compile(r"(?i)password|passwd|secret|token$|api_?key|credential")
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")


class BadSecret(Told, ValueError):
    """A secret is not where the setting says; the text names the setting and the place, never what lies there."""


class Access(Section, frozen=True, kw_only=True):
    """Where the cluster is and how it is spoken to: the part of [broker] that all three Kafka clients share."""

    bootstrap: str = ""
    """HOST:PORT[,HOST:PORT...]; empty = the embedded broker of this data directory (127.0.0.1, no TLS)."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Kafka's names: SSL = TLS, SASL = a login."""
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    """How the login is proved; needed with a SASL_ protocol."""
    sasl_username: str = ""
    """Of the login."""
    sasl_password: str = ""
    """env:NAME or file:PATH, never the password itself; FACTORY_BROKER_SASL_PASSWORD in the environment is found."""
    ssl_cafile: str = ""
    """PEM file of the authorities that sign the brokers' certificates; empty = those of the system."""
    ssl_certfile: str = ""
    """PEM file of our own certificate, where the brokers ask for one."""
    ssl_keyfile: str = ""
    """Its key; empty = it stands in ssl_certfile."""
    ssl_password: str = ""
    """Of an encrypted key: env:NAME or file:PATH."""
    ssl_check_hostname: bool = True
    """Whether a broker's certificate must name the host that was asked for."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself; the texts hold no value."""
        if problem := contradiction(self) or exposure(self):
            raise ValueError(problem)


def contradiction(access: Access) -> str:
    """What is wrong with these settings together, and what to do; '' = nothing."""
    tls = access.security_protocol in {"SSL", "SASL_SSL"}
    sasl = access.security_protocol.startswith("SASL")
    for name in ("sasl_password", "ssl_password"):
        text = getattr(access, name)
        if text and not is_place(text):
            return f"broker.{name} holds the secret itself: write where it lies instead, env:NAME or file:PATH"
    for name in ("sasl_mechanism", "sasl_username", "sasl_password"):
        if sasl and not getattr(access, name):
            return f"broker.security_protocol = {access.security_protocol} needs broker.{name}"
        if not sasl and getattr(access, name):
            return f"broker.{name} is set and broker.security_protocol is {access.security_protocol}: set SASL_SSL"
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password"):
        if not tls and getattr(access, name):
            return f"broker.{name} is set and broker.security_protocol is {access.security_protocol}: set SSL, SASL_SSL"
    for name in ("ssl_keyfile", "ssl_password"):
        if getattr(access, name) and not access.ssl_certfile:
            return f"broker.{name} belongs to a certificate: set broker.ssl_certfile too"
    return ""


def exposure(access: Access) -> str:
    """Where the password would go over a network as it is: what to do; '' = nowhere."""
    hosts = {host_port(address)[0] for address in access.bootstrap.split(",") if address}
    if access.security_protocol == "SASL_PLAINTEXT" and access.sasl_mechanism == "PLAIN" and not hosts <= LOOPBACK:
        return (
            "broker.sasl_mechanism = PLAIN sends the password as it is, and SASL_PLAINTEXT does not encrypt it: set "
            "broker.security_protocol = SASL_SSL, or a SCRAM mechanism"
        )
    return ""


def host_port(address: str) -> tuple[str, str]:
    """HOST:PORT in its parts; the brackets of an IPv6 address are left out."""
    host, _, port = address.rpartition(":")
    return host.strip("[] "), port


def is_place(text: str) -> bool:
    """Whether a setting names the place of a secret."""
    return bool(_PLACE.fullmatch(text))


def secret(name: str, place: str, environment: Mapping[str, str] | None = None) -> str:
    """What lies at a place; '' for none.

    Args:
        name: the setting, for the sentence.
        place: 'env:NAME', 'file:PATH' (its content without the line's end), or ''.
        environment: None = os.environ.

    Raises:
        BadSecret: there is nothing, or it cannot be read.
    """
    if not place:
        return ""
    match = _PLACE.fullmatch(place)
    if match is None:
        raise BadSecret(f"{name} holds the secret itself: write where it lies instead, env:NAME or file:PATH")
    kind, where = match.groups()
    if kind == "env":
        found = (os.environ if environment is None else environment).get(where, "")
    else:
        try:
            found = Path(where).expanduser().read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise BadSecret(f"{name} = {place}: cannot be read: {why}") from None
    if not found:
        raise BadSecret(f"{name} = {place}: there is nothing")
    return found


def shown(content: Any, key: str = "") -> Any:  # noqa: ANN401 - settings as plain values
    """Settings as they may be printed: what looks like a secret (by its name, or a user in a URL) is hidden."""
    if isinstance(content, dict):
        return {name: shown(value, name) for name, value in content.items()}
    if isinstance(content, list):
        return [shown(value, key) for value in content]
    if content and _TELLTALE.search(key) and not (isinstance(content, str) and is_place(content)):
        return HIDDEN
    return _USER_IN_URL.sub(HIDDEN, content) if isinstance(content, str) else content
