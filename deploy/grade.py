"""`factory grade PAIRS.jsonl`: anybody's pairs of a gold answer and an answer, a verdict a line, in order, streamed.

A line is {"gold": ..., "answer": ...}, both a text (a bare answer or a whole solution) or a number; `grader` ('math' by
default) and `metadata` (for countdown) may stand beside them. Blank lines are passed over; a line that is no pair gets
the outcome 'unparsable' and an `error`, so that line n of the output always speaks of the n-th line that is not blank.
"""

import asyncio
import json
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import msgspec

from processors.grading import Grader
from schemas import plugins
from schemas.errors import Told
from schemas.messages import Grader as Kind
from schemas.settings import Settings

MAX_BYTES = 64 << 20
AHEAD = 64
"""Pairs a grading process that are read ahead of the one that is written next."""
TOLD = 10


class NoPair(ValueError):
    """A line that is no pair; the text says why."""


class Pair(msgspec.Struct, frozen=True):
    """What a line asks."""

    gold: str
    answer: str
    grader: Kind = "math"
    metadata: str = ""


def grade(settings: Settings, pairs: str, output: Path | None = None) -> int:
    """Grade a file ('-' is stdin) into a file or stdout, in constant memory; the count of lines that are no pairs.

    Raises:
        Told: for a file that cannot be opened.
        GraderBroken: no grading process can be started.
    """
    with ExitStack() as stack:
        try:
            source: IO[bytes] = sys.stdin.buffer if pairs == "-" else stack.enter_context(Path(pairs).open("rb"))
            target: IO[str] = stack.enter_context(output.open("w", encoding="ascii")) if output else sys.stdout
        except OSError as error:
            raise Told(f"{error.filename}: {error.strerror}") from error
        grader = Grader(settings)
        stack.callback(grader.close)
        return asyncio.run(_stream(grader, source, target, AHEAD * settings.verify.workers))


async def _stream(grader: Grader, source: IO[bytes], target: IO[str], ahead: int) -> int:
    waiting: deque[asyncio.Task[dict[str, Any]]] = deque()
    bad = 0
    for number, line in lines(source):
        try:
            pair = read(line)
        except NoPair as error:
            bad += 1
            if bad <= TOLD:
                print(f"line {number}: {error}", file=sys.stderr)
            waiting.append(asyncio.create_task(_failed(f"line {number}: {error}")))
        else:
            waiting.append(asyncio.create_task(_graded(grader, pair)))
        if len(waiting) >= ahead:
            await _write(waiting, target, ahead // 2)
    await _write(waiting, target, 0)
    target.flush()
    return bad


async def _write(waiting: "deque[asyncio.Task[dict[str, Any]]]", target: IO[str], keep: int) -> None:
    while len(waiting) > keep:
        target.write(json.dumps(await waiting.popleft()) + "\n")


async def _graded(grader: Grader, pair: Pair) -> dict[str, Any]:
    verdict = await grader.grade_pair(pair.gold, pair.answer, pair.grader, pair.metadata)
    return {"outcome": verdict.outcome, "seconds": round(verdict.seconds, 6)}


async def _failed(error: str) -> dict[str, Any]:
    return {"outcome": "unparsable", "seconds": 0.0, "error": error}


def lines(source: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1; of one beyond MAX_BYTES only the beginning."""
    number = 0
    while line := source.readline(MAX_BYTES + 1):
        number += 1
        block = line
        while not block.endswith(b"\n") and (block := source.readline(MAX_BYTES)):
            pass
        if line.strip():
            yield number, line


def read(line: bytes) -> Pair:
    """The pair in a line; numbers keep the digits that they are written with.

    Raises:
        NoPair: where there is none.
    """
    if len(line) > MAX_BYTES:
        raise NoPair(f"longer than {MAX_BYTES >> 20} MiB")
    try:
        row = json.loads(line, parse_int=_Number, parse_float=_Number, parse_constant=_Number)
    except (ValueError, RecursionError) as error:
        raise NoPair(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise NoPair("not an object with 'gold' and 'answer'")
    for key in ("gold", "answer"):
        if key not in row:
            raise NoPair(f"no {key!r} in it")
        if not isinstance(row[key], str):
            raise NoPair(f"{key!r} is neither a text nor a number")
    kind = row.get("grader", "math")
    if why := plugins.unknown(plugins.GRADERS, str(kind)):
        raise NoPair(why)
    metadata = row.get("metadata", "")
    return Pair(row["gold"], row["answer"], kind, metadata if isinstance(metadata, str) else _as_json(metadata))


class _Number(str):
    """A number's own spelling."""

    __slots__ = ()


def _as_json(content: Any) -> str:  # noqa: ANN401 - whatever stood in the line
    if isinstance(content, _Number):
        return str(content)
    if isinstance(content, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_as_json(value)}" for key, value in content.items()) + "}"
    if isinstance(content, list):
        return "[" + ",".join(map(_as_json, content)) + "]"
    return json.dumps(content)
