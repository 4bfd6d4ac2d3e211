"""One way in for all three Kafka clients: kafka-python's client and admin, and aiokafka under Faust.

All get the same TLS context and the same login, made here from [broker] (schemas/access.py); the secrets are read at
this moment and handed to the libraries alone.
"""

import socket
import ssl
from typing import Any

import faust

from schemas.access import host_port, secret
from schemas.load import BadSettings
from schemas.settings import BrokerSection, Settings

HANDSHAKE_S = 2.0


def check(settings: Settings) -> None:
    """Refuse, before anything starts, an access that could not work.

    Raises:
        BadSettings, BadSecret: naming the setting and what to do.
    """
    broker = settings.broker
    if broker.security_protocol != "PLAINTEXT" and not broker.bootstrap:
        raise BadSettings(
            f"broker.security_protocol = {broker.security_protocol} is for a cluster, and the embedded broker has none "
            "of it: name the cluster with --broker HOST:PORT, or leave it at PLAINTEXT"
        )
    client_options(settings)


def context(broker: BrokerSection) -> ssl.SSLContext | None:
    """The TLS context; None where there is no TLS. Brokers are always verified against an authority.

    Raises:
        BadSettings, BadSecret: a file or secret is not there or is not what it should be.
    """
    if broker.security_protocol not in {"SSL", "SASL_SSL"}:
        return None
    password = secret("broker.ssl_password", broker.ssl_password)
    what = f"broker.ssl_cafile = {broker.ssl_cafile or '(the authorities of the system)'}"
    try:
        made = ssl.create_default_context(cafile=broker.ssl_cafile or None)
        made.check_hostname = broker.ssl_check_hostname
        what = f"broker.ssl_certfile = {broker.ssl_certfile}, broker.ssl_keyfile = {broker.ssl_keyfile}"
        if broker.ssl_certfile:
            # A function, since OpenSSL would ask at the terminal for a password that is not given.
            made.load_cert_chain(broker.ssl_certfile, broker.ssl_keyfile or None, password=lambda: password)
    except (OSError, ValueError) as error:  # ssl's own errors are OSErrors
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
        raise BadSettings(f"{what}: cannot be used: {reason}") from error
    return made


def client_options(settings: Settings) -> dict[str, Any]:
    """What kafka-python's clients are given; aiokafka calls these options by the same names.

    Raises:
        BadSettings, BadSecret: as in `context`.
    """
    broker = settings.broker
    options: dict[str, Any] = {"security_protocol": broker.security_protocol}
    if (made := context(broker)) is not None:
        options |= {"ssl_context": made, "ssl_check_hostname": broker.ssl_check_hostname}
    if broker.security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": broker.sasl_mechanism,
            "sasl_plain_username": broker.sasl_username,
            "sasl_plain_password": secret("broker.sasl_password", broker.sasl_password),
        }
    return options


def faust_credentials(settings: Settings) -> Any:  # noqa: ANN401 - faust's credentials, or None
    """The same for a Faust app (broker_credentials); None = plain text.

    Raises:
        BadSettings, BadSecret: as in `context`.
    """
    options = client_options(settings)
    if "sasl_mechanism" in options:
        return faust.SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=options["sasl_mechanism"],
            ssl_context=options.get("ssl_context"),
        )
    return faust.SSLCredentials(options["ssl_context"]) if "ssl_context" in options else None


def advice(settings: Settings) -> str:
    """What may keep us out of a broker that cannot be reached, for the end of a sentence; '' for plain text.

    kafka-python says only that it found no broker, so the handshake is tried once more by hand.
    """
    broker = settings.broker
    notes = []
    if (made := context(broker)) is not None:
        host, port = host_port(broker.bootstrap.split(",")[0])
        try:
            with socket.create_connection((host, int(port)), HANDSHAKE_S) as plain:
                made.wrap_socket(plain, server_hostname=host).close()
        except ssl.SSLCertVerificationError as error:
            notes.append(f"its certificate is not accepted ({error.verify_message}): see broker.ssl_cafile")
        except (OSError, ValueError):  # no broker, or none that speaks TLS
            notes.append(f"no TLS handshake came about: see broker.security_protocol = {broker.security_protocol}")
    if not notes and broker.sasl_mechanism:
        notes.append("the login may be refused: see broker.sasl_username, broker.sasl_password, broker.sasl_mechanism")
    return "".join(f"; {note}" for note in notes)
