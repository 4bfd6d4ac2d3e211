"""What both sides of benchmarks/train.py are given: the same rows, prompts and numbers, as files in a directory.

The two sides live in two environments (TRL pulls other versions), so what they share is written down: `job.json` (every
setting that must be equal), `rows.jsonl` (token ids and where the loss begins), `problems.jsonl`.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import msgspec

from processors.chat import REFLECTION, RESTART, STEP_END, VERDICT_BAD, VERDICT_GOOD, Chat
from schemas.messages import Problem, content_id
from schemas.settings import PolicySection
from trainers.tiny import countdown
from trainers.tiny.countdown import Countdown
from trainers.tiny.tasks import Lesson


class Job(msgspec.Struct, kw_only=True):
    """What is equal on both sides."""

    model: str
    """A directory that transformers opens."""
    dtype: str = "bfloat16"
    """Of the matrix products; weights and AdamW are float32."""
    threads: int = 2
    """Cores: torch threads of a process alone, or processes of one thread each."""
    batch_tokens: int = 4096
    """SFT: tokens of an optimizer step."""
    lr: float = 1e-4
    steps: int = 10
    """SFT: optimizer steps of a turn."""
    warm_steps: int = 5
    """SFT and TRL's RL: steps before the first turn; torch.compile needs a few shapes."""
    group: int = 8
    """RL: responses a prompt."""
    groups: int = 8
    """RL: prompts an optimizer step."""
    max_tokens: int = 192
    """RL: largest response."""
    temperature: float = 1.0
    seconds: float = 45.0
    """RL: of a turn; each side ends it with the step in hand."""


class Line(msgspec.Struct):
    """A training row: token ids, and the index of the first that bears loss."""

    ids: list[int]
    loss_from: int


def examples(count: int, seed: int) -> list[tuple[str, str]]:
    """Questions and chains of thought in the factory's form: up to three failed attempts, reflections, a right one."""
    rng = Random(seed)
    return [_example(countdown.lesson(rng), rng) for _ in range(count)]


def _example(lesson: Lesson, rng: Random) -> tuple[str, str]:
    wanted = rng.choice((0, 1, 1, 2, 2, 3))
    pieces: list[str] = []
    for _ in range(wanted):
        pieces += [*_attempt(lesson, rng, right=False), REFLECTION, VERDICT_BAD, f"{RESTART}."]
    pieces += [*_attempt(lesson, rng, right=True), REFLECTION, VERDICT_GOOD]
    return lesson.question, STEP_END.join(pieces)


def _attempt(lesson: Lesson, rng: Random, *, right: bool) -> list[str]:
    """The lines of an attempt that ends at the target or, as far as 20 tries find one, elsewhere."""
    lines: list[str] = []
    for _ in range(20):
        state, lines = lesson.start, []
        while True:
            assert isinstance(state, Countdown)
            made = state.items[0].value == lesson.gold if len(state.items) == 1 else None
            line = state.next_line(rng, plan=right)
            lines.append(line.text)
            if line.after is None:
                break
            state = line.after  # type: ignore[assignment]
        if made == right:
            break
    return lines


def problems(count: int, seed: int) -> list[Problem]:
    """Countdown problems that are not held out, for RL."""
    return list(islice(_problems(seed), count))


def _problems(seed: int) -> Iterator[Problem]:
    rng, seen = Random(seed), set[str]()
    while True:
        lesson = countdown.lesson(rng)
        if lesson.question in seen:
            continue
        seen.add(lesson.question)
        yield problem(lesson)


def problem(lesson: Lesson) -> Problem:
    """A countdown lesson as the problem that it asks; any right expression is an answer, so none is given."""
    assert isinstance(lesson.start, Countdown)
    return Problem(
        id=content_id("benchmark", lesson.question, ""),
        question=lesson.question,
        answer="",
        grader="countdown",
        source="benchmark",
        metadata=json.dumps({"numbers": [item.value for item in lesson.start.items], "target": lesson.gold}),
    )


def rows(policy: str, pairs: list[tuple[str, str]]) -> list[Line]:
    """The pairs as the SFT trainer tokenises them, loss on the response."""
    chat = Chat(policy, PolicySection())
    found = []
    for question, text in pairs:
        prompt = chat.prompt_ids(question)
        found.append(Line([*prompt, *chat.encode(text), chat.eos_id], len(prompt)))
    return found


def write(folder: Path, job: Job, lines: list[Line], asked: list[Problem]) -> None:
    """Put the three files into a working directory."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_bytes(msgspec.json.encode(job))
    (folder / "rows.jsonl").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    (folder / "problems.jsonl").write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in asked))


def read(folder: Path) -> tuple[Job, list[Line], list[Problem]]:
    """What `write` wrote."""
    return (
        msgspec.json.decode((folder / "job.json").read_bytes(), type=Job),
        [msgspec.json.decode(line, type=Line) for line in (folder / "rows.jsonl").read_bytes().splitlines()],
        [msgspec.json.decode(line, type=Problem) for line in (folder / "problems.jsonl").read_bytes().splitlines()],
    )
