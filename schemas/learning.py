"""The messages that say what was learned: versions of the weights, their scores and answers, and the steps to them."""

from typing import Annotated, Literal

import msgspec

from schemas.message import Message, Outcome, Problem


class Weights(Message, frozen=True, kw_only=True):
    """A published version of the policy. A version number is never used twice."""

    policy: str
    """policy.name."""
    version: int
    """0 is the base."""
    parent: int
    """The version it was trained from; -1 for the base."""
    path: str
    """A directory that transformers and vLLM open as it is."""
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9A-Za-z]{1,64}$")]
    """Of the safetensors file (hex). It names a file of samples, so it is never a path."""
    trainer: Literal["base", "sft", "rl"]
    run: str = ""
    """Of the trainer, as in `training`."""
    step: int = 0
    """The run's last step before it."""
    data: str = ""
    """SFT: the SQL query and table version; RL: the range of steps."""
    probe_ids: list[int] = []
    """A fixed token sequence; a worker that loaded the weights must reproduce probe_logprobs on it."""
    probe_logprobs: list[float] = []
    """The trainer's log-probs (nats) of probe_ids[1:] given what precedes them."""
    handover: bool = False
    """True on SFT's last version: RL goes on from here and SFT publishes no more."""
    time: float = 0.0
    """When it was announced, s since the epoch."""


class Evaluation(Message, frozen=True, kw_only=True):
    """What one version scores on held-out problems of one source ('all' = the mean over every problem)."""

    id: str
    """content_id(policy, version, sha, source, asked)."""
    policy: str
    """policy.name, or for a policy that `factory evaluate --problems` was given: its path."""
    version: int
    """-1 for such a policy."""
    sha: str
    """Of the weights (hex)."""
    trainer: str
    """Who made the version: base, sft or rl."""
    source: str
    """The problems' source, or 'all'."""
    problems: int
    """How many were asked."""
    asked: str = ""
    """Names what was asked and how: problems, samples, seeds, prompt format, temperature, length, k."""
    samples: int
    """Samples a problem."""
    greedy: bool
    """Whether the most likely token was taken each time: one sample a problem."""
    temperature: float = 1.0
    """Of the samples."""
    max_tokens: int = 0
    """Of a response."""
    pass_at_1: float
    """Mean over the problems of the share of a problem's samples that are correct, in [0, 1]."""
    low: float
    """95% interval over problems (trainers/scores.py says which)."""
    high: float
    """Its upper end."""
    ks: list[int] = []
    """The k of pass_at_k and maj_at_k, ascending; in each list the values stand in this order."""
    pass_at_k: list[float] = []
    """For each k: the chance that one of k samples is correct (the unbiased estimate of arXiv 2107.03374), the
    problems' mean."""
    pass_at_k_low: list[float] = []
    """95% interval, as `low`."""
    pass_at_k_high: list[float] = []
    """Its upper end."""
    maj_at_k: list[float] = []
    """For each k: the share of problems whose most frequent answer among k samples is correct."""
    maj_at_k_low: list[float] = []
    """95% interval, as `low`."""
    maj_at_k_high: list[float] = []
    """Its upper end."""
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
    """When it was finished, s since the epoch."""


class Answers(Message, frozen=True, kw_only=True):
    """All that one version answered to one problem of an evaluation; what Evaluation says can be computed from these.

    Each list has a value a sample, in their order.
    """

    id: str
    """content_id("answers", asked, version, sha, problem id)."""
    asked: str
    """The evaluation's (Evaluation.asked of the source 'all')."""
    policy: str
    """The evaluation's."""
    version: int
    """The evaluation's."""
    sha: str
    """The evaluation's."""
    trainer: str
    """The evaluation's."""
    problem: Problem
    """What was asked."""
    texts: list[str]
    """The responses."""
    verdicts: list[Outcome]
    tokens: list[int]
    """Their lengths in tokens."""
    backtracks: list[int]
    """How often each says that it goes back."""
    finishes: list[str]
    """'stop', or 'length' where max_tokens cut it off."""
    time: float = 0.0
    """When they were graded, s since the epoch."""


class TrainingStep(Message, frozen=True, kw_only=True):
    """One optimizer step of SFT or RL."""

    id: str
    """'run:step'."""
    run: str
    """Names a beginning of the trainer: a restart goes on with its run."""
    trainer: Literal["sft", "rl"]
    step: int
    """Of the run, from 1."""
    version: int
    """The version these weights were started from or last published as."""
    loss: float
    """What the step minimised, before it."""
    lr: float
    """Learning rate of the step."""
    grad_norm: float
    """L2 norm of the gradient before it was clipped."""
    tokens: int
    """Trained (loss-bearing) tokens."""
    rows: list[str]
    """The ids trained on, in order: trace ids (SFT) or group ids (RL)."""
    rollouts: int = 0
    """RL: responses in `rows`."""
    seconds: float = 0.0
    """The step itself."""
    table_version: int = -1
    """The version of the table its rows were read from (SFT: examples, RL: rewards); -1 where from none."""
    reward: float = 0.0
    """RL: mean over the responses."""
    entropy: float = 0.0
    """RL: of the policy's next token, mean over the response tokens, nats. This and what follows to `ess` is of the
    tokens with a part in the gradient: without a KL term, those whose advantage is not zero."""
    kl: float = 0.0
    """KL(behaviour || current) estimate (k3) on the batch, nats a token."""
    clip_share: float = 0.0
    """Share of the tokens that the clip holds or whose importance weight is truncated."""
    clip_low: float = 0.0
    """Share of the tokens that the clip holds at its low end."""
    clip_high: float = 0.0
    """Share of the tokens that the clip holds at its high end."""
    truncated: float = 0.0
    """Share of the tokens whose importance weight is truncated (rl.tis_cap)."""
    ess: float = 0.0
    """Effective sample size of the importance weights, as a share of the tokens."""
    lag_mean: float = 0.0
    """RL: how many versions behind `version` a token was sampled, the mean."""
    lag_max: int = 0
    """The largest of them."""
    length: float = 0.0
    """Mean length in tokens: RL, of the responses; SFT, of the rows with their prompts."""
    backtracks: float = 0.0
    """RL: mean number of backtracks a response."""
    objective: str = ""
    """RL: the objective's parts, decided, as JSON."""
    time: float = 0.0
    """When the step ended, s since the epoch."""
