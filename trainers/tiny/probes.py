"""Teacher-forced probes: is each skill there that reflection will need, and does it survive distance?

A probe is a text up to a point and what must follow; it is passed when the model's most likely token is right at every
position of what follows (of a judgement: the likelier of the two). Documents of the probes are made like the lessons'
but from another seed.
"""

from collections.abc import Callable, Collection
from random import Random
from typing import TYPE_CHECKING

from trainers.tiny import chain, countdown, documents
from trainers.tiny.architecture import Recipe
from trainers.tiny.tasks import Lesson, Line, attempt

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

SEED = 7_368_787
DISTANCES = (0, 2, 5, 10)
"""Idle lines between what is asked for and what it depends on."""

Probe = tuple[str, str]


def measure(model: "PreTrainedModel", words: "Tokenizer", recipe: Recipe) -> dict[str, float]:
    """The share of passed probes by 'kind|family|distance'."""
    found: dict[str, float] = {}
    for family, lesson in (("countdown", countdown.lesson), ("chain_sum", chain.lesson)):
        for name, kind, distances in KINDS:
            for distance in distances:
                rng = Random(f"{SEED}:{family}:{name}:{distance}")
                made = [kind(lesson(rng), distance, rng) for _ in range(recipe.probes)]
                # Whether a judgement comes now is not the question, only which one.
                among = documents.CHECK.values() if kind is verdict else None
                found[f"{name}|{family}|{distance}"] = passed(model, words, made, among)
    return found


def copying(lesson: Lesson, distance: int, rng: Random) -> Probe:
    """A fresh start must name the question's numbers, so many lines behind a failed attempt."""
    lines = attempt(lesson.start, rng, plan=False)
    first = lesson.start.next_line(rng, plan=False).text
    state = first[: first.index(":")]
    before = _practice(lesson, lines) + _idle(distance, rng) + f"{documents.CHECK[False]}\n\n{documents.RETRY}\n\n"
    return before, state


def recalling(lesson: Lesson, distance: int, rng: Random) -> Probe:
    """A line named by the state it starts from must be told to its end."""
    lines = attempt(lesson.start, rng, plan=False)
    line = lines[rng.randrange(max(1, len(lines) - 2))].text
    head = line[: line.index(":") + 1]
    before = _practice(lesson, lines) + _idle(distance, rng)
    return before + f"{documents.CHECK[False]}\n\n{documents.BACK} u{head[1:]} ", line[len(head) + 1 :]


def verdict(lesson: Lesson, distance: int, rng: Random) -> Probe:
    """An attempt is judged, so many lines behind it; half of the attempts are right."""
    while True:
        slip = lesson.family == "chain_sum" and rng.random() < 0.5
        lines = attempt(lesson.start, rng, plan=rng.random() < 0.5, slip=slip)
        right = documents.is_right(lesson, lines)
        if right == (rng.random() < 0.5):
            return _practice(lesson, lines) + _idle(distance, rng), documents.CHECK[right]


def arithmetic(lesson: Lesson, distance: int, rng: Random) -> Probe:
    """The result of one operation on two numbers, in a plain solution."""
    del distance
    while True:
        lines = attempt(lesson.start, rng, plan=False)
        single = [i for i, line in enumerate(lines[:-1]) if line.text.partition(": ")[2].count(" ") == 4]
        if single:
            break
    at = rng.choice(single)
    head, _, result = lines[at].text.rpartition(" = ")
    return f"{lesson.question}\n\n" + "".join(line.text + "\n\n" for line in lines[:at]) + f"{head} = ", result


def leaping(lesson: Lesson, distance: int, rng: Random) -> Probe:
    """A line's result, whatever it takes."""
    del distance
    lines = attempt(lesson.start, rng, plan=False)
    at = rng.randrange(len(lines) - 1)
    head, _, result = lines[at].text.rpartition(" = ")
    return f"{lesson.question}\n\n" + "".join(line.text + "\n\n" for line in lines[:at]) + f"{head} = ", result


def _practice(lesson: Lesson, lines: list[Line]) -> str:
    return f"{documents.HEADER}\n\n{lesson.question}\n\n" + "".join(line.text + "\n\n" for line in lines)


def _idle(distance: int, rng: Random) -> str:
    return "".join(span.text for span in documents.idle(rng, distance))


Kind = Callable[[Lesson, int, Random], Probe]
KINDS: tuple[tuple[str, Kind, tuple[int, ...]], ...] = (
    ("copying", copying, DISTANCES),
    ("recalling", recalling, DISTANCES),
    ("verdict", verdict, DISTANCES),
    ("arithmetic", arithmetic, (0,)),
    ("any step", leaping, (0,)),
)


def passed(
    model: "PreTrainedModel", words: "Tokenizer", made: list[Probe], among: Collection[str] | None = None
) -> float:
    """The share of probes whose continuation is the model's first choice throughout (of `among` alone, if given)."""
    import torch

    texts = [words.encode(before + after).ids for before, after in made]
    tails = [words.encode(after).ids for _, after in made]
    longest = max(map(len, texts))
    # Padding behind a text changes nothing before it.
    ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    if among:
        allowed = [words.token_to_id(text) for text in among]
        logits[..., [token for token in range(logits.shape[-1]) if token not in allowed]] = -torch.inf
    best = logits.argmax(-1).tolist()
    hits = 0
    for text, tail, row in zip(texts, tails, best, strict=True):
        assert text[-len(tail) :] == tail  # the cut falls between two tokens
        hits += row[len(text) - len(tail) - 1 : len(text) - 1] == tail
    return hits / max(1, len(made))
