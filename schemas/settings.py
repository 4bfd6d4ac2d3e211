"""Every setting, typed, with its default and its meaning. schemas/load.py reads them from files, environment and flags.

Values marked [ours] in docs/architecture.md are not the paper's. Defaults suit `make demo`: two cores, the tiny policy.
"""

import re
from typing import Annotated, Any, Literal

import msgspec

from schemas import plugins
from schemas.access import Access
from schemas.kinds import Count, NotNegative, Positive
from schemas.training_settings import RlSection, SftSection

_STORE = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w-][\w.-]*)*/?", re.ASCII)


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections; unknown keys are refused."""


def _named(point: plugins.Point, setting: str, name: str) -> None:
    """Refuse the name of a part that is neither ours nor installed."""
    if why := plugins.unknown(point, name):
        raise ValueError(f"{setting}: {why}")


class FactorySection(Section, frozen=True, kw_only=True):
    """The factory as a whole."""

    data: str = "data"
    """Directory of datasets, weights, checkpoints and logs."""
    store: str = ""
    """s3://BUCKET[/PREFIX]: datasets, weights and checkpoints lie there, and `data` holds what is this machine's alone.
    Who we are there is said by the AWS_ variables of the environment (processors/store.py)."""
    seed: int = 0
    """Of everything that is drawn: problems, searches, samples, batches."""
    workers: Literal["auto", "shared", "separate"] = "auto"
    """Placement: 'shared' = search, sample, evaluate on one engine; 'auto' = shared below 8 cores without a GPU."""
    stages: list[str] = []
    """What `factory up` starts; empty = every stage."""
    restart_limit: Count = 5
    """A process that dies this often without progress stops the factory."""
    grace_s: Positive = 45.0
    """After SIGTERM a stage's messages in hand may take this long; later ones are left uncommitted and come again."""

    def __post_init__(self) -> None:
        """Refuse what is no prefix of a bucket."""
        if self.store and not _STORE.fullmatch(self.store):
            raise ValueError("factory.store: write s3://BUCKET or s3://BUCKET/PREFIX (letters, digits, . _ - and /)")


class BrokerSection(Access, frozen=True, kw_only=True):
    """Kafka; where it is and how it lets us in stands in schemas/access.py."""

    memory_limit_mb: Count = 2048
    """The embedded broker is drained and started anew above this."""
    connect_timeout_s: Positive = 15.0
    session_timeout_ms: Count = 6000
    rebalance_timeout_ms: Count = 900_000
    """Must exceed the longest message in hand (a tree): a rebalance waits for it."""
    message_max_bytes: Count = 16_777_216
    """One limit for topics, producers and consumers; a larger message travels as a file in <data>/large."""
    replication_factor: Count = 1
    ahead: Count = 512
    """A stage pauses while a consumer of what it makes is this many messages behind ([problems] and [prompts] have
    their own)."""
    compression: Literal["none", "gzip", "zstd"] = "zstd"
    """Of produced batches; zstd needs the package `cramjam` in the processors (installed with the factory)."""


class TopicsSection(Section, frozen=True, kw_only=True):
    """Partition counts. Parallel work = partitions."""

    problems_partitions: Count = 16
    prompts_partitions: Count = 16
    default_partitions: Count = 4
    single_partitions: Count = 1


class PolicySection(Section, frozen=True, kw_only=True):
    """The model that searches and is trained."""

    path: str = "tiny"
    """'tiny' (packaged), a directory, or a Hugging Face hub name."""
    name: str = "policy"
    """Key of the weights topic."""
    weights_dirs: list[str] = []
    """Directories, beside <data>/weights and `path`, under which announced weights may lie: a worker whose data
    directory is not the trainer's needs the trainer's <data>/weights here."""
    few_shot: str = "auto"
    """A JSON file of [{"question", "answer"}], 'auto' (a built-in set for untrained instruct models), or 'none'."""
    temperature: Positive = 1.0


