"""A trainer's whole state in one directory that appears by one rename: there is never half a checkpoint to resume from.

<root>/step-<step>.<save>/: model.safetensors (float32 master weights), optimizer.safetensors (AdamW's moments and
step counts by parameter name, and torch's random state), state.json (counters, the exact rows consumed, the query and
table version: the checkpoint's card, and messages not yet seen in a table). No pickle anywhere.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save_file

KEEP = 2
_NAME = re.compile(r"step-(\d+)\.(\d+)")


class Outgoing(msgspec.Struct, frozen=True):
    """A message that was sent and not yet seen in its table: topic and JSON body."""

    topic: str
    body: msgspec.Raw


class State(msgspec.Struct, kw_only=True):
    """Everything but tensors."""

    run: str
    trainer: str
    base: str
    """The directory of the model that this run began from."""
    version: int
    """The last published version, or the one this run began from."""
    parent: int = -1
    """The version that `version` was trained from, when this run published it."""
    step: int = 0
    published_step: int = 0
    seen: dict[str, int] = {}
    """The exact rows consumed, and how often (SFT) or 1 (RL: trained or filtered)."""
    query: str = ""
    table_version: int = -1
    handover: bool = False
    saves: int = 0
    """How often this state was saved: a step without training since (only filtered rows) is saved anew."""
    outgoing: list[Outgoing] = []


def save(root: Path, state: State, model: Any, opt: torch.optim.AdamW) -> Path:  # noqa: ANN401
    """Write a checkpoint durably under a temporary name, rename it, keep the last two. Returns its directory."""
    state.saves += 1
    final = root / f"step-{state.step:07d}.{state.saves}"
    temporary = root / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    save_file(weights, temporary / "model.safetensors")
    save_file(_flatten(model, opt), temporary / "optimizer.safetensors")
    (temporary / "state.json").write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    commit(temporary, final)
    for old in found(root)[:-KEEP]:
        shutil.rmtree(old)
    return final


def found(root: Path) -> list[Path]:
    """The complete checkpoints under `root`, oldest first."""
    named = [(match, path) for path in root.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for match, path in sorted(named, key=lambda pair: (int(pair[0][1]), int(pair[0][2])))]


def peek(path: Path) -> State:
    """A checkpoint's state, without its tensors."""
    return msgspec.json.decode((path / "state.json").read_bytes(), type=State)


def restore(path: Path, model: Any, opt: torch.optim.AdamW) -> None:  # noqa: ANN401
    """Put a checkpoint's weights, moments and random state into a model and its optimizer.

    Raises:
        ValueError: when the checkpoint is of another model.
    """
    weights = load_file(path / "model.safetensors")
    moments = load_file(path / "optimizer.safetensors")
    torch.set_rng_state(moments.pop("rng"))
    parameters = dict(model.named_parameters())
    if {n: p.shape for n, p in parameters.items()} != {n: w.shape for n, w in weights.items()}:
        raise ValueError(f"{path}: its parameters are not this model's; was policy.path changed?")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    opt.state.clear()
    for key, value in moments.items():
        name, _, slot = key.rpartition("|")
        place = value if slot == "step" else value.to(parameters[name].device)
        opt.state.setdefault(parameters[name], {})[slot] = place


def _flatten(model: Any, opt: torch.optim.AdamW) -> dict[str, torch.Tensor]:  # noqa: ANN401
    tensors = {"rng": torch.get_rng_state()}
    for name, parameter in model.named_parameters():
        for slot, value in opt.state.get(parameter, {}).items():
            tensors[f"{name}|{slot}"] = value.detach().cpu().clone().contiguous()
    return tensors


def commit(temporary: Path, final: Path) -> None:
    """Make a directory's content durable, then give it its name: after a crash it is whole or not there."""
    for path in sorted(temporary.rglob("*")):
        sync(path)
    sync(temporary)
    temporary.rename(final)
    sync(final.parent)


def sync(path: Path) -> None:
    """Fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
