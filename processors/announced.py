"""What an announcement of weights must be before anything is loaded: in a place of ours, and the bytes it speaks of.

A message on `weights` names a directory, and whoever can write to the topic can name any. So a worker opens only what
lies under <data>/weights, is the policy itself, or lies where policy.weights_dirs allows; and once a process, before it
first loads a version, it takes the sha256 of the files: what changed after it was announced is another version.
"""

import hashlib
from pathlib import Path

from processors.chat import resolve
from processors.expired import expired
from processors.policy import ProbeFailed, UnknownWeights
from schemas.errors import Told
from schemas.messages import Weights
from schemas.settings import Settings


class WeightsElsewhere(Told, UnknownWeights):
    """An announcement names a directory that is none of ours; the text says which, and what to set."""


def weights_sha(directory: str | Path) -> str:
    """sha256 (hex) over the directory's safetensors files in the order of their names.

    Raises:
        FileNotFoundError: when there are none.
    """
    files = sorted(Path(directory).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{directory}: no *.safetensors there")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def check_place(settings: Settings, weights: Weights) -> None:
    """Pass for weights that lie where weights may lie; the policy that was given may lie anywhere.

    Raises:
        WeightsElsewhere: links followed, they lie somewhere else.
    """
    path = Path(weights.path)
    real = path.resolve()
    roots = [Path(settings.factory.data) / "weights", *map(Path, settings.policy.weights_dirs)]
    if path.is_absolute() and any(real.is_relative_to(root.expanduser().resolve()) for root in roots):
        return
    policy = resolve(settings.policy.path)
    if real == Path(policy).resolve() or (not Path(policy).is_dir() and _fetched(path, policy)):
        return
    raise WeightsElsewhere(
        f"weights v{weights.version}: {weights.path} is neither under {settings.factory.data}/weights nor the policy "
        "itself; if they are yours, name a directory above them in policy.weights_dirs"
    )


def _fetched(path: Path, policy: str) -> bool:
    """Whether a directory is the hub cache's copy of a policy, which is where a hub name leads."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE).resolve() / f"models--{policy.replace('/', '--')}" / "snapshots"
    return path.is_absolute() and path.absolute().is_relative_to(folder)


def check_bytes(weights: Weights) -> None:
    """Pass for files that are what was announced, byte for byte.

    Raises:
        UnknownWeights: there are none.
        ProbeFailed: they are others.
    """
    try:
        found = weights_sha(weights.path)
    except FileNotFoundError:
        why = expired(weights.path) or "deleted, or on another machine?"
        raise UnknownWeights(f"{weights.path}: no weights there: {why}") from None
    if found != weights.sha256:
        raise ProbeFailed(
            f"weights v{weights.version} at {weights.path}: the files have changed since they were announced "
            f"(sha256 {found[:12]}, not {weights.sha256[:12]}); the old weights stay"
        )
