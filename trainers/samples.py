"""The evaluator's samples, kept on the disk as they come: an evaluation that was interrupted goes on with what it has.

A sample is named by everything that its tokens depend on besides the weights, and each weights' samples lie in one
file, <data>/answers/<sha256>.jsonl, a line a sample. So more samples, more problems, other graders or other k cost
only what is not there yet, and nothing is taken for what it is not. Lines are appended whole: of a process that was
killed at most the last line is torn, and that one is sampled again (so is what a power cut took; nothing waits for
the disk).
"""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from processors.chat import Chat
from processors.policy import Request
from schemas.messages import Problem, content_id
from schemas.settings import Settings

FOLDER = "answers"
NUMERICS = ("quantization", "kv_cache_dtype")
"""Engine arguments that change what a policy says; others only change how fast."""


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """A response that is wanted: sample `number` (from 0) of a problem."""

    problem: Problem
    number: int
    prompt_ids: list[int]
    seed: int | None
    """None = greedy."""
    name: str

    def request(self, sha: str, settings: Settings) -> Request:
        """What the engine is asked under these weights."""
        return Request(
            prompt_ids=self.prompt_ids,
            max_tokens=settings.evaluate.max_tokens,
            temperature=_temperature(settings),
            seed=self.seed,
            weights=sha,
        )


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A response that was sampled: a line of the file."""

    draw: str
    """The draw's name."""
    problem: str
    number: int
    tokens: int
    finish: Literal["stop", "length"]
    text: str


def draws(chat: Chat, problems: Sequence[Problem], settings: Settings) -> list[Draw]:
    """The samples an evaluation consists of, problem after problem.

    Seeds depend on factory.seed, the problem's id and the sample's number alone, so two versions are compared on the
    same draws, and the first n samples are the same however many there are.
    """
    section, engine = settings.evaluate, settings.engine
    how = (section.max_tokens, _temperature(settings), engine.dtype, *(engine.args.get(name) for name in NUMERICS))
    how = (*how, engine.max_model_len)  # it may cut a response
    found = []
    for problem in problems:
        prompt_ids = chat.prompt_ids(problem.question)
        prompt = content_id(*prompt_ids)
        for number in range(section.samples):
            seed = None if section.greedy else int(content_id(settings.factory.seed, problem.id, number)[:7], 16)
            name = content_id(prompt, seed, *how)
            found.append(Draw(problem=problem, number=number, prompt_ids=prompt_ids, seed=seed, name=name))
    return found


def _temperature(settings: Settings) -> float:
    return 0.0 if settings.evaluate.greedy else settings.sample.temperature


class Log:
    """The samples of one set of weights; several processes may add to one file.

    Args:
        settings: factory.data.
        sha: of the weights.
        wanted: names of draws; other samples in the file are passed over.
    """

    def __init__(self, settings: Settings, sha: str, wanted: Collection[str]) -> None:
        self.path = Path(settings.factory.data) / FOLDER / f"{sha}.jsonl"
        self.samples: dict[str, Sample] = {}
        self._file: int | None = None
        if self.path.exists():
            self._read(set(wanted))

    def _read(self, wanted: set[str]) -> None:
        with self.path.open("rb") as lines:
            for line in lines:
                try:
                    sample = msgspec.json.decode(line, type=Sample)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    continue  # torn: its process was killed
                if sample.draw in wanted:
                    self.samples.setdefault(sample.draw, sample)

    def add(self, sample: Sample) -> None:
        """Keep a sample.

        Raises:
            OSError: the disk is full or not writable.
        """
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o644)
            size = os.fstat(self._file).st_size
            if size and os.pread(self._file, 1, size - 1) != b"\n":
                os.write(self._file, b"\n")  # so that a torn line spoils no other
        line = msgspec.json.encode(sample) + b"\n"
        while line:
            line = line[os.write(self._file, line) :]
        self.samples[sample.draw] = sample

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
