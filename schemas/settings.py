"""Every setting, typed, with its default and its meaning. schemas/load.py reads them from files, environment and flags.

Values marked [ours] in docs/architecture.md are not the paper's. Defaults suit `make demo`: two cores, the tiny policy.
"""

import re
from typing import Annotated, Any, Literal

import msgspec

from schemas import plugins
from schemas.access import Access
from schemas.kinds import Count, NotNegative, Positive, Section, named
from schemas.search_settings import LinearizeSection, SearchSection
from schemas.training_settings import RlSection, SftSection

_STORE = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w-][\w.-]*)*/?", re.ASCII)


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
    """A broker that does not answer for this long is missing, and a command ends with that message."""
    session_timeout_ms: Count = 6000
    """A consumer that is silent for this long loses its partitions to others."""
    rebalance_timeout_ms: Count = 900_000
    """Must exceed the longest message in hand (a tree): a rebalance waits for it."""
    message_max_bytes: Count = 16_777_216
    """One limit for topics, producers and consumers; a larger message travels as a file in <data>/large."""
    replication_factor: Count = 1
    """Copies of a topic that the cluster keeps; 3 is usual where there are three brokers or more."""
    ahead: Count = 512
    """A stage pauses while a consumer of what it makes is this many messages behind ([problems] and [prompts] have
    their own)."""
    compression: Literal["none", "gzip", "zstd"] = "zstd"
    """Of produced batches; zstd needs the package `cramjam` in the processors (installed with the factory)."""


class TopicsSection(Section, frozen=True, kw_only=True):
    """Partition counts. Parallel work = partitions."""

    problems_partitions: Count = 16
    """Of `problems`: at most so many searchers share the work."""
    prompts_partitions: Count = 16
    """Of `prompts`: at most so many samplers."""
    default_partitions: Count = 4
    """Of trees, traces, examples, rollouts, rewards and answers."""
    single_partitions: Count = 1
    """Of weights, evaluations, training, filtered, dead.letters and replays."""


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


class EngineSection(Section, frozen=True, kw_only=True):
    """vLLM."""

    url: str = ""
    """http://HOST:PORT of a `vllm serve`; empty = in this process."""
    threads: Count = 1
    """Of torch, in a process that holds an engine on the CPU."""
    max_num_seqs: Count = 128
    """Requests that the engine computes at the same time."""
    max_model_len: int = 0
    """Tokens; 0 = what the model's config says."""
    kv_cache_gb: float = 0.5
    """CPU only; on a GPU use args.gpu_memory_utilization."""
    dtype: str = "auto"
    """vLLM's name of it; 'auto' on a CPU = float32 for small models, else bfloat16."""
    switch_after_s: float = 2.0
    """An engine shared by versions stops admitting the current one after this long when another waits."""
    probe_tolerance: float = 0.15
    """Largest mean |log-prob difference| (nats) of the parity probe; float32 needs 1e-4, bfloat16 .02 to .1."""
    args: dict[str, Any] = {}
    """Any other vLLM engine argument, passed through (tensor_parallel_size = 2, ...). On a CPU enforce_eager = false
    compiles the model: 20 s more at each start, a fifth more tokens a second."""


class Source(Section, frozen=True, kw_only=True):
    """Where problems come from."""

    kind: str = "reasoning_gym"
    """reasoning_gym, file, hub, or one that a package adds (docs/extending.md)."""
    name: str
    """A generator's name, a JSONL/Parquet path, or a hub dataset name."""
    weight: Positive = 1.0
    """Share of the stream, relative to the other sources."""
    params: dict[str, Any] = {}
    """A generator's parameters. For files and the hub, which fields hold question, answer, difficulty and metadata, and
    grader (a name) and label (the `source` of the problems); hub only: split, config, revision."""
    license: str = ""
    """Of its problems, for the cards of exports (an SPDX name, as `MIT`)."""

    def __post_init__(self) -> None:
        """Refuse a kind that is not there."""
        named(plugins.PROBLEM_SOURCES, "problems.sources: kind", self.kind)


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


class VerifySection(Section, frozen=True, kw_only=True):
    """Checks and rewards."""

    workers: Count = 1
    """Killable grading processes."""
    timeout_s: Positive = 2.0
    """A grading process that takes longer for an answer is killed: `timeout`."""
    memory_mb: Count = 1024
    """Of a grading process."""
    max_answer_chars: Count = 2000
    """A longer answer is `rejected`."""
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
    """Inputs."""


class WeightsSection(Section, frozen=True, kw_only=True):
    """The files of published versions."""

    keep: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of the newest; older ones go when nothing needs them (trainers/retention.py says what does). 0 = all stay."""


class SqlSection(Section, frozen=True, kw_only=True):
    """Limits of any SQL that is given to the factory: `factory sql`, prompts.sql, sft.sql."""

    timeout_s: Positive = 60.0
    """Of a query."""
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
    ahead: Count = 128
    """Groups that samplers have not finished, at most. Offsets are committed and asked for once a second, so 32 held a
    sampler to 14 groups a second; how stale a group may be is held by rl.max_lag."""
    start: Literal["handover", "weights"] = "handover"
    """When the first prompt is sent: once SFT has handed over, or as soon as any weights are announced."""


class SampleSection(Section, frozen=True, kw_only=True):
    """RL rollouts."""

    group: Count = 4
    """Responses to a prompt."""
    max_tokens: Count = 192
    """Of a response."""
    temperature: Positive = 1.0
    """Of rollouts and of the evaluator's samples."""
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
    """Of a response."""

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
