"""A trainer's whole state in one directory that appears by one rename: there is never half a checkpoint to resume from.

<root>/step-<step>.<save>/: model-<rank>.safetensors (float32 master weights), optimizer-<rank>.safetensors (AdamW's
moments and step counts by parameter name, and torch's random state), state.json (counters, the exact rows consumed, the
query and table version: the checkpoint's card, and messages not yet seen in a table). No pickle anywhere.

Each rank writes the lines of each parameter that it holds, and in the file's metadata where they begin; a resume reads
the lines it needs from whichever files have them, so it may have another number of ranks.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from schemas.errors import Told, telling_full
from schemas.killpoints import passed
from trainers.model import local
from trainers.ranks import ALONE, Ranks

KEEP = 2
_NAME = re.compile(r"step-(\d+)\.(\d+)")


class OtherCheckpoint(Told, ValueError):
    """A checkpoint does not fit the model; the text says what to do."""


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
    files: dict[str, int] = {}
    """The checkpoint's other files and their sizes in bytes."""


def save(root: Path, state: State, tensors: Callable[[Path], None]) -> Path:
    """Write a checkpoint durably under a temporary name, rename it, keep the last two. Returns its directory.

    An error leaves the checkpoints as they were, and none of its own files: on a full disk they would be in the way.
    What a killed process left half-written goes first. Rank 0 does all this, under the run's lock; the other ranks
    write only into the directory that it has made for them.

    Args:
        root: where checkpoints lie.
        state: everything but tensors.
        tensors: lets every rank `write` into a directory.

    Raises:
        OSError: with errno ENOSPC and `root` when the disk is full.
    """
    state.saves += 1
    final = root / f"step-{state.step:07d}.{state.saves}"
    temporary = root / f".{final.name}.tmp"
    for left in root.glob(".step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        tensors(temporary)
        state.files = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        (temporary / "state.json").write_bytes(msgspec.json.format(msgspec.json.encode(state)))
        passed(f"{state.trainer}:checkpoint")
        commit(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        error.filename = str(root)
        raise
    for old in found(root)[:-KEEP]:
        shutil.rmtree(old)
    return final


def found(root: Path) -> list[Path]:
    """The complete checkpoints under `root`, oldest first."""
    return sorted((path for path in root.glob("step-*") if _NAME.fullmatch(path.name)), key=lambda path: age(path.name))


def age(name: str) -> tuple[int, int]:
    """A checkpoint's step and save, by its name."""
    match = _NAME.fullmatch(name)
    assert match
    return int(match[1]), int(match[2])


def newest(root: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, and a sentence about each that is not and was set aside.

    The steps after it are in the plan (journal.py), so going on from it is taking the very same steps again.
    """
    said: list[str] = []
    for path in reversed(found(root)):
        if not (why := damage(path)):
            return path, [f"{sentence}; going on from {path.name}" for sentence in said]
        aside = path.with_name(f"{path.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        said.append(f"the checkpoint {path} is damaged ({why}) and was set aside as {aside.name}")
    return None, [f"{sentence}; no other is left, so the run takes its steps again from its first" for sentence in said]


def damage(path: Path) -> str:
    """What is wrong with a checkpoint's files; '' when they are as they were written."""
    try:
        wanted = peek(path).files
        sizes = {file.name: file.stat().st_size for file in path.iterdir()}
    except (OSError, msgspec.MsgspecError) as error:
        return f"state.json: {error}"
    if wrong := sorted(name for name, size in wanted.items() if sizes.get(name) != size):
        return f"{wrong[0]} is cut off or gone"
    try:
        for file in path.glob("*.safetensors"):
            safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        return f"{file.name}: {error}"
    return ""


def peek(path: Path) -> State:
    """A checkpoint's state, without its tensors."""
    return msgspec.json.decode((path / "state.json").read_bytes(), type=State)


def write(directory: Path, model: Any, opt: torch.optim.AdamW, ranks: Ranks = ALONE) -> None:  # noqa: ANN401
    """Write this rank's lines of the weights and moments, and its random state."""
    weights: dict[str, torch.Tensor] = {}
    moments = {"rng": torch.get_rng_state()}
    begins: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        weights[name], begins[name] = _held(parameter)
        for slot, value in opt.state.get(parameter, {}).items():
            moments[f"{name}|{slot}"], begins[f"{name}|{slot}"] = _held(value)
    metadata = {"begins": json.dumps(begins)}
    write_tensors(weights, directory / f"model-{ranks.rank}.safetensors", metadata)
    write_tensors(moments, directory / f"optimizer-{ranks.rank}.safetensors", metadata)


def write_tensors(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file.

    Raises:
        OSError: with errno ENOSPC when the disk is full.
    """
    with telling_full(path):
        save_file(tensors, path, metadata)


def restore(path: Path, model: Any, opt: torch.optim.AdamW, ranks: Ranks = ALONE) -> None:  # noqa: ANN401
    """Put this rank's lines of a checkpoint, and the random state, into a model and its optimizer.

    Raises:
        OtherCheckpoint: it is of another model.
    """
    weights, moments = _Pieces(path, "model"), _Pieces(path, "optimizer")
    parameters = dict(model.named_parameters())
    if {name: list(p.shape) for name, p in parameters.items()} != {name: weights.shape(name) for name in weights.names}:
        raise OtherCheckpoint(
            f"{path}: its parameters are not this model's: was policy.path changed, or is it of an older version of "
            "the factory? Begin anew with another --data"
        )
    opt.state.clear()
    with torch.no_grad():
        for name, parameter in parameters.items():
            weights.fill(name, parameter)
        for key in moments.names - {"rng"}:
            name, _, slot = key.rpartition("|")
            if slot == "step":
                value = moments.whole(key).to(parameters[name].device)
            else:
                moments.fill(key, value := torch.zeros_like(parameters[name]))
            opt.state.setdefault(parameters[name], {})[slot] = value
    torch.set_rng_state(moments.whole("rng", ranks.rank))


def _held(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    mine, begin = local(tensor.detach())
    return mine.cpu().clone().contiguous(), begin


class _Pieces:
    """Tensors whose lines (first dimension) lie in the files of all ranks that wrote a checkpoint."""

    def __init__(self, path: Path, kind: str) -> None:
        # By the rank in the name: 10 comes after 9.
        names = sorted(path.glob(f"{kind}-*.safetensors"), key=lambda file: int(file.stem.rpartition("-")[2]))
        self.files: list[Any] = [safe_open(file, framework="pt") for file in names]
        self.begins = [json.loads(file.metadata()["begins"]) for file in self.files]
        self.names: set[str] = set(self.files[0].keys()) if self.files else set()

    def shape(self, name: str) -> list[int]:
        """Of the whole tensor."""
        shapes = [file.get_slice(name).get_shape() for file in self.files]
        return [sum(shape[0] for shape in shapes), *shapes[0][1:]]

    def fill(self, name: str, tensor: torch.Tensor) -> None:
        """Copy into a tensor, or into this rank's share of it, the lines that it holds."""
        mine, begin = local(tensor)
        for file, begins in zip(self.files, self.begins, strict=True):
            piece = file.get_slice(name)
            first = max(begin, begins[name])
            last = min(begin + len(mine), begins[name] + piece.get_shape()[0])
            if first < last:
                mine[first - begin : last - begin].copy_(piece[first - begins[name] : last - begins[name]])

    def whole(self, name: str, rank: int = 0) -> torch.Tensor:
        """What every rank has for itself: this rank's, or rank 0's where there were fewer."""
        found: torch.Tensor = self.files[rank if rank < len(self.files) else 0].get_tensor(name)
        return found


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
