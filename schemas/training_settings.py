"""The settings of the two trainers, [sft] and [rl]; schemas/settings.py holds the others."""

from typing import Annotated, Any, Literal

import msgspec

from schemas import objective as o
from schemas import plugins
from schemas.kinds import Count, NotNegative, Positive, Section, named


class TrainerSection(Section, frozen=True, kw_only=True):
    """What both trainers have: how they compute, which changes what is learned by the rounding of sums only."""

    ranks: Count = 1
    """Processes that hold the model together (FSDP2), a GPU each where there are any; under torchrun, its own count."""
    threads: Count = 1
    """Of torch, a process."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: the matrix products only; the weights stay float32."""
    packing: Literal["auto", "lines", "padded", "packed"] = "auto"
    """A micro-batch: 'lines' of rows end to end that attention keeps apart; rows of like lengths side by side; or all
    as one line. 'auto': lines (flash attention: packed) where the model joins tokens by attention only, or padded."""
    attention: str = "auto"
    """transformers' name of it, 'recompute' (ours: fast where compiled on a CPU) or 'auto': on a CPU eager for short
    contexts, recompute if compiled, else sdpa. On a GPU flex_attention or flash_attention_2 skip what is masked."""
    checkpointing: bool = False
    """Compute a layer's activations again in the backward pass: less memory, about a third more work."""
    compile: bool = False
    """torch.compile of the model, layer by layer where ranks share it; needs a C++ compiler on a CPU."""
    publish_s: NotNegative = 0.0
    """Publish at least this often (seconds) where there are new steps; 0 = by steps only."""


class SftSection(TrainerSection, frozen=True, kw_only=True):
    """Supervised fine-tuning."""

    sql: str = "select * from examples where id not in (select id from replaced)"
    """The training set: a query over the datasets with columns id, problem, text; append-only in id. `replaced` names
    what a later `factory replay` made otherwise: without it a training set may hold both copies."""
    min_examples: Count = 32
    """Rows that must be there before the first step."""
    lr: Positive = 8e-4
    """[ours] for the tiny policy; the paper's 3e-6 suits 8B and more."""
    weight_decay: float = 0.01
    """AdamW's."""
    batch_tokens: Count = 4096
    """Tokens of a step."""
    micro_tokens: int = 0
    """Tokens of a micro-batch, padding included, whose gradients are summed to the step's; 0 = the whole step: its
    tokens and an eighth of padding."""
    max_len: Count = 512
    """Tokens of prompt and response; a longer row is filtered."""
    epochs: Positive = 4.0
    """How often a row may be seen at most while the table grows."""
    publish_steps: Count = 20
    """A version every so many steps."""
    hand_over_steps: int = 60
    """After this many steps SFT publishes its last version and RL takes over; 0 = never."""
    loss_on: Literal["all", "response"] = "response"
    """The paper: all. The tiny policy's questions are random numbers, of which nothing can be learned."""
    grad_clip: Positive = 1.0
    """Largest norm of a step's gradient; a longer one is scaled down to it."""
    warmup: int = 4
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """'cosine' falls to a tenth of lr at hand_over_steps (constant where that is 0)."""
    patience_s: float = 60.0
    """Rows ran out for this long: train on an incomplete batch, and publish the steps not yet published."""
    hand_over_idle_s: float = 0.0
    """Hand over before hand_over_steps when no new row came for this long; 0 = never."""

    @property
    def micro(self) -> int:
        """Tokens of a micro-batch."""
        return self.micro_tokens or self.batch_tokens * 9 // 8


class RlSection(TrainerSection, frozen=True, kw_only=True):
    """Online RL."""

    objective: str = "grpo"
    """A paper's objective (schemas/objective.py), or one that a package adds (docs/extending.md); each of its parts can
    be set below, None = the preset's (of an added one: grpo's)."""
    surrogate: o.Surrogate | None = None
    ratio: o.Level | None = None
    proximal: o.Proximal | None = None
    clip_low: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    clip_high: NotNegative | None = None
    tis_cap: NotNegative | None = None
    normaliser: o.Normaliser | None = None
    constant_length: Count | None = None
    baseline: o.Baseline | None = None
    advantage_std: bool | None = None
    kl: NotNegative | None = None
    kl_to: o.Anchor | None = None
    mask_overlong: bool | None = None
    dynamic_sampling: bool | None = None
    groups: Count = 32
    """Groups per step (under dynamic_sampling all with a signal): with sample.group = 4 steps of 128 rollouts."""
    updates: Count = 1
    """Optimizer steps that the groups of a step are split into; with one, proximal = 'start' makes every ratio 1."""
    lr: Positive = 5e-5
    """[ours] for the tiny policy: at 2e-4 a step fits its own 128 rollouts and helps no others; constant after the
    warm-up."""
    max_lag: int = 4
    """trainer version - behaviour version of every trained token."""
    publish_steps: Count = 1
    """A version every so many steps."""
    batch_tokens: Count = 4096
    """Tokens of a micro-batch."""
    grad_clip: Positive = 1.0
    """Largest norm of a step's gradient; a longer one is scaled down to it."""
    max_steps: int = 0
    """RL ends after so many steps; 0 = never."""
    weight_decay: float = 0.0
    """AdamW's."""
    warmup: int = 2
    """Steps of linear warm-up; constant after."""
    start_version: int = -1
    """Begin from this published version; -1 = from the one that SFT hands over."""

    def __post_init__(self) -> None:
        """Refuse an objective that is not there, and parts of one that contradict each other."""
        named(plugins.OBJECTIVES, "rl.objective", self.objective)
        why = o.conflict(self.parts(), self._chosen())
        if not why and self.updates > self.groups:
            why = f"updates = {self.updates} needs at least as many groups, and groups = {self.groups}"
        if why:
            raise ValueError(f"[rl] objective = {self.objective!r}: {why}")

    @property
    def micro(self) -> int:
        """Tokens of a micro-batch."""
        return self.batch_tokens

    def parts(self) -> o.Objective:
        """The objective with every part decided."""
        return msgspec.structs.replace(o.named(self.objective), **self._chosen())

    def _chosen(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in o.Objective.__struct_fields__ if name != "loss"}
        return {name: value for name, value in found.items() if value is not None}