class EngineSection(Section, frozen=True, kw_only=True):
    """vLLM."""

    url: str = ""
    """http://HOST:PORT of a `vllm serve`; empty = in this process."""
    threads: Count = 1
    max_num_seqs: Count = 128
    """Requests that the engine computes at the same time."""
    max_model_len: int = 0
    """Tokens; 0 = what the model's config says."""
    kv_cache_gb: float = 0.5
    """CPU only; on a GPU use args.gpu_memory_utilization."""
    dtype: str = "auto"
    switch_after_s: float = 2.0
    """An engine shared by versions stops admitting the current one after this long when another waits."""
    probe_tolerance: float = 0.08
    """Largest mean |log-prob difference| (nats) of the parity probe; float32 needs 1e-4, bfloat16 about 0.05."""
    args: dict[str, Any] = {}
    """Any other vLLM engine argument, passed through (tensor_parallel_size = 2, ...)."""


class Source(Section, frozen=True, kw_only=True):
    """Where problems come from."""

    kind: str = "reasoning_gym"
    """reasoning_gym, file, hub, or one that a package adds (docs/extending.md)."""
    name: str
    """A generator's name, a JSONL/Parquet path, or a hub dataset name."""
    weight: Positive = 1.0
    """Share of the stream, relative to the other sources."""
    params: dict[str, Any] = {}
    """Generator parameters, or for files: question, answer, grader (field mapping), split."""
    license: str = ""
    """Of its problems, for the cards of exports (an SPDX name, as `MIT`)."""

    def __post_init__(self) -> None:
        """Refuse a kind that is not there."""
        _named(plugins.PROBLEM_SOURCES, "problems.sources: kind", self.kind)


class ProblemsSection(Section, frozen=True, kw_only=True):
    """The problems producer."""

    sources: list[Source] = []
    """Empty = countdown and chain_sum in the form that the tiny policy learned."""
    limit: int = 0
    """Stop after this many problems; 0 = for ever (procedural) or to the end (files)."""
    ahead: Count = 64
    """Problems kept waiting for the searchers; the producer pauses beyond it."""
    max_bytes: Count = 1_048_576
    """A longer problem is dead-lettered."""


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
        _named(plugins.STRATEGIES, "search.strategy", self.strategy)


class LinearizeSection(Section, frozen=True, kw_only=True):
    """Algorithm 1 and procedure cloning."""

    direct: Annotated[int, msgspec.Meta(ge=0)] = 1
    """Traces a problem without a wrong turn."""
    search: Annotated[int, msgspec.Meta(ge=0)] = 3
    """Traces a problem with min_wrong..max_wrong wrong turns first (k of Algorithm 1)."""
    min_wrong: Count = 1
    """Equal to max_wrong = exactly that k: a tree with fewer wrong answers gives no search trace."""
    max_wrong: Count = 2
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
    rewrite_temperature: Annotated[float, msgspec.Meta(ge=0)] = 0.7
    rewrite_context: Count = 800
    """Characters of the solution so far that a rewrite sees."""

    def __post_init__(self) -> None:
        """Refuse an empty range of k, and a rewriter that is not there."""
        _named(plugins.REWRITERS, "linearize.rewriter", self.rewriter)
        if self.min_wrong > self.max_wrong:
            raise ValueError(f"min_wrong = {self.min_wrong} is above max_wrong = {self.max_wrong}")


class VerifySection(Section, frozen=True, kw_only=True):
    """Checks and rewards."""

    workers: Count = 1
    """Killable grading processes."""
    timeout_s: Positive = 2.0
    """A grading process that takes longer for an answer is killed: `timeout`."""
    memory_mb: Count = 1024
    """Of a grading process."""
    max_answer_chars: Count = 2000
    max_trace_chars: int = 32_768
    """A longer trace is filtered (four characters a token and the paper's 8192 tokens)."""


class SinkSection(Section, frozen=True, kw_only=True):
    """Tables."""

    flush_s: Positive = 3.0
    """A table is committed at least this often where rows wait."""
    flush_bytes: Count = 16_777_216
    """And as soon as so many bytes wait."""


class FailuresSection(Section, frozen=True, kw_only=True):
    """What becomes of input that fails (processors/failures.py)."""

    retry_s: NotNegative = 30.0
    """A transient error (disk, connection, engine) is tried again in place for this long; 0 = not at all."""
    share: Positive = 0.5
    """A stage stops when more than this share of its last `window` inputs became dead letters; 1 = never."""
    window: Count = 64


