"""Procedure cloning: a walk over a tree put into words, one segment a sentence, each naming the node it speaks of.

The template rewriter: a step keeps its own text, and what lies between the steps are the paper's fixed phrases
(processors/chat.py). A return quotes the line it goes back to, so that a small model copies the state from nearby.
"""

import re
from collections.abc import Iterable
from itertools import pairwise
from random import Random

from processors.chat import GO_BACK, REFLECTION, RESTART, STEP_END, VERDICT_BAD, VERDICT_GOOD
from processors.linearize import Position, Walk
from schemas.messages import Segment, Tree
from schemas.search_settings import LinearizeSection

QUOTE_CHARS = 240
_INNER_BREAK = re.compile(r"\n\s*\n")
_VERBS = frozenset(
    (
        *(
            "use",
            "add",
            "subtract",
            "multiply",
            "divide",
            "compute",
            "calculate",
            "find",
            "try",
            "take",
            "combine",
            "set",
        ),
        *("simplify", "substitute", "solve", "expand", "factor", "consider", "note", "evaluate", "apply", "convert"),
    )
)
"""First words with which a step reads on after 'where we'; any other step is quoted."""


def clone(tree: Tree, walk: Walk, rng: Random, settings: LinearizeSection) -> list[Segment]:
    """The segments of a chain of thought.

    Forward: the node's step. Backtrack: reflection and verdict on the terminal just left, then the jump to the
    ancestor. A positive reflection (reflection, then the good verdict) follows the final node, and with probability
    settings.positive_share one intermediate node of the walk with Q >= settings.positive_q. Direct walks reflect at
    most at the end (settings.direct_reflects); best-of-n walks never. Without settings.phrases there are no
    reflections and verdicts, and a jump tells the ancestor's step again.
    """
    praised = _praised(tree, walk, rng, settings)
    segments: list[Segment] = []
    previous = 0
    for place, position in enumerate(walk.positions):
        if position.kind == "backtrack":
            segments += _reflection(previous, VERDICT_BAD) if settings.phrases else []
            text = jump(tree.nodes[position.node].text, phrases=settings.phrases)
            segments.append(Segment(kind="jump", node=position.node, text=text))
        elif text := step(tree.nodes[position.node].text):
            segments.append(Segment(kind="step", node=position.node, text=text))
        if place == praised:
            segments += _reflection(position.node, VERDICT_GOOD)
        previous = position.node
    if settings.phrases and (walk.arm == "search" or (walk.arm == "direct" and settings.direct_reflects)):
        segments += _reflection(previous, VERDICT_GOOD)
    return segments


def join(segments: Iterable[Segment]) -> str:
    """The chain of thought as text; a wordless segment (a jump to the root without phrases) leaves no trace in it."""
    return STEP_END.join(segment.text for segment in segments if segment.text)


def step(text: str) -> str:
    """A step's text as one paragraph."""
    return _INNER_BREAK.sub("\n", text.strip())


def jump(ancestor: str, *, phrases: bool = True) -> str:
    """The sentence that goes back behind an ancestor's step; '' (the root) restarts.

    Without phrases: the step itself, which re-inserts the ancestor as Algorithm 1 does; at the root no word.
    """
    if not phrases:
        return step(ancestor)
    text = " ".join(ancestor.split())
    if not text:
        return f"{RESTART}."
    if len(text) > QUOTE_CHARS:
        text = text[:QUOTE_CHARS].rsplit(" ", 1)[0] + " ..."
    first = text.split(" ", 1)[0]
    if first.lower() in _VERBS:
        return f"{GO_BACK} {text[0].lower()}{text[1:]}"
    return f"{GO_BACK} wrote: {text}"


def _praised(tree: Tree, walk: Walk, rng: Random, settings: LinearizeSection) -> int:
    """The place in the walk of the intermediate node that a positive reflection follows, or -1."""
    if walk.arm != "search" or rng.random() >= settings.positive_share or not settings.phrases:
        return -1
    left = {place for place, (_, after) in enumerate(pairwise(walk.positions)) if after.kind == "backtrack"}
    places = [
        place
        for place, position in enumerate(walk.positions)
        if place not in left and _is_good(tree, position, settings)
    ]
    return rng.choice(places) if places else -1


def _is_good(tree: Tree, position: Position, settings: LinearizeSection) -> bool:
    node = tree.nodes[position.node]
    inner = position.kind == "forward" and node.parent >= 0 and not node.terminal and bool(node.text.strip())
    return inner and node.visits > 0 and node.q >= settings.positive_q


def _reflection(node: int, verdict: str) -> list[Segment]:
    return [
        Segment(kind="reflection", node=node, text=REFLECTION),
        Segment(kind="verdict", node=node, text=verdict),
    ]
