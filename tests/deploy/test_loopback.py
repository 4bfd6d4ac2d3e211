"""Nothing of ours listens but on loopback, and what processes are started with is for this user's eyes."""

import psutil
import pytest

from deploy.broker import EmbeddedBroker
from deploy.local import hand_over
from processors.engine_args import prepare_environment
from schemas.load import load


def listening(pid: int) -> set[str]:
    """The addresses that a process and its children listen on."""
    process = psutil.Process(pid)
    found = [each for one in (process, *process.children(recursive=True)) for each in one.net_connections("inet")]
    return {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}


def test_the_embedded_broker_listens_on_loopback_only(make_settings) -> None:
    with EmbeddedBroker(make_settings()) as broker:
        assert broker.process is not None
        assert listening(broker.process.pid) == {"127.0.0.1"}


@pytest.mark.parametrize("cuda", [False, True])
def test_an_engine_is_told_to_listen_on_loopback_only(cuda, monkeypatch) -> None:
    """tests/processors/test_engine_vllm.py looks at the sockets of a real one."""
    environment: dict[str, str] = {}
    monkeypatch.setattr("os.environ", environment)
    prepare_environment(1, cuda=cuda)
    assert (environment["VLLM_HOST_IP"], environment["GLOO_SOCKET_IFNAME"]) == ("127.0.0.1", "lo")


def test_the_settings_that_processes_get_are_for_this_user_alone(make_settings, tmp_path) -> None:
    settings = make_settings("engine.args.hf_token=abc")
    file = tmp_path / "settings.json"
    file.write_text("{}")
    file.chmod(0o644)
    hand_over(settings, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert load(file, {}, []) == settings
