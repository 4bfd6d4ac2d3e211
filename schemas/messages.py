"""Every message that crosses a topic, in one place, because these types ARE the contract between the stages.

A message is a frozen msgspec struct, JSON on the wire (readable by any Kafka tool), and a row of the table of
the same name (schemas/tables.py derives the Arrow schema from these annotations; the round trip is lossless).
Ids are content hashes, so the same input always gets the same id, on any machine and after any crash.
"""

from typing import Annotated, Literal

import msgspec

from schemas.learning import Answers, Evaluation, TrainingStep, Weights
from schemas.message import Grader, Message, Outcome, Problem, content_id

__all__ = [
    "Answers",
    "Arm",
    "DeadLetter",
    "Evaluation",
    "Example",
    "Filtered",
    "Grader",
    "Message",
    "Node",
    "Outcome",
    "Problem",
    "Prompt",
    "Reference",
    "RewardGroup",
    "Rollout",
    "RolloutGroup",
    "Segment",
    "Span",
    "Trace",
    "TrainingStep",
    "Tree",
    "Weights",
    "content_id",
]

Arm = Literal["direct", "search", "best_of_n"]


class Node(Message, frozen=True, kw_only=True):
    """One search node: a step of a solution. The root has id 0, parent -1 and no text."""

    id: int
    """Its place in the tree's list."""
    parent: int
    """The id of the node it continues."""
    depth: int
    """Steps from the root."""
    text: str
    """The words of the step."""
    token_ids: list[int]
    """The step's tokens exactly as sampled, delimiter included; the state is the prompt plus the path's tokens."""
    logprob: float = 0.0
    """Mean token log-probability (nats) of the step under the searching policy."""
    prior: float = 1.0
    """pi(a|S): softmax over the siblings of `logprob`."""
    visits: int = 0
    """N(S): how many iterations went through it."""
    q: float = 0.0
    """Q(S): the mean of the values that were backed up through it, in [0, 1]."""
    value: float = 0.0
    """R(S): the mean verifier score of this node's own rollouts, or of its verdict when terminal, in [0, 1]."""
    rollouts: int = 0
    """Continuations that were sampled from it to estimate its value."""
    rollouts_correct: int = 0
    """Those of them that the verifier called correct."""
    terminal: bool = False
    """Whether the solution ends here."""
    answer: str = ""
    """What a terminal node answers."""
    verdict: str = ""
    """An Outcome for terminal nodes, '' otherwise."""
    votes: int = 0
    """Self-evaluations that were asked of a terminal node (search.votes)."""
    votes_yes: int = 0
    """Those of them that held it right."""
    merged: int = 1
    """How many sampled siblings had this very text."""
    cut: bool = False
    """A reserved phrase (a reflection) was found in the step and the step was cut there."""
    adopted: bool = False
    """Taken from a rollout: no part of selection and values, so visits, prior and q are 0 above its terminal."""


class Tree(Message, frozen=True, kw_only=True):
    """A finished search over one problem; nodes[i].id == i, parents come before children."""

    id: str
    """content_id("tree", problem id, policy.name, search.policy, search.strategy, factory.seed)."""
    problem: Problem
    """What was searched."""
    nodes: list[Node]
    """The root first."""
    strategy: str = "mcts"
    """mcts, best_of_n, sample, or one that a package adds."""
    policy_version: int
    """Of the weights that searched."""
    policy_sha: str
    """Their sha256."""
    seed: int
    """What its samples were seeded with."""
    iterations: int
    """MCTS: rounds of selection, expansion and backing up."""
    generated_tokens: int
    """Tokens sampled, votes and rollouts included."""
    prompt_tokens: int
    """Tokens that were given to the engine, cached ones included."""
    requests: int
    """Samples that were asked of the engine."""
    seconds: float
    """From its first request to its last."""
    solved: bool
    """A correct terminal exists (that passed the votes, where votes are on)."""
    stopped: str = ""
    """Why the search ended: complete, too easy, out of reach, tokens, budget, exhausted or timeout."""
    settings: str = ""
    """The [search] settings as JSON."""


class Segment(Message, frozen=True, kw_only=True):
    """One piece of a chain of thought and the node it speaks of."""

    kind: Literal["step", "reflection", "verdict", "jump"]
    node: int
    """The id of the node in the tree."""
    text: str
    """Its words."""


class Trace(Message, frozen=True, kw_only=True):
    """A walk over a tree (Algorithm 1) put into words (procedure cloning)."""

    id: str
    """content_id(tree id, tree sha, arm, place among the tree's traces, [linearize] beside its defaults)."""
    tree_id: str
    """The tree it was made of."""
    tree_sha: str
    """Of that tree's bytes: another copy of the same search has other nodes."""
    problem: Problem
    """What it solves."""
    arm: Arm
    walk: list[int]
    """Node ids in the order in which it visits them; one that was there before is a return to it."""
    segments: list[Segment]
    """Its pieces, in order."""
    text: str
    """All of it: what a policy learns to write."""
    backtracks: int
    """How often it goes back to an earlier node."""
    wrong_answers: list[str]
    """Answers of the wrong terminals it was left at; a branch that was left before its terminal has none."""
    merge: Literal["terminal", "low_q", "random"] = "terminal"
    """Where wrong branches were left (linearize.merge)."""
    phrases: bool = True
    """Whether reflections, verdicts and returns are said in the fixed phrases."""
    rewriter: str = "template"
    """template, model, or one that a package adds."""
    rewrites: int = 0
    """Steps that the model was to put in its own words."""
    fallbacks: int = 0
    """Those of `rewrites` that kept their own text, because the rewrite failed a check."""
    fallback_reasons: list[str] = []
    """The first check that failed, one a fallback, in the order of the steps."""


