"""The policy as a trainer holds it: float32 master weights, log-probs of chosen tokens, AdamW, a fixed thread count.

Logits are computed for trained tokens only: a hook selects their hidden states before the output head runs, so it
works for every causal LM of transformers, with whatever it does to its logits afterwards.
"""

from pathlib import Path
from typing import Any

import torch

from trainers.packing import Batch

Tensor = torch.Tensor
BETAS = (0.9, 0.95)


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare(threads: int, seed: int) -> None:
    """Fix the thread count (sums in another order are other sums) and seed torch."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)


def load(directory: str | Path) -> Any:  # noqa: ANN401 - transformers has no types
    """A causal LM with float32 weights and SDPA attention, dropout off, on `device()`."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32, attn_implementation="sdpa")
    return model.to(device()).eval()


def forward(model: Any, batch: Batch, *, dtype: str = "float32") -> Tensor:  # noqa: ANN401
    """Float32 logits (K, V) that predict the batch's trained tokens.

    Args:
        model: a causal LM.
        batch: on the model's device.
        dtype: 'bfloat16' runs the matrix products in bfloat16 (autocast), the weights stay float32.
    """

    def select(_module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][batch.at_row, batch.at_col].unsqueeze(0), *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits: Tensor = model(input_ids=batch.input_ids, use_cache=False).logits
    finally:
        handle.remove()
    return logits[0].float()


def token_logp(logits: Tensor, targets: Tensor, temperatures: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Log-probs (K,) of the targets and entropies (K,), in nats, of softmax(logits / temperature of each token).

    Without `temperatures` (K,) they are all 1. Gradients flow through the log-probs only.
    """
    scaled = logits if temperatures is None else logits / temperatures.unsqueeze(-1)
    every = torch.log_softmax(scaled, dim=-1)
    with torch.no_grad():
        entropy = -(every.exp() * every).sum(-1)
    return every.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy


def optimizer(model: Any, *, lr: float, weight_decay: float) -> torch.optim.AdamW:  # noqa: ANN401
    """AdamW (arXiv 1711.05101); vectors (norms, biases) are not decayed. Betas 0.9, 0.95 [ours]."""
    matrices = [p for p in model.parameters() if p.ndim >= 2 and p.requires_grad]
    vectors = [p for p in model.parameters() if p.ndim < 2 and p.requires_grad]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=1e-8, fused=True)


def apply_gradients(model: Any, opt: torch.optim.AdamW, *, lr: float, clip: float) -> float:  # noqa: ANN401
    """Clip the gradient's norm to `clip`, take one step at `lr`, zero the gradients. Returns the norm before.

    Raises:
        FloatingPointError: for a gradient that is not finite; the weights are left as they were.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip))
    if norm != norm or norm == float("inf"):  # noqa: PLR0124 - the definition of NaN
        raise FloatingPointError("the gradient is not finite; the weights were left as they were")
    for group in opt.param_groups:
        group["lr"] = lr
    opt.step()
    opt.zero_grad(set_to_none=True)
    return norm
