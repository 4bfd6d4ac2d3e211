"""Rewriters of ordinary steps: the model, few-shot, on the search's engine, or an installed function; all are checked.

Procedure cloning wants each step to read as a natural continuation of the text before it. Departures [ours]: a rewrite
is conditioned on the template's text so far (its last linearize.rewrite_context characters), not on the rewritten one.
So no rewrite waits for another: all steps of all traces of a tree go to the engine as one batch, and a step that
several traces tell at the same place (the same words before it) is asked once and worded the same in each. What only
states the answer is never rewritten; what fails a check of rewrite_check.py keeps its own words, and both are counted.

The weights are version 0, whatever was trained since: the words of a tree must not depend on when it is linearized. A
request's seed is of the tree, the place and the step, so that the same tree gives the same words on the same engine.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from processors.chat import STEP_END, states_answer
from processors.cloning import join, jump
from processors.policy import Completion, Generator, ProbeFailed, Request, UnknownWeights, ask_all, none_left
from processors.rewrite_check import failure
from schemas import plugins
from schemas.messages import Segment, Trace, content_id
from schemas.settings import Settings

INSTRUCTION = (
    "Say the next step of the solution in other words, so that it reads well after the solution so far. Keep every "
    "number and every formula. Add nothing, leave nothing out and do not judge it. Reply with the step only."
)
TOKEN_FACTOR, TOKEN_SLACK = 2, 32
"""Tokens that a rewrite may have: the step's times the factor, and the slack."""


class Speaker(Protocol):
    """The part of a processors.chat.Chat that rewriting needs."""

    instruct: bool

    def conversation_ids(self, turns: list[dict[str, str]]) -> list[int]:
        """The tokens of a conversation to go on with."""

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""


class Shot(msgspec.Struct, frozen=True):
    """A worked example: a step at its place, and how it is said well."""

    question: str
    so_far: str
    step: str
    rewrite: str


class Place(msgspec.Struct, frozen=True):
    """A step and what was said before it: the same place in two traces is asked once."""

    question: str
    so_far: str
    step: str


class Told(msgspec.Struct, frozen=True):
    """What became of a step: its text, and why it is its own ('' = it was rewritten)."""

    text: str
    why: str = ""


class Words(ABC):
    """Puts the traces of a tree into other words, place by place.

    Args:
        settings: linearize, factory.seed.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    async def say(self, places: Mapping[Place, Trace]) -> dict[Place, Told]:
        """What becomes of the step at each place; a trace that has the place comes with it."""

    async def rewrite(self, traces: Sequence[Trace]) -> list[Trace]:
        """The traces of one tree in other words.

        Raises:
            Exception: whatever `say` raises.
        """
        told = await self.say({place: trace for trace in traces for place in self._places(trace).values()})
        return [self._retold(trace, told) for trace in traces]

    def _places(self, trace: Trace) -> dict[int, Place]:
        """The steps of a trace that are to be rewritten, by their number among the segments."""
        places: dict[int, Place] = {}
        for at, segment in enumerate(trace.segments):
            if segment.kind == "step" and not only_answers(segment.text):
                so_far = tail(join(trace.segments[:at]), self.settings.linearize.rewrite_context)
                places[at] = Place(trace.problem.question, so_far, segment.text)
        return places

    def _retold(self, trace: Trace, told: dict[Place, Told]) -> Trace:
        """The trace with its new words; a jump quotes the ancestor's step as it is told now."""
        mine = {at: told[place] for at, place in self._places(trace).items()}
        segments: list[Segment] = []
        steps: dict[int, str] = {}
        for at, segment in enumerate(trace.segments):
            text = mine[at].text if at in mine else segment.text
            if segment.kind == "jump":
                text = jump(steps.get(segment.node, ""), phrases=trace.phrases)
            elif segment.kind == "step":
                steps[segment.node] = text
            segments.append(Segment(kind=segment.kind, node=segment.node, text=text))
        reasons = [one.why for one in mine.values() if one.why]
        return msgspec.structs.replace(
            trace,
            segments=segments,
            text=join(segments),
            rewriter=self.settings.linearize.rewriter,
            rewrites=len(mine),
            fallbacks=len(reasons),
            fallback_reasons=reasons,
        )


