"""Every number of `factory reproduce`, scale by scale, in one table: what an experiment costs is decided here.

Numbers that must be equal in all arms of a comparison (steps, tokens a step, the largest length, learning rates) stand
here once and go into every arm. What is not here is the factory's default (schemas/settings.py).
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from schemas.tiny_problems import COUNTDOWN

Name = Literal["smoke", "laptop", "gpu", "lab"]
Settings = Mapping[str, Any]
"""'section.key' -> value."""


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """One size of the experiment."""

    trees: int
    """Problems that the base searches; all arms and seeds share them."""
    test: int
    """Held-out problems of the report's table."""
    samples: int
    """Answers to each of them."""
    dev: int
    """Other held-out problems, for the curves over RL steps."""
    dev_samples: int
    curve: int
    """Versions on those curves, the first and the last included; 0 = no curves."""
    seeds: tuple[int, ...]
    threads: int
    """Of a process that works alone: the engine of a search or an evaluation, SFT. Where RL trains, each has one."""
    settings: Settings


COMMON: Final[Settings] = {
    "problems.sources": [{"name": "countdown", "params": dict(COUNTDOWN)}],
    "sft.epochs": 10_000.0,  # steps decide, and they are equal in all arms
    "sft.schedule": "cosine",
    "sft.loss_on": "response",
    "rl.objective": "dr_grpo",  # no division by a response's own length: length and backtracks are not rewarded by it
}

BEST: Final[Settings] = {"search.samples": 16}
"""Of the control by best-of-n: a problem's N."""

TINY: Final[Settings] = {
    "sample.max_tokens": 192,
    "evaluate.max_tokens": 192,
    "linearize.max_wrong": 4,
    "sft.max_len": 512,
    "sft.batch_tokens": 8192,
    "sft.lr": 1e-3,
    "sft.warmup": 5,
    "sft.dtype": "bfloat16",
    "rl.lr": 2e-4,
    "rl.dtype": "bfloat16",
    "rl.groups": 16,
    "rl.batch_tokens": 8192,
    "rl.publish_steps": 2,
    "sample.group": 8,
    "sample.groups_in_flight": 32,
    "search.trees_in_flight": 32,
    "engine.max_num_seqs": 256,
}
"""The packaged policy on two cores."""

BIG: Final[Settings] = {
    "sample.max_tokens": 1024,
    "evaluate.max_tokens": 1024,
    "search.step_tokens": 128,
    "search.rollout_tokens": 512,
    "sft.max_len": 2048,
    "sft.batch_tokens": 32_768,
    "sft.micro_tokens": 8192,
    "sft.checkpointing": True,
    "rl.checkpointing": True,
    "sft.lr": 2e-5,
    "sft.warmup": 10,
    "sft.dtype": "bfloat16",
    "rl.lr": 1e-6,
    "rl.groups": 32,
    "rl.batch_tokens": 8192,
    "rl.publish_steps": 1,
    "rl.dtype": "bfloat16",
    "sample.group": 8,
    "sample.groups_in_flight": 64,
    "search.trees_in_flight": 128,
    "engine.max_num_seqs": 512,
}
"""A model of 100M to 1B parameters on one GPU. Not run here: no GPU."""

LAB: Final[Settings] = {
    **BIG,
    "search.k": 8,
    "search.rollouts": 16,
    "search.iterations": 32,
    "search.depth": 50,
    "search.votes": 8,
    "search.rollout_tokens": 2048,
    "linearize.rewriter": "model",
    "sample.max_tokens": 6144,
    "evaluate.max_tokens": 6144,
    "sft.loss_on": "all",
    "sft.ranks": 8,
    "rl.ranks": 8,
    "sft.lr": 3e-6,
    "sft.schedule": "cosine",
    "sft.max_len": 8192,
    "sft.batch_tokens": 524_288,
    "rl.lr": 1e-6,
    "rl.groups": 256,
    "sample.group": 4,
}
"""Llama-3.1-8B-Instruct on a cluster: the paper's budgets where docs/architecture.md knows them."""

_SMOKE: Final[Settings] = {
    "sft.hand_over_steps": 6,
    "sft.batch_tokens": 512,
    "sft.min_examples": 8,
    "sft.lr": 1e-4,
    "sft.warmup": 1,
    "sft.patience_s": 2.0,
    "sft.publish_steps": 6,
    "rl.max_steps": 4,
    "rl.groups": 2,
    "sample.group": 4,
    "engine.max_num_seqs": 64,
    "engine.kv_cache_gb": 0.2,
    "sink.flush_s": 1.0,
}
"""Every part but the curves, and nothing learned: 6 steps of a rate that leaves the policy as able as it was."""

SCALES: Final[Mapping[Name, Scale]] = {
    "smoke": Scale(
        trees=24, test=16, samples=2, dev=8, dev_samples=1, curve=0, seeds=(0,), threads=1,
        settings={**TINY, **_SMOKE},
    ),
    "laptop": Scale(
        trees=1500, test=1000, samples=16, dev=200, dev_samples=2, curve=8, seeds=(0, 1, 2), threads=2,
        settings={**TINY, "sft.hand_over_steps": 100, "sft.publish_steps": 50, "rl.max_steps": 80},
    ),
    "gpu": Scale(
        trees=4000, test=1000, samples=16, dev=200, dev_samples=4, curve=10, seeds=(0, 1, 2), threads=2,
        settings={**BIG, "sft.hand_over_steps": 200, "sft.publish_steps": 50, "rl.max_steps": 200},
    ),
    "lab": Scale(
        trees=20_700, test=1000, samples=16, dev=200, dev_samples=4, curve=10, seeds=(0, 1, 2), threads=2,
        settings={**LAB, "sft.hand_over_steps": 200, "sft.publish_steps": 50, "rl.max_steps": 400},
    ),
}  # fmt: skip
