"""The examination: held-out problems in reasoning-gym's own words, one honest sample each, graded exactly.

Kept apart from the factory's grader on purpose: the card's numbers should not move when that one changes.
"""

import re
from typing import TYPE_CHECKING, Any

import msgspec

from processors.adaptive import wilson
from schemas.tiny_problems import FAMILIES, is_held_out
from trainers.tiny import tokenizer
from trainers.tiny.architecture import CONTEXT, Recipe
from trainers.tiny.expression import parse

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

SEED = 982_451_653
"""reasoning-gym seed of the held-out problems."""
ROOM = 160
"""Most tokens of a response."""
TOGETHER = 100
"""Questions answered at a time."""
_ANSWER = re.compile(r"Answer: ([^\n]*)\Z")


class Grade(msgspec.Struct, frozen=True, kw_only=True):
    """What one family's held-out problems gave at temperature 1, one sample each."""

    right: int
    problems: int
    low: float
    """95 % Wilson interval of the pass rate."""
    high: float
    unreadable: int
    """Responses without an answer line that can be read."""
    tokens: float
    """Mean response length in tokens."""
    distinct: float
    """Mean number of different responses among four samples of one problem."""
    any_of_four: float
    """Share of those problems that one of the four solved."""

    @property
    def rate(self) -> float:
        """pass@1."""
        return self.right / max(1, self.problems)


def problems(family: str, count: int, seed: int = SEED) -> list[dict[str, Any]]:
    """Held-out problems: reasoning-gym entries (question, answer, metadata)."""
    import reasoning_gym

    found: list[dict[str, Any]] = []
    entries = reasoning_gym.create_dataset(family, seed=seed, size=count * 16 + 200, **FAMILIES[family])
    for index in range(count * 16 + 200):
        entry = entries[index]
        if is_held_out(family, entry["metadata"]):
            found.append(entry)
        if len(found) == count:
            break
    return found


def is_right(family: str, entry: dict[str, Any], response: str) -> bool | None:
    """Whether a response's answer is right; None where it cannot be read."""
    match = _ANSWER.search(response)
    if match is None:
        return None
    read = parse(match.group(1))
    if read is None:
        return None
    value, numbers = read
    if family == "countdown":
        metadata = entry["metadata"]
        return sorted(numbers) == sorted(metadata["numbers"]) and value == metadata["target"]
    return value == int(entry["answer"])


def examine(model: "PreTrainedModel", words: "Tokenizer", recipe: Recipe) -> dict[str, Grade]:
    """The grade of each family."""
    return {family: _grade(family, model, words, recipe) for family in FAMILIES}


def _grade(family: str, model: "PreTrainedModel", words: "Tokenizer", recipe: Recipe) -> Grade:
    asked = problems(family, recipe.examined)
    texts, lengths = answer(model, words, [entry["question"] for entry in asked], recipe.seed + 1)
    verdicts = [is_right(family, entry, text) for entry, text in zip(asked, texts, strict=True)]
    few = asked[: max(1, recipe.examined // 4)]
    again, _ = answer(model, words, [entry["question"] for entry in few for _ in range(4)], recipe.seed + 2)
    groups = [again[start : start + 4] for start in range(0, len(again), 4)]
    solved = [any(is_right(family, entry, text) for text in group) for entry, group in zip(few, groups, strict=True)]
    right = sum(verdict is True for verdict in verdicts)
    low, high = wilson(right, len(asked))
    return Grade(
        right=right,
        problems=len(asked),
        low=low,
        high=high,
        unreadable=sum(verdict is None for verdict in verdicts),
        tokens=sum(lengths) / max(1, len(lengths)),
        distinct=sum(len(set(group)) for group in groups) / len(groups),
        any_of_four=sum(solved) / len(solved),
    )


def answer(
    model: "PreTrainedModel", words: "Tokenizer", questions: list[str], seed: int
) -> tuple[list[str], list[int]]:
    """One sample at temperature 1 for each question: (texts without the end token, lengths in tokens)."""
    import torch

    torch.manual_seed(seed)
    answers = [
        one
        for start in range(0, len(questions), TOGETHER)
        for one in _some(model, words, questions[start : start + TOGETHER])
    ]
    return [text for text, _ in answers], [length for _, length in answers]


def _some(model: "PreTrainedModel", words: "Tokenizer", questions: list[str]) -> list[tuple[str, int]]:
    import torch

    end, pad = tokenizer.end_and_pad(words)
    prompts = [words.encode(question.strip() + "\n\n").ids for question in questions]
    widest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (widest - len(prompt)) + prompt for prompt in prompts])
    with torch.no_grad():
        sampled = model.generate(
            input_ids=ids,
            attention_mask=torch.ne(ids, pad).long(),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=min(ROOM, CONTEXT - widest),
            eos_token_id=end,
            pad_token_id=pad,
        )
    responses = [[token for token in row if token != pad] for row in sampled[:, widest:].tolist()]
    cut = [response[: response.index(end)] if end in response else response for response in responses]
    return [(words.decode(response), len(response)) for response in cut]
