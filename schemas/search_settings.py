"""The settings of the search and of what is made of its trees, [search] and [linearize]."""

from typing import Annotated, Literal

import msgspec

from schemas import plugins
from schemas.kinds import Count, NotNegative, Positive, Section, named


class SearchSection(Section, frozen=True, kw_only=True):
    """MCTS and the strategies it is compared with (docs/architecture.md names what is the paper's)."""

    policy: Literal["base", "sft", "latest"] = "base"
    """Which weights search: the base's, SFT's newest, or the newest of all."""
    strategy: str = "mcts"
    """mcts; best_of_n and sample draw whole solutions from the prompt (one example of the best, or all as one tree); or
    one that a package adds (docs/extending.md)."""
    trees_in_flight: Count = 16
    """Trees that a process grows at the same time."""
    k: Count = 4
    """Actions sampled at an expansion."""
    rollouts: Count = 4
    """M: full rollouts a new node; an upper bound where `adaptive` is on."""
    samples: Count = 64
    """N: whole solutions a problem, for the strategies best_of_n and sample."""
    iterations: Count = 8
    """Rounds of selection, expansion, rollouts and backup; an upper bound with `stop_early` and `adaptive`."""
    depth: Count = 12
    """Steps from the root to the deepest node."""
    c_puct: float = 1.0
    """Weight of the prior against Q in the selection."""
    step_tokens: Count = 48
    """A step that has no blank line by then is a dead end (a model that writes long paragraphs needs more)."""
    rollout_tokens: Count = 128
    """Tokens of a rollout at most."""
    temperature: Positive = 1.0
    """Of every step and rollout; votes are cast at it too."""
    votes: int = 0
    """Self-evaluation votes on each correct terminal; 0 = off (a policy that cannot judge)."""
    widen: bool = True
    """Progressive widening: a visited node may grow new children."""
    widen_power: float = 0.5
    """On its p-th pass a node may have been sampled ceil(p ** widen_power) times (k actions each)."""
    adopt: bool = True
    """Keep, for each new node (the root: each round), at most one correct and one wrong rollout as a path, where its
    answer is new."""
    stop_early: bool = True
    """Stop when the tree holds a correct terminal and linearize.max_wrong + 1 distinct wrong answers."""
    adaptive: bool = True
    """Stop a node's rollouts when more could not change a choice, and a tree out of reach or too easy (adaptive.py)."""
    race_z: Positive = 1.0
    """Width of the race's confidence bounds, in standard errors (1.0: 16 % on each side, 1.64: 5 %)."""
    race_margin: float = 0.25
    """A node stops when it cannot beat its best sibling by more than this."""
    reach: float = 0.02
    """A tree without a correct sample stops when a share of this or more is excluded at 95 %; 0 = never."""
    easy: float = 0.05
    """A solved tree without a wrong sample stops when a share of wrong ones of this or more is excluded; 0 = never."""
    max_tokens: int = 0
    """A tree stops after the round in which it has sampled this many tokens; 0 = no limit."""
    timeout_s: Positive = 600.0
    """A tree that takes longer is published as it stands."""

    def __post_init__(self) -> None:
        """Refuse a strategy that is not there."""
        named(plugins.STRATEGIES, "search.strategy", self.strategy)


class LinearizeSection(Section, frozen=True, kw_only=True):
    """Algorithm 1 and procedure cloning."""

    direct: Annotated[int, msgspec.Meta(ge=0)] = 1
    """Traces a problem without a wrong turn."""
    search: Annotated[int, msgspec.Meta(ge=0)] = 3
    """Traces a problem with min_wrong..max_wrong wrong turns first (k of Algorithm 1)."""
    min_wrong: Count = 1
    """Equal to max_wrong = exactly that k: a tree with fewer wrong answers gives no search trace."""
    max_wrong: Count = 2
    """Wrong turns of a search trace at most."""
    merge: Literal["terminal", "low_q", "random"] = "terminal"
    """Where a wrong branch is left: at its terminal (the paper), at that or a node of low Q above it, or anywhere."""
    low_q: float = 0.2
    """The highest Q that merge = 'low_q' calls low."""
    low_q_visits: Count = 1
    """Visits that make a Q worth believing: a node with fewer is never left for it."""
    phrases: bool = True
    """False: no reflections and verdicts, and a return only tells the ancestor's step again."""
    vote_filter: bool = True
    """Keep only solutions with unanimous votes, where there were votes."""
    positive_q: float = 0.8
    """An intermediate node of at least this Q may be followed by a positive reflection."""
    positive_share: float = 0.5
    """How often a search trace that passes such a node reflects there (at most once)."""
    direct_reflects: bool = True
    """Whether direct traces end with a positive reflection too; false makes the Direct-SFT control arm."""
    rewriter: str = "template"
    """Who words the ordinary steps: template (their own text), model (the base policy, few-shot), or one that a package
    adds (docs/extending.md); each rewrite is checked."""
    rewrite_temperature: NotNegative = 0.7
    """At which the policy rewrites a step; 0 = greedy."""
    rewrite_context: Count = 800
    """Characters of the solution so far that a rewrite sees."""

    def __post_init__(self) -> None:
        """Refuse an empty range of k, and a rewriter that is not there."""
        named(plugins.REWRITERS, "linearize.rewriter", self.rewriter)
        if self.min_wrong > self.max_wrong:
            raise ValueError(f"min_wrong = {self.min_wrong} is above max_wrong = {self.max_wrong}")
