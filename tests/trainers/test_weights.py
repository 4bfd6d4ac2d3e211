"""A published directory is what its announcement says, and opens as it is."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.load import load
from trainers import model, weights
from trainers.weights import Publication


def publish(settings, base, policy, version=1):
    return weights.publish(
        settings, policy, base, Publication(version, version - 1, "sft", "sft", 7, "q", handover=True)
    )


@pytest.fixture
def here(tmp_path):
    return load(environment={}, flags=[f"factory.data={tmp_path / 'data'}"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_published_directory_and_its_announcement(here, llama, dtype) -> None:
    base = llama(dtype)
    policy = model.load(base)
    assert policy.dtype == torch.float32
    with torch.no_grad():
        policy.model.norm.weight.add_(0.01234)
    row = publish(here, base, policy)
    path = weights.directory(row.path)
    assert (row.version, row.parent, row.trainer, row.step, row.data, row.handover) == (1, 0, "sft", 7, "q", True)
    assert row.sha256 == hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((path / "config.json").read_text())["factory_format"] == "plain"
    assert AutoTokenizer.from_pretrained(path).chat_template == AutoTokenizer.from_pretrained(base).chat_template
    with safe_open(path / "model.safetensors", "pt") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {f"torch.{dtype}"}  # noqa: SIM118

    opened = AutoModelForCausalLM.from_pretrained(path)
    assert opened.dtype == getattr(torch, dtype)
    for (name, mine), (_, theirs) in zip(opened.named_parameters(), policy.named_parameters(), strict=True):
        assert torch.equal(mine, theirs.to(mine.dtype)), name
    exact = opened.float()
    logits = exact(input_ids=torch.tensor([row.probe_ids])).logits[0]
    wanted = torch.log_softmax(logits, -1)[range(len(row.probe_ids) - 1), row.probe_ids[1:]]
    torch.testing.assert_close(torch.tensor(row.probe_logprobs), wanted.detach(), atol=1e-5, rtol=0)
    assert 16 < len(row.probe_ids) <= 64


def test_the_probe_tells_versions_apart(here, llama) -> None:
    policy = model.load(llama())
    first = publish(here, llama(), policy)
    with torch.no_grad():
        policy.model.norm.weight.mul_(1.05)
    second = publish(here, llama(), policy, version=2)
    assert first.sha256 != second.sha256
    assert first.path != second.path
    shared = zip(first.probe_logprobs, second.probe_logprobs, strict=False)
    assert max(abs(a - b) for a, b in shared) > 1e-3


def test_what_a_crash_left_of_an_unannounced_version_is_replaced(here, llama, tmp_path) -> None:
    for name in ("v1", ".v1.tmp"):
        (tmp_path / "data" / "weights" / name).mkdir(parents=True)
        (tmp_path / "data" / "weights" / name / "half").write_text("x")
    publish(here, llama(), model.load(llama()))
    assert sorted(p.name for p in (tmp_path / "data" / "weights").iterdir()) == ["v1"]
    assert not (tmp_path / "data" / "weights" / "v1" / "half").exists()


@pytest.mark.parametrize(
    ("config", "dtype"),
    [({}, torch.float32), ({"dtype": "bfloat16"}, torch.bfloat16), ({"torch_dtype": "float16"}, torch.float16)],
)
def test_the_dtype_is_the_configs(tmp_path, config, dtype) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert weights.dtype_of(tmp_path) == dtype


def test_a_full_disk_is_told_and_leaves_nothing_of_the_version(here, llama) -> None:
    disk = Path(here.factory.data)
    disk.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        with pytest.raises(OSError, match="No space left on device") as caught:
            publish(here, llama(), model.load(llama()))
        assert caught.value.filename == str(disk.resolve() / "weights")
        assert list(disk.glob("weights/*")) + list(disk.glob("weights/.v*")) == []
    finally:
        subprocess.run(["umount", disk], check=True)
