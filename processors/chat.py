r"""How a policy is spoken to: prompts, steps and answers as text and tokens. The one home of the chat format.

A policy is a directory that transformers opens; its tokenizer's chat template wraps the question. Steps are
separated by a blank line; a step that states the final answer (`\\boxed{}` or `Answer:`) is terminal.
"""

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from processors.expired import expired
from schemas.errors import Told, first_line
from schemas.messages import content_id
from schemas.settings import PolicySection

STEP_END = "\n\n"
INSTRUCTION = (
    "Solve the problem step by step. Separate the steps by a blank line. "
    "End with a line of its own that says 'Answer: ' and the final answer."
)
REFLECTION = "But wait, are we solving the problem correctly so far? Hmm..."
VERDICT_BAD = "I'm not sure if we're solving the problem correctly so far."
VERDICT_GOOD = "Our solution seems to be correct so far."
GO_BACK = "Let's go back to where we"
RESTART = "Let's restart our solution from the beginning"
RESERVED = ("But wait", "I'm not sure if we're", "Our solution seems", GO_BACK, "Let's restart")
"""Beginnings of the fixed phrases: an ordinary step never holds one."""

_BOXED = re.compile(r"\\boxed\s*\{")
_ANSWER = re.compile(r"(?im)^\W{0,4}(?:the )?(?:final )?answer(?: is)?\s*[:=]\s*\S")


class BadPolicy(Told, ValueError):
    """The policy cannot be used; the text says what to do."""


def resolve(path: str) -> str:
    """The directory (or hub name) behind a policy setting; 'tiny' is the packaged one.

    Raises:
        BadPolicy: for a directory without a config.json.
    """
    if path == "tiny":
        return str(Path(__file__).parent.parent / "trainers" / "tiny" / "model")
    directory = Path(path).expanduser()
    if directory.exists() or path.startswith((".", "/", "~")):
        if not (directory / "config.json").exists():
            why = expired(directory) or "no config.json there"
            raise BadPolicy(f"{path}: {why}; give a directory that transformers can open")
        return str(directory.resolve())
    return path


def states_answer(step: str) -> bool:
    """Whether a step states a final answer, which makes its node terminal."""
    return bool(_BOXED.search(step) or _ANSWER.search(step))


def cut_reserved(step: str) -> tuple[str, bool]:
    """The step up to its first reserved phrase, and whether one was there (a trained policy reflects inside steps)."""
    found = [at for phrase in RESERVED if (at := step.find(phrase)) >= 0]
    return (step[: min(found)], True) if found else (step, False)


def count_backtracks(text: str) -> int:
    """How often a response goes back: the jumps that the fixed phrases announce."""
    return text.count(GO_BACK) + text.count(RESTART)


class Chat:
    """A policy's tokenizer with its chat format.

    Args:
        path: a resolved policy directory or hub name.
        settings: few_shot: 'none', 'auto' or a JSON file of [{"question": ..., "answer": ...}].

    Raises:
        BadPolicy: no usable tokenizer is there.
    """

    def __init__(self, path: str, settings: PolicySection) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            hint = "check the name, or give a directory with the model and its tokenizer"
            raise BadPolicy(f"{path}: no tokenizer that can be opened ({first_line(error)}); {hint}") from error
        if not self.tokenizer.chat_template:
            raise BadPolicy(f"{path}: its tokenizer has no chat template; add chat_template.jinja to the directory")
        added = (str(token) for token in self.tokenizer.added_tokens_decoder.values())
        self.control = sorted({*self.tokenizer.all_special_tokens, *added}, key=len, reverse=True)
        """Every text that the tokenizer would read as a token of its own, longest first."""
        self.instruct = self._is_general(path)
        wanted = "none" if settings.few_shot == "auto" and not self.instruct else settings.few_shot
        self.shots = few_shot(wanted)

    @staticmethod
    def _is_general(path: str) -> bool:
        """False for a policy that declares itself ("factory_format": "plain" in its config), as the tiny one does."""
        config = Path(path) / "config.json"
        return not config.exists() or json.loads(config.read_text("utf-8")).get("factory_format") != "plain"

    def messages(self, question: str) -> list[dict[str, str]]:
        """The conversation that asks `question`, shots first."""
        turns: list[dict[str, str]] = [{"role": "system", "content": INSTRUCTION}] if self.instruct else []
        for shot in self.shots:
            turns += [{"role": "user", "content": shot.question}, {"role": "assistant", "content": shot.answer}]
        return [*turns, {"role": "user", "content": question}]

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids of the prompt, generation header included."""
        return self.conversation_ids(self.messages(question))

    def conversation_ids(self, turns: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation that the policy is to go on with.

        Only the template makes control tokens. Where a turn spells one (a question with '<|eot_id|>' would end the
        user's turn and speak for the policy), a mark goes through the template in its place, and its letters follow.

        Raises:
            BadPolicy: the template does not keep the text of a turn.
        """
        spelled = [token for token in self.control if any(token in turn["content"] for turn in turns)]
        marks = {f"\ufdd0{content_id(number, turns)}\ufdd1": token for number, token in enumerate(spelled)}
        for mark, token in marks.items():
            turns = [{**turn, "content": turn["content"].replace(token, mark)} for turn in turns]
        text = str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        if not marks:
            return self._ids(text)
        pieces = re.split(f"({'|'.join(marks)})", text)
        if len(pieces) // 2 < sum(turn["content"].count(mark) for turn in turns for mark in marks):
            raise BadPolicy("the policy's chat template changes the text of a question: it cannot be used safely")
        return [id_ for piece in pieces for id_ in (self.encode(marks[piece]) if piece in marks else self._ids(piece))]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text as letters: none is special. A response's ids are never made this way after sampling."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True))

    @property
    def eos_id(self) -> int:
        """The token that ends a response."""
        return int(self.tokenizer.eos_token_id)


class Shot(msgspec.Struct, frozen=True):
    """A worked example in the prompt."""

    question: str
    answer: str


def few_shot(setting: str) -> list[Shot]:
    """The worked examples that a setting names.

    Raises:
        BadPolicy: for a file that does not hold them.
    """
    if setting == "none":
        return []
    path = Path(__file__).parent / "few_shot.json" if setting == "auto" else Path(setting)
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Shot])
    except (OSError, msgspec.MsgspecError) as error:
        raise BadPolicy(f'policy.few_shot = {setting}: expected JSON [{{"question", "answer"}}]: {error}') from error
