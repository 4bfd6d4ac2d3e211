"""TLS and SASL: all three clients get them, nothing goes in clear, and no password is ever shown."""

import os
import ssl
from pathlib import Path

import aiokafka
import faust
import pytest
from guarded import certificate, guarded
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from msgspec.structs import replace
from worker_tools import Workers, problem, stop, until

from deploy import plan
from processors import access, kafka
from processors.app import stage_app
from schemas.access import BadSecret, secret, shown
from schemas.load import BadSettings

WORD = "hunter2"
SASL = (
    "broker.bootstrap=kafka-1:9093",
    "broker.security_protocol=SASL_SSL",
    "broker.sasl_mechanism=SCRAM-SHA-512",
    "broker.sasl_username=me",
    "broker.sasl_password=env:KAFKA_WORD",
)


@pytest.fixture
def word(monkeypatch) -> None:
    monkeypatch.setenv("KAFKA_WORD", WORD)


def test_all_three_clients_are_given_tls_and_the_login(make_settings, word, tmp_path, monkeypatch) -> None:
    cert, key = certificate(tmp_path)
    own = (f"broker.ssl_certfile={cert}", f"broker.ssl_keyfile={key}")
    settings = make_settings(*SASL, f"broker.ssl_cafile={cert}", *own)
    seen = {}
    for kind in (KafkaProducer, KafkaConsumer, KafkaAdminClient):
        monkeypatch.setattr(kafka, kind.__name__, lambda kind=kind, **options: seen.update({kind: options}))
    kafka.producer(settings)
    kafka.consumer(settings)
    with pytest.raises(AttributeError), kafka.admin(settings):  # our stand-in cannot be closed
        pass
    for kind, options in seen.items():
        assert options["security_protocol"] == "SASL_SSL"
        assert options["sasl_mechanism"] == "SCRAM-SHA-512"
        assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("me", WORD)
        assert options["ssl_context"].verify_mode == ssl.CERT_REQUIRED
        assert options["ssl_context"].check_hostname
        assert options.keys() <= kind.DEFAULT_CONFIG.keys(), "kafka-python refuses what it does not know"
    credentials = stage_app("verify", settings).conf.broker_credentials
    assert isinstance(credentials, faust.SASLCredentials)
    from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth as given

    assert given(credentials).items() >= {
        "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "me", "sasl_plain_password": WORD,
    }.items()  # fmt: skip
    assert given(credentials)["ssl_context"].verify_mode == ssl.CERT_REQUIRED
    assert aiokafka.AIOKafkaProducer.__init__.__kwdefaults__.keys() >= given(credentials).keys()


def test_without_them_everything_is_as_it_was(make_settings) -> None:
    settings = make_settings("broker.bootstrap=kafka-1:9092")
    assert access.client_options(settings) == {"security_protocol": "PLAINTEXT"}
    assert access.faust_credentials(settings) is None
    access.check(settings)


@pytest.mark.slow
def test_a_whole_stage_works_over_tls_with_a_login(make_settings, tmp_path, monkeypatch) -> None:
    """Admin, kafka-python's producer and consumer, and a Faust worker in a process of its own."""
    monkeypatch.setenv("KAFKA_WORD", "pa55")
    with guarded(tmp_path) as guard:
        settings = make_settings(
            f"broker.bootstrap=127.0.0.1:{guard.port}", "broker.security_protocol=SASL_SSL",
            "broker.sasl_mechanism=PLAIN", "broker.sasl_username=user", "broker.sasl_password=env:KAFKA_WORD",
            f"broker.ssl_cafile={tmp_path / 'broker.pem'}", "broker.session_timeout_ms=2000",
            "topics.problems_partitions=2", "topics.default_partitions=1",
        )  # fmt: skip
        access.check(settings)
        kafka.create_topics(settings)
        client = kafka.producer(settings)
        for number in range(3):
            kafka.send(client, problem(number)).get(10)
        client.close()
        workers = Workers(settings, tmp_path)
        worker = workers.start("search")
        until(lambda: len(list(kafka.tail(settings, "filtered", {}))) == 3)
        assert stop(worker) == 0
        assert set(guard.logins) == {("PLAIN", "user", "pa55")}
        files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".pem"]
        assert any(path.name == "settings.json" for path in files)
        assert not [path for path in files if b"pa55" in path.read_bytes()], "the password is in no file"

        monkeypatch.setenv("KAFKA_WORD", "wrong-word")
        hasty = replace(settings, broker=replace(settings.broker, connect_timeout_s=1.0))
        with pytest.raises(kafka.BrokerMissing, match="sasl_username") as told, kafka.admin(hasty):
            pass
        assert "wrong-word" not in str(told.value)


