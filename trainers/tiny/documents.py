"""What the tiny policy reads: worked solutions, and practice in copying, checking and recalling.

A solution is a question and one attempt, right or not, with no word of reflection. A practice document (headed
"Practice.") is several attempts at one question with idle lines between them: check the last one, start again from the
question, or go back to a line by naming it. Distances and numbers of lines vary, because a small model otherwise
learns where things stand instead of what they say (measured: a verdict right 198 times in 200 at the usual place, once
in 200 two lines later).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from trainers.tiny import chain, countdown
from trainers.tiny.tasks import Lesson, Line, State, attempt

HEADER = "Practice."
RETRY = "Retry."
BACK = "Back to where we"
CHECK = {True: "Right.", False: "Wrong."}
PLANNED = 0.5
"""Share of countdown solutions that look ahead."""
PRACTICE = 0.2
"""Share of practice at problems among documents."""
ECHOES = 0.15
"""Share of echoes: a line and, further down, the same line. They are how a small model learns to copy at all."""


@dataclass(frozen=True)
class Span:
    """A piece of a document. Falsified and idle lines are read but not learned."""

    text: str
    learn: bool = True


def stream(seed: int) -> Iterator[list[Span]]:
    """Documents without end; the same seed gives the same ones."""
    rng = Random(seed)
    while True:
        lesson = (countdown.lesson if rng.random() < 0.5 else chain.lesson)(rng)
        kind = rng.random()
        if kind < ECHOES:
            yield echo(rng)
        elif kind < ECHOES + PRACTICE:
            yield practice(lesson, rng)
        else:
            yield solution(lesson, rng)


def echo(rng: Random) -> list[Span]:
    """A list of numbers or a chain of terms, and the same again after "Retry."."""
    count = rng.randint(2, 9)
    if rng.random() < 0.5:
        rest = [f", {rng.randint(1, 99)}" for _ in range(count)]
    else:
        rest = [f" {rng.choice('+-')} {rng.randint(0, 9)}" for _ in range(count)]
    line = f"Use {rng.randint(0, 20)}{''.join(rest)}"
    return [Span(f"{HEADER}\n\n{line}\n\n", learn=False), *idle(rng), Span(f"{RETRY}\n\n{line}")]


def solution(lesson: Lesson, rng: Random) -> list[Span]:
    """A question and one attempt."""
    lines = attempt(lesson.start, rng, plan=rng.random() < PLANNED)
    return [Span(lesson.question + "\n\n"), Span("\n\n".join(line.text for line in lines))]


def practice(lesson: Lesson, rng: Random) -> list[Span]:
    """Attempts at one question until one is right (at most four), each checked, with idle lines between."""
    spans = [Span(f"{HEADER}\n\n{lesson.question}\n\n")]
    position: State = lesson.start
    for turn in range(4):
        slip = rng.random() < (0.5 if lesson.family == "chain_sum" else 0.15) and turn < 3
        lines = attempt(position, rng, plan=turn > 0 or rng.random() < 0.3, slip=slip)
        right = is_right(lesson, lines)
        spans += [Span(line.text + "\n\n", line.honest) for line in lines]
        spans += idle(rng)
        spans.append(Span(CHECK[right]))
        if right or turn == 3:
            break
        position = jump(lesson, lines, spans, rng)
    return spans


def is_right(lesson: Lesson, lines: list[Line]) -> bool:
    """Whether these lines, which end in an answer, are a right solution: honest, and the gold value reached."""
    if not all(line.honest for line in lines):
        return False
    last = lines[-2].after if len(lines) > 1 else lesson.start
    return (last.items[0].value if isinstance(last, countdown.Countdown) else _total(last)) == lesson.gold


def _total(state: State | None) -> int:
    assert isinstance(state, chain.Chain)
    return state.total


def jump(lesson: Lesson, lines: list[Line], spans: list[Span], rng: Random) -> State:
    """Writes how an attempt is taken up again, and gives the state to go on from."""
    spans.append(Span("\n\n"))
    spans += idle(rng)
    good = 0
    while good < len(lines) - 2 and lines[good].honest:
        good += 1
    if good == 0 or rng.random() < 0.5:
        spans.append(Span(f"{RETRY}\n\n"))
        return lesson.start
    line = lines[rng.randrange(good)]
    spans.append(Span(f"{BACK} {line.text[0].lower()}{line.text[1:]}\n\n"))
    assert line.after is not None
    return line.after


def idle(rng: Random, count: int | None = None) -> list[Span]:
    """Lines that mean nothing; by default mostly none, else one to ten."""
    if count is None:
        count = 0 if rng.random() < 0.7 else rng.randint(1, 10)
    return [Span(f"Note {rng.randint(-20, 199)}, {rng.randint(0, 99)}\n\n", learn=False) for _ in range(count)]
