"""The held-out problems of an experiment, as files: the same ones in every experiment of a scale, on every machine.

Countdown problems that their family reserves (schemas/tiny_problems.py): the policy was never taught one, and no
producer emits one. No two of a file, nor of both files, have the same numbers and target in whatever order. They are
drawn evenly from all there are, in reasoning-gym's words: its generator makes ten a second, and mostly the common ones.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import combinations_with_replacement
from pathlib import Path
from random import Random

from schemas.errors import Told
from schemas.tiny_problems import COUNTDOWN, is_held_out
from trainers.tiny import countdown

FAMILY = "countdown"
SEED = 0
"""Of the order; not factory.seed: every seed of an experiment is tested on the same problems."""


class OtherProblems(Told, RuntimeError):
    """A file of problems is there and holds others; the text says what to do."""


def reserved() -> list[tuple[tuple[int, ...], int, str]]:
    """Every reserved problem of three numbers: the numbers in ascending order, the target, a solution."""
    found: dict[tuple[tuple[int, ...], int], str] = {}
    values = range(COUNTDOWN["min_value"], COUNTDOWN["max_value"] + 1)
    for numbers in combinations_with_replacement(values, 3):
        first = countdown.Countdown(tuple(countdown.Item(number, str(number)) for number in numbers), 0)
        for second in [first.then(move) for move in first.moves()]:
            for last in [second.then(move).items[0] for move in second.moves()]:
                if COUNTDOWN["min_target"] <= last.value <= COUNTDOWN["max_target"]:
                    found.setdefault((numbers, last.value), last.text)
    facts = [(numbers, target, solution) for (numbers, target), solution in sorted(found.items())]
    return [one for one in facts if is_held_out(FAMILY, {"numbers": one[0], "target": one[1]})]


def lines() -> Iterator[bytes]:
    """The reserved problems in an order that the seed decides, each a line of JSON."""
    rng = Random(SEED)
    facts = reserved()
    rng.shuffle(facts)
    for sorted_numbers, target, solution in facts:
        numbers = rng.sample(sorted_numbers, len(sorted_numbers))
        fields = {
            "question": countdown.question(numbers, target, rng.randrange(len(countdown.QUESTIONS))),
            "answer": solution,
            "grader": "countdown",
            "metadata": json.dumps({"numbers": numbers, "target": target}),
        }
        yield json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def files(test: int, dev: int) -> dict[str, bytes]:
    """'test' and 'dev' -> the bytes of test.jsonl and dev.jsonl with so many problems each.

    Raises:
        ValueError: there are not so many.
    """
    every = list(lines())
    if test + dev > len(every):
        raise ValueError(f"{test} + {dev} test and dev problems are wanted, and {len(every)} are reserved")
    return {"test": b"".join(every[:test]), "dev": b"".join(every[test : test + dev])}


def sha(content: bytes) -> str:
    """sha256, hex."""
    return hashlib.sha256(content).hexdigest()


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