class Example(Message, frozen=True, kw_only=True):
    """A trace that passed the verifier's checks: what SFT trains on."""

    id: str
    """The trace's."""
    tree_id: str
    """The trace's."""
    trace_sha: str
    """Of the trace's bytes."""
    problem: Problem
    """What it solves."""
    arm: Arm
    text: str
    """The trace's: the response that SFT trains on."""
    backtracks: int
    """The trace's."""
    verdict: Outcome
    checks: list[str]
    """The names of the checks it passed."""


class Prompt(Message, frozen=True, kw_only=True):
    """A problem chosen for RL, to be answered by a group of responses."""

    id: str
    """The group's: content_id("prompt", problem id, round)."""
    problem: Problem
    """What the policy is asked."""
    round: int
    """How often the problem has been chosen before."""
    why: str
    """What prompts.sql said of the choice (its column `why`)."""
    pass_rate: float = -1.0
    """Measured pass rate in [0, 1] when it was chosen; -1 where none was measured yet."""


class Span(Message, frozen=True, kw_only=True):
    """Response tokens [start, stop) were sampled under this version of the weights."""

    version: int
    """Of the weights."""
    sha: str
    """Their sha256."""
    start: int
    """The first token."""
    stop: int
    """The one after the last."""


class Rollout(Message, frozen=True, kw_only=True):
    """One sampled response, token-exact."""

    token_ids: list[int]
    """The response as sampled, the end token included where it ended by itself."""
    logprobs: list[float]
    """Behaviour log-probability (nats) of each token; same length as token_ids."""
    spans: list[Span]
    """Which weights sampled which tokens, in order and without gaps."""
    finish: Literal["stop", "length", "abort"]
    text: str
    """The response in words."""


class RolloutGroup(Message, frozen=True, kw_only=True):
    """All responses to one prompt."""

    id: str
    """The prompt's."""
    problem: Problem
    """The prompt's."""
    round: int
    """The prompt's."""
    prompt_ids: list[int]
    """The tokens the policy was given."""
    rollouts: list[Rollout]
    """sample.group responses."""
    temperature: float = 1.0
    """Of the distribution that the rollouts were drawn from, and that their log-probs are of."""
    seconds: float = 0.0
    """From the request to the last response."""


class RewardGroup(Message, frozen=True, kw_only=True):
    """A rollout group with one reward and one verdict per rollout, in the same order."""

    id: str
    """The prompt's."""
    problem: Problem
    """The prompt's."""
    round: int
    """The prompt's."""
    rollouts_sha: str
    """Of the rollout group's bytes."""
    prompt_ids: list[int]
    """The rollout group's."""
    rollouts: list[Rollout]
    """The rollout group's."""
    rewards: list[float]
    """One a rollout: 1 for a correct one, else -1."""
    verdicts: list[Outcome]
    backtracks: list[int]
    """One a rollout: how often it says that it goes back."""
    temperature: float = 1.0
    """The rollout group's: what a trainer's log-probs must be of, too."""


class Filtered(Message, frozen=True, kw_only=True):
    """An id that was taken in and deliberately gave no output, and why."""

    id: str
    """content_id(stage, input_id, why)."""
    stage: str
    """Which stage decided so."""
    input_topic: str
    """The topic of what it took in."""
    input_id: str
    """The id of what it took in."""
    why: str
    """The reason in words."""
    rollouts: int = 0
    """RL: responses that were left out with it."""
    tokens: int = 0
    """RL: their tokens."""
    source: str = ""
    """The problem's source, where there is a problem."""
    difficulty: float = 0.0
    """The problem's difficulty, where there is a problem."""
    time: float = 0.0
    """When it was decided, s since the epoch."""


class Reference(Message, frozen=True, kw_only=True, tag_field="reference", tag="file"):
    """Stands on a topic for a message that is larger than the broker takes; processors/large.py follows it.

    The message's bytes lie, compressed, in <data>/large/<sha256>.json.zst.
    """

    kind: str
    """The message's type."""
    id: str
    """The message's id."""
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    """Of the message's bytes."""
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    """How many they are."""


class DeadLetter(Message, frozen=True, kw_only=True):
    """What could not be processed: the original bytes untouched, where they came from, and the error."""

    id: str
    """content_id of the stage and the place it was read from."""
    stage: str
    """Which stage could not process it."""
    topic: str
    """The topic it was read from; '' for a line of a file."""
    partition: int = -1
    """Where it was read there; -1 for a line of a file."""
    offset: int = -1
    """As `partition`."""
    input_id: str = ""
    """The message's id where it could be read."""
    key: bytes = b""
    """The message's key; empty where it is too long to be copied: `detail` says so."""
    value: bytes = b""
    """The message's bytes, or the line's; empty where they are too many to be copied: `detail` says so."""
    file: str = ""
    """The file it was read from; empty for a message."""
    line: int = -1
    """Its line there, from 1; -1 for a message."""
    error: str
    """What was wrong, in a sentence."""
    detail: str = ""
    """The traceback, where there is one."""
    attempt: int = 1
    """How often it was tried."""
    time: float = 0.0
    """When it was given up, s since the epoch."""