class Rewriter(Words):
    """The policy as rewriter.

    Args:
        settings: linearize, factory.seed.
        engine: shared with the other stages of this process.
        chat: the policy's tokenizer and template.
        weights: sha256 of version 0.
        context: tokens that prompt and response may have together.
    """

    def __init__(self, settings: Settings, engine: Generator, chat: Speaker, *, weights: str, context: int) -> None:
        super().__init__(settings)
        self.engine, self.chat, self.weights, self.context = engine, chat, weights, context
        self.shots = msgspec.json.decode(Path(__file__).with_name("rewrite_shots.json").read_bytes(), type=list[Shot])

    async def say(self, places: Mapping[Place, Trace]) -> dict[Place, Told]:
        """The model's words.

        Raises:
            Aborted: the engine gave a request up.
            UnknownWeights, NothingToServe: the base cannot be served.
            EngineDied: the engine's.
        """
        requests = {place: self._request(place, trace) for place, trace in places.items()}
        asked = {place: request for place, request in requests.items() if request is not None}
        try:
            completions = await ask_all(self.engine, list(asked.values()), "a rewrite")
        except (ProbeFailed, UnknownWeights) as error:
            raise none_left([error]) from error
        told = {place: Told(place.step, "no room") for place in places}
        return told | {place: _told(place, said) for place, said in zip(asked, completions, strict=True)}

    def _request(self, place: Place, trace: Trace) -> Request | None:
        """The request; fewer examples where they leave no room for the step, None where there is none without any."""
        limit = TOKEN_FACTOR * len(self.chat.encode(place.step)) + TOKEN_SLACK
        for first in range(len(self.shots) + 1):
            prompt = self._prompt(place, self.shots[first:])
            if len(prompt) + limit <= self.context:
                parts = (trace.tree_id, trace.tree_sha, place.so_far, place.step, self.settings.factory.seed)
                return Request(
                    prompt_ids=prompt,
                    max_tokens=limit,
                    temperature=self.settings.linearize.rewrite_temperature,
                    stop=[STEP_END],
                    seed=int(content_id("rewrite", *parts)[:8], 16) >> 1,
                    weights=self.weights,
                )
        return None

    def _prompt(self, place: Place, shots: Sequence[Shot]) -> list[int]:
        turns = [{"role": "system", "content": INSTRUCTION}] if self.chat.instruct else []
        for shot in shots:
            turns.append({"role": "user", "content": asking(shot.question, shot.so_far, shot.step)})
            turns.append({"role": "assistant", "content": shot.rewrite})
        turns.append({"role": "user", "content": asking(place.question, place.so_far, place.step)})
        return self.chat.conversation_ids(turns)


class Installed(Words):
    """A function that a package adds as rewriter (docs/extending.md): (question, solution so far, step) -> its words.

    It is called in threads, for all places of a tree at once. What it raises makes a dead letter of the tree.

    Raises:
        BadPlugin: it is not installed or cannot be imported.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.function = plugins.load_function(plugins.REWRITERS, settings.linearize.rewriter)

    async def say(self, places: Mapping[Place, Trace]) -> dict[Place, Told]:
        """The function's words.

        Raises:
            BadPlugin: it gave no text.
        """
        calls = (asyncio.to_thread(self.function, place.question, place.so_far, place.step) for place in places)
        said = await asyncio.gather(*calls)
        if any(not isinstance(text, str) for text in said):
            raise plugins.BadPlugin(f"the rewriter {self.settings.linearize.rewriter!r} gave something that is no text")
        return {place: _checked(place, text.strip()) for place, text in zip(places, said, strict=True)}


def installed(settings: Settings) -> Installed | None:
    """The rewriter that a package adds, where the settings name one."""
    return None if settings.linearize.rewriter in plugins.REWRITERS.built_in else Installed(settings)


def asking(question: str, so_far: str, step: str) -> str:
    """What the model is asked about one step."""
    return f"Problem: {question}\n\nSolution so far:\n{so_far or '(nothing yet)'}\n\nNext step:\n{step}"


def only_answers(step: str) -> bool:
    """Whether a step is one line that states the answer: nothing in it may be put otherwise."""
    return states_answer(step) and "\n" not in step.strip()


def tail(text: str, length: int) -> str:
    """The last characters of a text, from the beginning of a word on."""
    if len(text) <= length:
        return text
    return text[-length:].split(" ", 1)[-1]


def _told(place: Place, said: Completion) -> Told:
    return _checked(place, said.text.strip()) if said.finish == "stop" else Told(place.step, "unfinished")


def _checked(place: Place, rewrite: str) -> Told:
    why = failure(place.step, rewrite)
    return Told(place.step, why) if why else Told(rewrite)
