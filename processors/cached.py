"""Weights that were announced on a store come to this machine once, into <data>/weights/store/<sha256>/.

Nothing is in the cache that is not what was announced: the files are fetched beside it, their sha256 is taken, and only
then they get their name. A cache may be deleted at any time; what nobody has asked for in an hour goes by itself.
"""

import os
import shutil
import time
from pathlib import Path

import msgspec

from processors.announced import WeightsElsewhere, weights_sha
from processors.policy import ProbeFailed, UnknownWeights
from schemas.messages import Weights
from schemas.settings import Settings

KEEP_S = 3600.0
"""Longer than anybody takes to load what it was given."""
SCHEME = "s3://"


def at_hand(settings: Settings, weights: Weights) -> Weights:
    """The same announcement with a directory of this machine; one that names such a directory stays as it is.

    Raises:
        WeightsElsewhere: it names a store, and not a version in ours.
        UnknownWeights: it is not to be had now.
        ProbeFailed: what lies there are not the bytes that were announced.
    """
    if not weights.path.startswith(SCHEME):
        return weights
    home = cache(settings) / weights.sha256
    if home.is_dir():
        os.utime(home)
    else:
        _fetch(settings, weights, home)
        trim(settings)
    return msgspec.structs.replace(weights, path=str(home))


def cache(settings: Settings) -> Path:
    """Where fetched weights lie, each in a directory called <sha256>."""
    return Path(settings.factory.data).resolve() / "weights" / "store"


def remote(version: int) -> str:
    """A version's directory on the store."""
    return f"weights/v{version}"


def _fetch(settings: Settings, weights: Weights, home: Path) -> None:
    from processors.store import Store, StoreFailed

    url = settings.factory.store.rstrip("/")
    if not url or weights.path != f"{url}/{remote(weights.version)}":
        ours = f"{url}/{remote(weights.version)}" if url else "in the data directory: factory.store is not set here"
        raise WeightsElsewhere(f"weights v{weights.version}: {weights.path} is not where they should be, {ours}")
    temporary = home.with_name(f".{weights.sha256}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        Store(url).download(remote(weights.version), temporary)
        found = weights_sha(temporary)
    except (StoreFailed, FileNotFoundError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UnknownWeights(f"weights v{weights.version} are not to be had from {weights.path}: {error}") from None
    if found != weights.sha256:
        shutil.rmtree(temporary)
        raise ProbeFailed(
            f"weights v{weights.version} at {weights.path}: these are not the files that were announced "
            f"(sha256 {found[:12]}, not {weights.sha256[:12]}); the old weights stay"
        )
    settle(temporary, home)


def settle(temporary: Path, home: Path) -> None:
    """Give weights their name in the cache, unless the same bytes are there already."""
    try:
        temporary.rename(home)
    except OSError:
        shutil.rmtree(temporary)


def trim(settings: Settings) -> None:
    """Let go what nobody has asked for in a long time."""
    for old in cache(settings).iterdir():
        if old.stat().st_mtime < time.time() - KEEP_S:
            shutil.rmtree(old, ignore_errors=True)