class WeightsSection(Section, frozen=True, kw_only=True):
    """The files of published versions."""

    keep: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of the newest; older ones go when nothing needs them (trainers/retention.py says what does). 0 = all stay."""


class SqlSection(Section, frozen=True, kw_only=True):
    """Limits of any SQL that is given to the factory: `factory sql`, prompts.sql, sft.sql."""

    timeout_s: Positive = 60.0
    memory_mb: Count = 4096
    """Of a query's work, and of its answer."""


class MetricsSection(Section, frozen=True, kw_only=True):
    """Prometheus: the numbers of each process at http://HOST:PORT/metrics (processors/metrics.py)."""

    serve: bool = True
    """False: no process listens, and vLLM keeps no statistics."""
    host: Annotated[str, msgspec.Meta(min_length=1)] = "127.0.0.1"
    """There is no login: another address only in a network where everybody may read the numbers."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    """0 = a free one a process, told in <data>/metrics. Under `factory up` the first process's; the others take the
    ports after it."""


class PromptsSection(Section, frozen=True, kw_only=True):
    """RL problems."""

    sql: str = ""
    """A query that gives (id, pass_rate, why) of problems, from the tables and the measured pass rates, `measured`
    (producers/measured.py); empty = a pass rate strictly between 0 and 1."""
    window: Count = 16
    """A rate is that of a problem's rollouts since this many versions ago; older ones count where it has none."""
    ahead: Count = 32
    """Groups kept waiting for the samplers."""
    start: Literal["handover", "weights"] = "handover"
    """When the first prompt is sent: once SFT has handed over, or as soon as any weights are announced."""


class SampleSection(Section, frozen=True, kw_only=True):
    """RL rollouts."""

    group: Count = 4
    """Responses to a prompt."""
    max_tokens: Count = 192
    """Of a response."""
    temperature: Positive = 1.0
    groups_in_flight: Count = 16
    """Groups that a process samples at the same time."""


class EvaluateSection(Section, frozen=True, kw_only=True):
    """Held-out evaluation of every published version."""

    problems: int = 64
    """Held-out problems a source (procedural), or the first lines of `file`."""
    file: str = ""
    """A file of problems to evaluate on instead."""
    versions: list[int] = []
    """Only these versions; empty = every one that is published."""
    samples: Count = 1
    """Of each problem, at sample.temperature; pass@1 is their mean."""
    ks: list[Count] = []
    """pass@k and maj@k are given for these k, at most `samples`; empty = 2, 4, 8, ... up to it."""
    greedy: bool = False
    """Temperature 0 and one sample a problem."""
    max_tokens: Count = 192
    threads: Count = 1

    def __post_init__(self) -> None:
        """Refuse a k without as many samples, and copies of one greedy response."""
        if self.ks and max(self.ks) > self.samples:
            raise ValueError(f"evaluate.ks: {max(self.ks)} is above evaluate.samples = {self.samples}")
        if self.greedy and self.samples > 1:
            raise ValueError(
                f"evaluate.greedy gives one response a problem: set evaluate.samples = {self.samples} to 1"
            )

    def every_k(self) -> list[int]:
        """The k in force, ascending."""
        return sorted(set(self.ks)) or [1 << power for power in range(1, self.samples.bit_length())]


class Settings(Section, frozen=True, kw_only=True):
    """All sections."""

    factory: FactorySection = FactorySection()
    broker: BrokerSection = BrokerSection()
    topics: TopicsSection = TopicsSection()
    policy: PolicySection = PolicySection()
    engine: EngineSection = EngineSection()
    problems: ProblemsSection = ProblemsSection()
    search: SearchSection = SearchSection()
    linearize: LinearizeSection = LinearizeSection()
    verify: VerifySection = VerifySection()
    sink: SinkSection = SinkSection()
    weights: WeightsSection = WeightsSection()
    failures: FailuresSection = FailuresSection()
    sql: SqlSection = SqlSection()
    metrics: MetricsSection = MetricsSection()
    prompts: PromptsSection = PromptsSection()
    sample: SampleSection = SampleSection()
    sft: SftSection = SftSection()
    rl: RlSection = RlSection()
    evaluate: EvaluateSection = EvaluateSection()

    def __post_init__(self) -> None:
        """Refuse what is not supported on a store."""
        if self.factory.store and self.weights.keep:
            raise ValueError(
                "weights.keep on s3:// is not supported: old versions stay there; set weights.keep to 0, or leave "
                "factory.store out"
            )
