"""The held-out problems of an experiment, as files: the same ones in every experiment of a scale, on every machine.

Countdown problems that their family reserves (schemas/tiny_problems.py): the policy was never taught one, and no
producer emits one. No two of a file, nor of both files, have the same numbers and target in whatever order.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from producers.sources.gym import Gym
from schemas.errors import Told
from schemas.messages import Problem
from schemas.tiny_problems import COUNTDOWN

FAMILY = "countdown"
SEED = 0
"""Of the stream; not factory.seed: every seed of an experiment is tested on the same problems."""


class OtherProblems(Told, RuntimeError):
    """A file of problems is there and holds others; the text says what to do."""


def stream() -> Iterator[Problem]:
    """Held-out problems without end, no two alike."""
    seen: set[tuple[tuple[int, ...], int]] = set()
    for item in Gym(FAMILY, COUNTDOWN, SEED, "eval").items():
        if item.problem is None or not item.held_out:
            continue
        facts = json.loads(item.problem.metadata)
        key = (tuple(sorted(facts["numbers"])), facts["target"])
        if key not in seen:
            seen.add(key)
            yield item.problem


def files(test: int, dev: int) -> dict[str, bytes]:
    """'test' and 'dev' -> the bytes of test.jsonl and dev.jsonl with so many problems each."""
    problems = stream()
    lines = [_line(next(problems)) for _ in range(test + dev)]
    return {"test": b"".join(lines[:test]), "dev": b"".join(lines[test:])}


def _line(problem: Problem) -> bytes:
    fields = ("question", "answer", "grader", "difficulty", "metadata")
    return json.dumps({field: getattr(problem, field) for field in fields}, ensure_ascii=False).encode() + b"\n"


def sha(content: bytes) -> str:
    """sha256, hex."""
    return hashlib.sha256(content).hexdigest()


def read(out: Path) -> dict[str, bytes]:
    """What `write` put there; nothing where a file is missing. (Making 1,200 problems takes half a minute.)"""
    paths = {name: out / f"{name}.jsonl" for name in ("test", "dev")}
    return {name: path.read_bytes() for name, path in paths.items()} if all(p.exists() for p in paths.values()) else {}


def write(out: Path, contents: dict[str, bytes]) -> None:
    """Put the files into `out`; what is there already must be the same.

    Raises:
        OtherProblems: it is not.
    """
    for name, content in contents.items():
        path = out / f"{name}.jsonl"
        if path.exists():
            if path.read_bytes() != content:
                raise OtherProblems(f"{path} holds other problems than this experiment's: choose another --out")
            continue
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(content)
        temporary.replace(path)
