"""What the tiny policy reads: worked solutions, and practice in copying, checking and recalling.

A solution is a question and one attempt, right or not, with no word of reflection. A practice document (headed
"Practice.") is several attempts at one question with idle lines between them: start again from the question, go back to
a line by naming it, and check the last one. Distances and numbers of lines vary, because a small model otherwise
learns where things stand instead of what they say (measured: a verdict right 198 times in 200 at the usual place, once
in 200 two lines later).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

from trainers.tiny import chain, countdown
from trainers.tiny.tasks import Lesson, Line, State, attempt

HEADER = "Practice."
RETRY = "Retry."
BACK = "Back to where we"
CHECK = {True: "Right.", False: "Wrong."}
PLANNED = 0.8
"""Share of countdown solutions that look ahead."""
COUNTDOWNS = 0.7
"""Share of the lessons that are countdowns: a chain of sums takes twice as many tokens."""
SHARES = {"solution": 0.5, "practice": 0.12, "sums": 0.12, "judge": 0.16, "echo": 0.06, "recall": 0.04}
"""How often each kind of document comes."""
EARLY_SHARES = {"solution": 0.36, "practice": 0.08, "sums": 0.3, "judge": 0.1, "echo": 0.12, "recall": 0.04}
"""The same at first: whoever cannot add yet learns little from choosing and checking."""
ASKED = 0.1
"""How often a question is learned, not only read: numbers drawn at random teach nothing, but later training may read
them as text, and should find nothing strange in them."""


@dataclass(frozen=True)
class Span:
    """A piece of a document. Falsified and idle lines are read but not learned."""

    text: str
    learn: bool = True


def stream(seed: int, shares: Mapping[str, float] = SHARES) -> Iterator[list[Span]]:
    """Documents without end; the same seed gives the same ones."""
    rng = Random(seed)
    kinds, weights = [KINDS[name] for name in shares], list(shares.values())
    while True:
        yield rng.choices(kinds, weights)[0](rng)


def lesson_of(rng: Random) -> Lesson:
    """A problem of either family."""
    return (countdown.lesson if rng.random() < COUNTDOWNS else chain.lesson)(rng)


def sums(rng: Random) -> list[Span]:
    """Equations alone, as solutions hold them; only the results are learned."""
    spans = [Span(f"{HEADER}\n\n", learn=False)]
    while len(spans) < 12:
        for line in attempt(lesson_of(rng).start, rng, plan=rng.random() < PLANNED)[:-1]:
            left, sign, right = line.text.partition(": ")[2].partition(" = ")
            result = right.partition(", ")[0]  # hit or miss: nobody can know without the target
            spans += [Span(f"Note: {left}", learn=False), Span(f"{sign}{result}\n\n")]
    return spans


def judge(rng: Random) -> list[Span]:
    """Single steps, each judged: a countdown's last, which reaches the target or not, and a chain's, true or false."""
    spans = [Span(f"{HEADER}\n\n", learn=False)]
    for _ in range(rng.randint(3, 6)):
        lesson = lesson_of(rng)
        right, slip = rng.random() < 0.5, False
        state: State | None = lesson.start
        if isinstance(state, countdown.Countdown):
            state = state.next_line(rng, plan=True).after
            assert isinstance(state, countdown.Countdown)
            if not right:  # another target, which is seldom reached
                state = countdown.Countdown(state.items, rng.randint(10, 75))
        else:
            slip = not right
        assert state is not None
        line = state.next_line(rng, plan=True, slip=slip)
        end = line.after
        right = line.honest and (not isinstance(end, countdown.Countdown) or end.items[0].value == end.target)
        head, colon, equation = line.text.partition(": ")
        left, sign, result = equation.partition(" = ")
        spans += [Span(head + colon, learn=False), Span(left, right), Span(f"{sign}{result}\n\n", line.honest)]
        spans += [*idle(rng), Span(f"{CHECK[right]}\n\n")]
    return spans


def recall(rng: Random) -> list[Span]:
    """Lines of several solutions, and one of them again, named by the state it starts from."""
    lines = [attempt(lesson_of(rng).start, rng, plan=True)[0].text for _ in range(rng.randint(1, 5))]
    spans = [Span(f"{HEADER}\n\n", learn=False)]
    for line in lines:
        left, sign, right = line.partition(" = ")
        spans += [Span(left, learn=False), Span(f"{sign}{right}\n\n")]
    again = rng.choice(lines)
    return [*spans, *idle(rng), Span(f"{BACK} {again[0].lower()}{again[1:]}")]


def echo(rng: Random) -> list[Span]:
    """A list of numbers or a chain of terms, and the same again after "Retry."."""
    count = rng.randint(2, 9)
    if rng.random() < 0.5:
        rest = [f", {rng.randint(1, countdown.LARGEST)}" for _ in range(count)]
    else:
        rest = [f" {rng.choice('+-')} {rng.randint(0, 9)}" for _ in range(count)]
    line = f"Use {rng.randint(0, 20)}{''.join(rest)}"
    return [Span(f"{HEADER}\n\n{line}\n\n", learn=False), *idle(rng), Span(f"{RETRY}\n\n{line}")]


def solution(rng: Random) -> list[Span]:
    """A question and one attempt."""
    lesson = lesson_of(rng)
    lines = attempt(lesson.start, rng, plan=rng.random() < PLANNED)
    return [Span(lesson.question + "\n\n", rng.random() < ASKED), Span("\n\n".join(line.text for line in lines))]


def practice(rng: Random) -> list[Span]:
    """One to three attempts at a question, each taken up again whether it was right or not, and the last one judged.

    Never a judgement and then another attempt: to go on because something was wrong is what SFT is to teach. (With
    that in its lessons a policy without any trace found it again in 30 steps of RL.)
    """
    lesson = lesson_of(rng)
    spans = [Span(f"{HEADER}\n\n{lesson.question}\n\n", learn=False)]
    position: State = lesson.start
    for left in reversed(range(rng.randint(1, 3))):
        slip = lesson.family == "chain_sum" and rng.random() < 0.5
        lines = attempt(position, rng, plan=rng.random() < 0.5, slip=slip)
        spans += [Span(line.text + "\n\n", line.honest) for line in lines]
        spans += idle(rng)
        if left:
            position = jump(lesson, lines, spans, rng)
    return [*spans, Span(CHECK[is_right(lesson, lines)])]


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
    low, high = -20, countdown.LARGEST
    return [Span(f"Note {rng.randint(low, high)}, {rng.randint(0, high)}\n\n", learn=False) for _ in range(count)]


KINDS = {"solution": solution, "practice": practice, "sums": sums, "judge": judge, "echo": echo, "recall": recall}
"""The makers of documents by the names that SHARES uses."""
