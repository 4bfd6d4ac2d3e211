"""Writes trl_losses.json: what TRL's GRPOTrainer makes of fixed tensors, so that our losses can be held against it.

TRL is no dependency. Run this where it is installed, then commit the file:
    python tests/trainers/make_trl_losses.py
Only TRL's `_compute_loss` runs; the model's log-probs are given. What TRL computes elsewhere (the truncated importance
weight of samples from vLLM, clamp(exp(old - sampling), max=2)) is given too.
"""

import json
import random
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
import trl

LENGTHS = (6, 5, 1, 4)
ADVANTAGES = (1.2, -0.4, -1.5, 0.7)
WIDTH, LARGEST = 6, 8
BASE = {
    "loss_type": "grpo",
    "importance_sampling_level": "token",
    "epsilon_low": 0.2,
    "epsilon_high": 0.28,
    "beta": 0.0,
    "use_vllm": False,
}
CASES = {
    "grpo": {},
    "grpo_kl": {"beta": 0.04},
    "bnpo": {"loss_type": "bnpo"},
    "dapo": {"loss_type": "dapo"},
    "dr_grpo": {"loss_type": "dr_grpo", "epsilon_high": 0.2},
    "gspo": {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
    "gspo_wide": {"importance_sampling_level": "sequence", "epsilon_low": 0.06, "epsilon_high": 0.06},
    "gspo_token_mean": {"importance_sampling_level": "sequence", "loss_type": "dapo", "epsilon_high": 0.06},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "cispo_clipped": {"loss_type": "cispo", "epsilon_high": 1.1},
    "truncated_weight": {"loss_type": "bnpo", "use_vllm": True},
}


def tensors() -> dict[str, list[list[float]]]:
    """Log-probs (rows, WIDTH) of four policies: the trained, the old, the sampler and the reference."""
    numbers = random.Random(7)
    policy = [[round(numbers.uniform(-3, -0.05), 3) for _ in range(WIDTH)] for _ in LENGTHS]
    found = {"logp": policy}
    for name, spread in (("old", 0.7), ("sampling", 1.5), ("reference", 0.6)):
        found[name] = [[round(value + numbers.uniform(-spread, spread), 3) for value in row] for row in policy]
    return found


def trainer(case: dict, logp: torch.Tensor) -> SimpleNamespace:
    """As much of a GRPOTrainer as `_compute_loss` looks at."""
    same = SimpleNamespace(
        num_processes=1,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    return SimpleNamespace(
        **(BASE | case),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros_like(logp), None),
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        accelerator=same,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        vllm_importance_sampling_correction=True,
        current_gradient_accumulation_steps=1,
        max_completion_length=LARGEST,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )


def run(case: dict, given: dict[str, list[list[float]]]) -> dict:
    """TRL's loss, its gradient by the policy's log-probs, and the shares that it logs as clipped."""
    columns = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in given.items()}
    mask = torch.tensor([[float(at < length) for at in range(WIDTH)] for length in LENGTHS], dtype=torch.float64)
    logp = columns["logp"].requires_grad_()
    ids = torch.zeros(len(LENGTHS), WIDTH, dtype=torch.int64)
    fake = trainer(case, logp)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": torch.tensor(ADVANTAGES, dtype=torch.float64),
        "old_per_token_logps": columns["old"],
        "ref_per_token_logps": columns["reference"],
        "importance_sampling_ratio": (columns["old"] - columns["sampling"]).exp().clamp(max=2.0),
        "num_items_in_batch": mask.sum(),
    }
    loss = trl.GRPOTrainer._compute_loss(fake, None, inputs)
    loss.backward()
    logged = fake._metrics["train"]
    shares = {end: logged[f"clip_ratio/{end}_mean"] for end in ("low", "high")}
    return {
        **(BASE | case),
        "loss": loss.item(),
        "gradient": logp.grad.tolist(),
        **{f"clip_{end}": values[0] for end, values in shares.items() if values},
    }


if __name__ == "__main__":
    fixed = tensors()
    content = {
        "trl": trl.__version__,
        "lengths": LENGTHS,
        "largest": LARGEST,
        "cap": 2.0,
        "advantages": ADVANTAGES,
        **fixed,
        "cases": {name: run(case, fixed) for name, case in CASES.items()},
    }
    Path(__file__).with_name("trl_losses.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
