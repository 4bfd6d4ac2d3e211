"""Every message that crosses a topic, in one place, because these types ARE the contract between the stages.

A message is a frozen msgspec struct, JSON on the wire (readable by any Kafka tool), and a row of the table of
the same name (schemas/tables.py derives the Arrow schema from these annotations; the round trip is lossless).
Ids are content hashes, so the same input always gets the same id, on any machine and after any crash.
"""

import hashlib
from typing import Annotated, Literal

import msgspec

Outcome = Literal["correct", "wrong", "unparsable", "timeout", "rejected"]
Arm = Literal["direct", "search", "best_of_n"]
Grader = str
"""countdown, numeric, math, text, gym, or one that a package adds (schemas/plugins.py)."""


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all messages; unknown or missing fields are refused at decoding."""


def content_id(*parts: object) -> str:
    """The first 20 hex digits of the sha256 over the parts, each length-prefixed so that no two lists collide."""
    digest = hashlib.sha256()
    for part in parts:
        data = str(part).encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()[:20]


class Problem(Message, frozen=True, kw_only=True):
    """A question with a gold answer. `id` is content_id(source, question, answer)."""

    id: str
    question: str
    answer: str
    grader: Grader = "math"
    source: str
    """Where it came from: 'countdown', 'chain_sum', 'gsm8k_train', ..."""
    index: int = 0
    """Position within its source (generator index or line number), for resuming."""
    difficulty: float = 0.0
    metadata: str = ""
    """JSON for the grader, never evaluated. countdown: {"numbers": [...], "target": n}; gym: gym_graders.Scored."""


class Node(Message, frozen=True, kw_only=True):
    """One search node: a step of a solution. The root has id 0, parent -1 and no text."""

    id: int
    parent: int
    depth: int
    text: str
    token_ids: list[int]
    """The step's tokens exactly as sampled, delimiter included; the state is the prompt plus the path's tokens."""
    logprob: float = 0.0
    """Mean token log-probability (nats) of the step under the searching policy."""
    prior: float = 1.0
    """pi(a|S): softmax over the siblings of `logprob`."""
    visits: int = 0
    q: float = 0.0
    value: float = 0.0
    """R(S): the mean verifier score of this node's own rollouts, or of its verdict when terminal, in [0, 1]."""
    rollouts: int = 0
    rollouts_correct: int = 0
    terminal: bool = False
    answer: str = ""
    verdict: str = ""
    """An Outcome for terminal nodes, '' otherwise."""
    votes: int = 0
    votes_yes: int = 0
    merged: int = 1
    """How many sampled siblings had this very text."""
    cut: bool = False
    """A reserved phrase (a reflection) was found in the step and the step was cut there."""
    adopted: bool = False
    """Taken from a rollout: no part of selection and values, so visits, prior and q are 0 above its terminal."""


class Tree(Message, frozen=True, kw_only=True):
    """A finished search over one problem; nodes[i].id == i, parents come before children."""

    id: str
    problem: Problem
    nodes: list[Node]
    strategy: str = "mcts"
    policy_version: int
    policy_sha: str
    seed: int
    iterations: int
    generated_tokens: int
    prompt_tokens: int
    requests: int
    seconds: float
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
    text: str


class Trace(Message, frozen=True, kw_only=True):
    """A walk over a tree (Algorithm 1) put into words (procedure cloning)."""

    id: str
    tree_id: str
    tree_sha: str
    problem: Problem
    arm: Arm
    walk: list[int]
    segments: list[Segment]
    text: str
    backtracks: int
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
    """A trace that passed the verifier's checks: what SFT trains on. `id` is the trace's id."""

    id: str
    tree_id: str
    trace_sha: str
    problem: Problem
    arm: Arm
    text: str
    backtracks: int
    verdict: Outcome
    checks: list[str]
    """The names of the checks it passed."""


class Prompt(Message, frozen=True, kw_only=True):
    """A problem chosen for RL. `id` is the group id: content_id("prompt", problem id, round)."""

    id: str
    problem: Problem
    round: int
    why: str
    pass_rate: float = -1.0
    """Measured pass rate in [0, 1] when it was chosen; -1 where none was measured yet."""


class Span(Message, frozen=True, kw_only=True):
    """Response tokens [start, stop) were sampled under this version of the weights."""

    version: int
    sha: str
    start: int
    stop: int


class Rollout(Message, frozen=True, kw_only=True):
    """One sampled response, token-exact."""

    token_ids: list[int]
    logprobs: list[float]
    """Behaviour log-probability (nats) of each token; same length as token_ids."""
    spans: list[Span]
    finish: Literal["stop", "length", "abort"]
    text: str


class RolloutGroup(Message, frozen=True, kw_only=True):
    """All responses to one prompt. `id` is the prompt's (group) id."""

    id: str
    problem: Problem
    round: int
    prompt_ids: list[int]
    rollouts: list[Rollout]
    temperature: float = 1.0
    """Of the distribution that the rollouts were drawn from, and that their log-probs are of."""
    seconds: float = 0.0


class RewardGroup(Message, frozen=True, kw_only=True):
    """A rollout group with one reward and one verdict per rollout, in the same order."""

    id: str
    problem: Problem
    round: int
    rollouts_sha: str
    prompt_ids: list[int]
    rollouts: list[Rollout]
    rewards: list[float]
    verdicts: list[Outcome]
    backtracks: list[int]
    temperature: float = 1.0
    """The rollout group's: what a trainer's log-probs must be of, too."""


