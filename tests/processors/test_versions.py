import threading
import time

import pytest

from processors import kafka
from processors.announced import weights_sha
from processors.chat import BadPolicy, Chat
from processors.versions import Versions, ensure_base, local
from schemas import messages as m
from schemas.settings import PolicySection


def weights(version: int, trainer: str = "sft", policy: str = "policy", sha: str = "") -> m.Weights:
    return m.Weights(
        policy=policy, version=version, parent=version - 1, path=f"/w/{version}", sha256=sha or f"sha{version}",
        trainer=trainer,
    )  # fmt: skip


@pytest.fixture
def versions(settings):
    made = Versions(settings)
    yield made
    made.close()


def test_an_empty_topic_has_no_versions(versions):
    assert versions.all() == []
    assert versions.latest() is versions.base() is versions.by_sha("x") is None
    started = time.monotonic()
    assert versions.wait(0, timeout=0.3) is None
    assert time.monotonic() - started < 3


def test_what_was_announced_before_is_known_at_once_and_in_order(settings, send_all):
    send_all(weights(0, "base"), weights(1), weights(3, "rl"), weights(2))
    versions = Versions(settings)
    assert [row.version for row in versions.all()] == [0, 1, 2, 3]
    assert versions.latest().version == 3
    assert versions.latest(["sft"]).version == 2
    assert versions.latest(["base", "sft"]).version == 2
    assert versions.base().trainer == "base"
    assert versions.by_sha("sha3").version == 3
    versions.close()


def test_a_new_version_wakes_those_who_wait(versions, send_all):
    got = []
    waiter = threading.Thread(target=lambda: got.append(versions.wait(2, timeout=20)))
    waiter.start()
    send_all(weights(1), weights(2))
    waiter.join(20)
    assert got[0].version == 2


def test_the_first_copy_counts_and_other_policies_and_bad_bytes_do_not(settings, send_all):
    send_all(weights(1, sha="first"), weights(1, sha="second"), weights(7, policy="other"))
    producer = kafka.producer(settings)
    producer.send("weights", key=b"policy", value=b"{").get(10)
    producer.close()
    versions = Versions(settings)
    assert [(row.version, row.sha256) for row in versions.all()] == [(1, "first")]
    versions.close()


def test_the_base_is_announced_once_by_many(factory_settings, tmp_path):
    policy = tmp_path / "model"
    policy.mkdir()
    (policy / "config.json").write_text("{}")
    (policy / "model.safetensors").write_bytes(b"weights")
    settings = factory_settings(f"policy.path={policy}")
    rows = []

    def join() -> None:
        versions = Versions(settings)
        rows.append(ensure_base(settings, versions))
        versions.close()

    threads = [threading.Thread(target=join) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(rows) == 3
    assert {row.sha256 for row in rows} == {weights_sha(policy)}
    assert {(row.version, row.trainer, row.path) for row in rows} == {(0, "base", str(policy))}
    late = Versions(settings)
    before = kafka.highwater(settings, ["weights"])
    ensure_base(settings, late)
    late.close()
    assert kafka.highwater(settings, ["weights"]) == before


def test_the_sha_is_over_the_bytes_of_all_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="safetensors"):
        weights_sha(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"1")
    one = weights_sha(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"2")
    assert weights_sha(tmp_path) != one
    (tmp_path / "b.safetensors").unlink()
    assert weights_sha(tmp_path) == one


def test_a_name_that_no_hub_knows_is_one_sentence_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("nobody/nothing", "not a name/at all"):
        with pytest.raises(BadPolicy, match=rf"^{name}: .*no such policy on the hub.*check the name, or give") as found:
            local(name)
        assert "\n" not in str(found.value)
        with pytest.raises(BadPolicy, match=rf"^{name}: no tokenizer .*check the name, or give") as found:
            Chat(name, PolicySection())
        assert "\n" not in str(found.value)


def test_a_directory_without_weights_is_one_sentence(factory_settings, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    settings = factory_settings(f"policy.path={tmp_path}")
    versions = Versions(settings)
    with pytest.raises(BadPolicy, match=r"no \*\.safetensors there; give a directory"):
        ensure_base(settings, versions)
    versions.close()
