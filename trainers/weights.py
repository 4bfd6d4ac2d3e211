"""A trained policy becomes a directory that transformers and vLLM open as it is, and a row that announces it.

The directory holds the base's config and tokenizer files untouched and one model.safetensors in the config's own
dtype, written durably and renamed: an announced path is always whole. The announcement carries log-probs of a short
probe text under exactly the weights that were written (rounded ones included), which every engine must reproduce.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from safetensors import safe_open

from processors.cached import cache, remote, settle, trim
from processors.chat import Chat
from schemas.errors import Told
from schemas.messages import Weights
from schemas.settings import Settings
from trainers import model as policy
from trainers.checkpoint import commit, write_tensors

COPIED = re.compile(
    r"(config|generation_config|special_tokens_map|added_tokens)\.json|"
    r"(tokenizer|vocab|merges|chat_template).*\.(json|jinja|txt|model)|.*\.(model|tiktoken|jinja)"
)
"""What describes the model and its tokenizer; nothing that holds weights or tells another version's story."""
PROBE_QUESTION = "What is 17 + 25?"
PROBE_TOKENS = 16
"""Greedy tokens after the probe's prompt."""


@dataclass(frozen=True)
class Publication:
    """What is to be said of a version beside its numbers.

    Args:
        version: never used before.
        parent: the version it was trained from.
        trainer: who trained it.
        step: after which step.
        data: SFT: the query and table version; RL: the range of steps.
        handover: SFT's last one.
    """

    version: int
    parent: int
    trainer: Literal["sft", "rl"]
    run: str
    step: int
    data: str
    handover: bool = False


def directory(path: str) -> Path:
    """The local directory behind a resolved policy path; a hub name's is the cache that was loaded before."""
    if Path(path).is_dir():
        return Path(path)
    from transformers.utils import cached_file

    return Path(cached_file(path, "config.json")).parent


def publish(settings: Settings, model: Any, base: Path, publication: Publication) -> Weights:  # noqa: ANN401
    """Write <data>/weights/v<version>/ by one rename and return its announcement (the caller sends it).

    With factory.store it is uploaded there instead, as a whole before it can be announced, and cached here.

    Args:
        settings: factory.data, policy.name.
        model: float32 master weights.
        base: the directory whose config and tokenizer files are copied.
        publication: what the announcement says.

    A directory of this version that is there already was never announced (a crash came between): it is replaced.

    Raises:
        OSError: with errno ENOSPC when the disk is full; nothing of the version is left there.
        StoreFailed: it could not be uploaded.
    """
    root = Path(settings.factory.data).resolve() / "weights"
    final = root / f"v{publication.version}"
    temporary = root / f".v{publication.version}.tmp"
    for old in (temporary, final):
        shutil.rmtree(old, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _copy(base, temporary)
        save(model, temporary, dtype_of(base))
        ids, logprobs = probe(settings, temporary)
        with (temporary / "model.safetensors").open("rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
        path = _upload(settings, temporary, publication.version, sha)
        if not path:
            commit(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        error.filename = str(root)
        raise
    fields = {name: getattr(publication, name) for name in Publication.__dataclass_fields__}
    return Weights(
        policy=settings.policy.name,
        path=path or str(final),
        sha256=sha,
        probe_ids=ids,
        probe_logprobs=logprobs,
        time=time.time(),
        **fields,
    )


def _upload(settings: Settings, directory: Path, version: int, sha: str) -> str:
    """Where a version lies on the store, once all of it does; '' where there is no store."""
    if not settings.factory.store:
        return ""
    from processors.store import Store

    store = Store(settings.factory.store)
    store.upload(directory, remote(version))
    cache(settings).mkdir(parents=True, exist_ok=True)
    settle(directory, cache(settings) / sha)
    trim(settings)
    return f"{store.url}/{remote(version)}"


def _copy(base: Path, target: Path) -> None:
    for file in base.iterdir():
        if file.is_file() and COPIED.fullmatch(file.name):
            shutil.copyfile(file, target / file.name)


class NotAsTrained(Told, RuntimeError):
    """A version as it was written is not what was trained; the text says that it was not announced."""


def dtype_of(base: Path) -> torch.dtype:
    """The dtype that a model directory's config names; float32 where it names none."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    kind = getattr(torch, str(name).removeprefix("torch."), None)
    return kind if isinstance(kind, torch.dtype) else torch.float32


def save(model: Any, target: Path, dtype: torch.dtype) -> None:  # noqa: ANN401
    """Write model.safetensors: every parameter once (a tied head is its embedding), rounded to `dtype`.

    Raises:
        NotAsTrained: read back, a tensor has other bits.
    """
    tensors = {name: policy.whole(p).to("cpu", dtype).contiguous() for name, p in model.named_parameters()}
    file = target / "model.safetensors"
    write_tensors(tensors, file, {"format": "pt"})
    with safe_open(file, framework="pt") as written:
        if odd := [name for name, tensor in tensors.items() if not torch.equal(written.get_tensor(name), tensor)]:
            raise NotAsTrained(f"{file}: {odd[0]} is not on the disk as it was trained")


def probe(settings: Settings, published: Path) -> tuple[list[int], list[float]]:
    """A fixed question with a greedy continuation, and the log-probs (nats) of ids[1:] by the weights on the disk."""
    plain = msgspec.structs.replace(settings.policy, few_shot="none")
    chat = Chat(str(published), plain)
    model = policy.load(published)
    ids = chat.prompt_ids(PROBE_QUESTION)
    with torch.no_grad():
        for _ in range(PROBE_TOKENS):
            ids.append(int(_logits(model, ids)[-1].argmax()))
            if ids[-1] == chat.eos_id:
                break
        return ids, score(model, ids)


def score(model: Any, ids: Sequence[int]) -> list[float]:  # noqa: ANN401
    """Log-probs (nats) of ids[1:] given what precedes each; the model's own float32."""
    with torch.no_grad():
        every = torch.log_softmax(_logits(model, ids)[:-1].float(), dim=-1)
        targets = torch.tensor(ids[1:], device=every.device).unsqueeze(-1)
        return [float(value) for value in every.gather(-1, targets).squeeze(-1)]


def _logits(model: Any, ids: Sequence[int]) -> torch.Tensor:  # noqa: ANN401
    inputs = torch.tensor([list(ids)], device=model.device)
    logits: torch.Tensor = model(input_ids=inputs, use_cache=False).logits[0]
    return logits