class Weights(Message, frozen=True, kw_only=True):
    """A published version of the policy. A version number is never used twice."""

    policy: str
    version: int
    parent: int
    """The version it was trained from; -1 for the base."""
    path: str
    """A directory that transformers and vLLM open as it is."""
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9A-Za-z]{1,64}$")]
    """Of the safetensors file (hex). It names a file of samples, so it is never a path."""
    trainer: Literal["base", "sft", "rl"]
    run: str = ""
    step: int = 0
    data: str = ""
    """SFT: the SQL query and table version; RL: the range of steps."""
    probe_ids: list[int] = []
    """A fixed token sequence; a worker that loaded the weights must reproduce probe_logprobs on it."""
    probe_logprobs: list[float] = []
    """The trainer's log-probs (nats) of probe_ids[1:] given what precedes them."""
    handover: bool = False
    """True on SFT's last version: RL goes on from here and SFT publishes no more."""
    time: float = 0.0


class Evaluation(Message, frozen=True, kw_only=True):
    """What one version scores on held-out problems of one source ('all' = the mean over every problem)."""

    id: str
    policy: str
    """policy.name, or for a policy that `factory evaluate --problems` was given: its path."""
    version: int
    """-1 for such a policy."""
    sha: str
    trainer: str
    source: str
    problems: int
    asked: str = ""
    """Names what was asked and how: problems, samples, seeds, prompt format, temperature, length, k."""
    samples: int
    """Samples a problem."""
    greedy: bool
    temperature: float = 1.0
    max_tokens: int = 0
    pass_at_1: float
    low: float
    """95% interval over problems (trainers/scores.py says which)."""
    high: float
    ks: list[int] = []
    """The k of pass_at_k and maj_at_k, ascending; in each list the values stand in this order."""
    pass_at_k: list[float] = []
    pass_at_k_low: list[float] = []
    """95% interval, as `low`."""
    pass_at_k_high: list[float] = []
    maj_at_k: list[float] = []
    maj_at_k_low: list[float] = []
    maj_at_k_high: list[float] = []
    tokens: float
    """Mean response length in tokens."""
    backtracks: float
    """Mean number of backtracks a response."""
    unparsable: float
    """Share of responses without a readable answer."""
    truncated: float = 0.0
    """Share of responses that max_tokens cut off."""
    seconds: float = 0.0
    """Of the process that finished it."""
    time: float = 0.0


class Answers(Message, frozen=True, kw_only=True):
    """All that one version answered to one problem of an evaluation; what Evaluation says can be computed from these.

    `id` is content_id("answers", asked, version, sha, problem id). Each list has a value a sample, in their order.
    """

    id: str
    asked: str
    """The evaluation's (Evaluation.asked of the source 'all')."""
    policy: str
    version: int
    sha: str
    trainer: str
    problem: Problem
    texts: list[str]
    verdicts: list[Outcome]
    tokens: list[int]
    backtracks: list[int]
    finishes: list[str]
    """'stop', or 'length' where max_tokens cut it off."""
    time: float = 0.0


class TrainingStep(Message, frozen=True, kw_only=True):
    """One optimizer step of SFT or RL. `id` is 'run:step'."""

    id: str
    run: str
    trainer: Literal["sft", "rl"]
    step: int
    version: int
    """The version these weights were started from or last published as."""
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    """Trained (loss-bearing) tokens."""
    rows: list[str]
    """The ids trained on, in order: trace ids (SFT) or group ids (RL)."""
    rollouts: int = 0
    seconds: float = 0.0
    table_version: int = -1
    reward: float = 0.0
    entropy: float = 0.0
    kl: float = 0.0
    """KL(behaviour || current) estimate (k3) on the batch, nats a token."""
    clip_share: float = 0.0
    """Share of the tokens that the clip holds or whose importance weight is truncated."""
    clip_low: float = 0.0
    """Share of the tokens that the clip holds at its low end."""
    clip_high: float = 0.0
    truncated: float = 0.0
    """Share of the tokens whose importance weight is truncated (rl.tis_cap)."""
    ess: float = 0.0
    """Effective sample size of the importance weights, as a share of the tokens."""
    lag_mean: float = 0.0
    lag_max: int = 0
    length: float = 0.0
    backtracks: float = 0.0
    objective: str = ""
    """RL: the objective's parts, decided, as JSON."""
    time: float = 0.0


class Filtered(Message, frozen=True, kw_only=True):
    """An id that was taken in and deliberately gave no output, and why. `id` is content_id(stage, input_id, why)."""

    id: str
    stage: str
    input_topic: str
    input_id: str
    why: str
    rollouts: int = 0
    tokens: int = 0
    source: str = ""
    difficulty: float = 0.0
    time: float = 0.0


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
    stage: str
    topic: str
    """The topic it was read from; '' for a line of a file."""
    partition: int = -1
    offset: int = -1
    input_id: str = ""
    """The message's id where it could be read."""
    key: bytes = b""
    value: bytes = b""
    file: str = ""
    line: int = -1
    error: str
    detail: str = ""
    attempt: int = 1
    time: float = 0.0