def test_a_broker_whose_certificate_nobody_vouches_for_is_refused(make_settings, tmp_path) -> None:
    other, _ = certificate(tmp_path, "other")
    with guarded(tmp_path) as guard:
        settings = make_settings(
            f"broker.bootstrap=127.0.0.1:{guard.port}", "broker.security_protocol=SSL",
            f"broker.ssl_cafile={other}", "broker.connect_timeout_s=2",
        )  # fmt: skip
        with pytest.raises(kafka.BrokerMissing, match="certificate is not accepted"), kafka.admin(settings):
            pass
        assert guard.logins == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["broker.security_protocol=TLS"], "broker.security_protocol"),
        (["broker.security_protocol=SASL_SSL"], "needs broker.sasl_mechanism"),
        ([*SASL[1:3]], "needs broker.sasl_username"),
        ([*SASL[1:4]], "needs broker.sasl_password"),
        (["broker.sasl_mechanism=GSSAPI"], "broker.sasl_mechanism"),
        (["broker.sasl_username=me"], "set SASL_SSL"),
        (["broker.ssl_cafile=ca.pem"], "set SSL, SASL_SSL"),
        (["broker.security_protocol=SSL", "broker.ssl_keyfile=k.pem"], "set broker.ssl_certfile too"),
        ([*SASL[:4], f"broker.sasl_password={WORD}"], "env:NAME or file:PATH"),
        ([*SASL[:4], "broker.sasl_password=env:"], "env:NAME or file:PATH"),
        ([f"brokr.sasl_password={WORD}"], "did you mean 'broker'"),
        (
            [*SASL, "broker.security_protocol=SASL_PLAINTEXT", "broker.sasl_mechanism=PLAIN"],
            "sends the password as it is",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_in_a_sentence(make_settings, flags, said) -> None:
    with pytest.raises(BadSettings) as told:
        make_settings(*flags)
    assert said in str(told.value)
    assert WORD not in str(told.value)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["broker.security_protocol=SSL"], "name the cluster with --broker"),
        ([*SASL[:4], "broker.sasl_password=env:NOT_THERE"], "sasl_password = env:NOT_THERE: there is nothing"),
        ([*SASL[:4], "broker.sasl_password=file:/nowhere/at/all"], "file:/nowhere/at/all: cannot be read"),
        ([*SASL, "broker.ssl_cafile=/nowhere/ca.pem"], "ssl_cafile = /nowhere/ca.pem: cannot be used: No such file"),
        ([*SASL, "broker.ssl_certfile=/nowhere/me.pem"], "ssl_certfile = /nowhere/me.pem"),
        ([*SASL, f"broker.ssl_cafile={__file__}"], "cannot be used"),
    ],
)
def test_an_access_that_cannot_work_stops_the_start(make_settings, word, flags, said) -> None:
    settings = make_settings(*flags)
    with pytest.raises((BadSettings, BadSecret)) as told:
        plan.check(settings)
    assert said in str(told.value)
    assert "\n" not in str(told.value)
    assert WORD not in str(told.value)


def test_a_secret_lies_in_the_environment_or_a_file_and_nowhere_else(make_settings, tmp_path: Path, capsys) -> None:
    settings = make_settings(*SASL[:4], FACTORY_BROKER_SASL_PASSWORD=WORD)
    assert settings.broker.sasl_password == "env:FACTORY_BROKER_SASL_PASSWORD"
    (tmp_path / "word").write_text(f"{WORD}\n")
    assert secret("x", f"file:{tmp_path / 'word'}") == WORD
    assert secret("x", "env:A", {"A": WORD}) == WORD
    plan.print_settings(settings, as_json=False, all_=True)
    plan.print_settings(settings, as_json=True, all_=False)
    printed = capsys.readouterr().out
    assert "env:FACTORY_BROKER_SASL_PASSWORD" in printed
    assert WORD not in printed
    assert WORD not in os.environ.values()


def test_what_looks_like_a_secret_elsewhere_is_not_printed(make_settings, capsys) -> None:
    settings = make_settings(
        f"engine.args.hf_token={WORD}", f"engine.url=http://me:{WORD}@gpu-7:8000", "engine.args.max_tokens=7"
    )
    plan.print_settings(settings, as_json=False, all_=True)
    plan.print_plan(settings)
    plan.print_stages(["search"], settings)
    printed = capsys.readouterr().out
    assert WORD not in printed
    assert "max_tokens" in printed
    assert shown({"a": [{"password": WORD, "b": 1}]}) == {"a": [{"password": "(hidden)", "b": 1}]}
