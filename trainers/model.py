"""The policy as a trainer holds it: float32 master weights, log-probs of chosen tokens, AdamW, a fixed thread count.

Logits are computed for trained tokens only: a hook selects their hidden states before the output head runs, so it
works for every causal LM of transformers, with whatever it does to its logits afterwards. Where several ranks hold the
model (ranks.py), a parameter is a DTensor cut along its first dimension; `local` and `whole` hide the difference.
"""

import inspect
import os
from pathlib import Path
from typing import Any, Literal

import torch

from processors.chat import BadPolicy
from schemas.errors import first_line
from trainers.attention import NAME as RECOMPUTE
from trainers.attention import register
from trainers.packing import Batch, Packing

Tensor = torch.Tensor
BETAS = (0.9, 0.95)
FULL = "full_attention"
ATTENTION = frozenset({FULL, "sliding_attention"})
"""transformers' names of the layers that nothing but a mask has to tell where a row ends; chunks are counted from the
beginning of a line, not of a row."""
ROUND = 256
"""On a CPU the trained tokens of a micro-batch are filled up to a multiple of it before the output head: few shapes."""
SHORT = 1024
"""Context up to which a CPU is faster with plain matrix products than with SDPA, whose backward pass is slow there."""


def accelerator() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare(threads: int, seed: int) -> None:
    """Fix the thread count (sums in another order are other sums) and seed torch."""
    # Read at the first product; the usual 1024 are fewer than a trainer's shapes, whose code would be made again (5 %).
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)


def load(
    directory: str | Path,
    *,
    attention: str = "auto",
    compiled: bool = False,
    device: str | torch.device | None = None,
) -> Any:  # noqa: ANN401 - transformers has no types
    """A causal LM with float32 weights, dropout off, on a device (None = `accelerator()`).

    'auto' attention is 'eager' for a short context on a CPU (attention.py's where it is to be compiled), else 'sdpa'.

    Raises:
        BadPolicy: transformers does not know this attention.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    register()
    logging.disable_progress_bar()
    place = torch.device(device or accelerator())
    wanted = attention
    if attention == "auto":
        context = getattr(AutoConfig.from_pretrained(str(directory)).get_text_config(), "max_position_embeddings", None)
        wanted = "eager" if place.type == "cpu" and (context or SHORT + 1) <= SHORT else "sdpa"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(directory), dtype=torch.float32, attn_implementation=wanted, use_safetensors=True
        )
    except (ImportError, ValueError) as error:
        if attention == "auto":
            raise
        raise BadPolicy(f"attention = {attention!r} does not work here ({first_line(error)}): set 'auto'") from error
    if compiled and attention == "auto" and wanted == "eager" and _plain(model):
        model.set_attn_implementation(RECOMPUTE)
    return model.to(place).eval()


def fit(model: Any, *, checkpointing: bool, compiled: bool, alone: bool = True) -> list[torch.nn.Module]:  # noqa: ANN401
    """Let a model recompute its layers' activations and compile, where asked to. Returns the layers.

    What is below the output head is compiled as one, for any shape, so the hook of `forward` stays outside; where ranks
    share the model, layer by layer, which FSDP2 gathers one by one.
    """
    names = set(model._no_split_modules or ())  # noqa: SLF001 - transformers' own mark of what a layer is
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        _without_dropout(model)
        model.train()  # transformers recomputes in this mode only
    for part in ([model.base_model] if alone else layers) if compiled else []:
        part.compile(dynamic=True)
    return layers


def _without_dropout(model: Any) -> None:  # noqa: ANN401
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and (name == "p" or "dropout" in name):
                setattr(module, name, 0.0)


def local(tensor: Tensor) -> tuple[Tensor, int]:
    """This rank's lines of a tensor (sharing its memory), and the number of the first; of a plain one, all."""
    if not hasattr(tensor, "to_local"):
        return tensor, 0
    shared: Any = tensor
    each = -(-len(tensor) // shared.device_mesh.size())  # as torch.chunk cuts
    return shared.to_local(), min(each * shared.device_mesh.get_local_rank(), len(tensor))


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, without gradient; where ranks share it, all of them must ask."""
    full: Tensor = tensor.detach()
    return full.full_tensor() if hasattr(full, "full_tensor") else full


def forward(model: Any, batch: Batch, *, dtype: str = "float32") -> Tensor:  # noqa: ANN401
    """Float32 logits (K, V) that predict the batch's trained tokens.

    Args:
        model: a causal LM.
        batch: on the model's device.
        dtype: 'bfloat16' runs the matrix products in bfloat16 (autocast), the weights stay float32.
    """
    half = dtype == "bfloat16"
    spare = -len(batch.at_row) % ROUND if batch.input_ids.device.type == "cpu" else 0
    at_row, at_col = (torch.nn.functional.pad(at, (0, spare)) for at in (batch.at_row, batch.at_col))

    def select(_module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][at_row, at_col].unsqueeze(0), *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=half):
            # Positions that begin again tell transformers' masks, and its flash kernels, where a document ends.
            place = {}
            if batch.positions is not None:
                place["position_ids"] = batch.positions
                if _plain(model):
                    place["attention_mask"] = _apart(batch.positions, torch.bfloat16 if half else torch.float32)
                    if model.config._attn_implementation == RECOMPUTE:  # noqa: SLF001
                        _any_number(batch.input_ids, *place.values())
            logits: Tensor = model(input_ids=batch.input_ids, use_cache=False, **place).logits
    finally:
        handle.remove()
    return logits[0, : len(batch.at_row)].float()


def _any_number(*lines: Tensor) -> None:
    """Let one compilation serve every number of lines, which is the first dimension of all these.

    `dynamic` alone compiles once more for a single line, and once more for more than 4,096 tokens.
    """
    from torch._dynamo.decorators import mark_unbacked

    for tensor in lines:
        mark_unbacked(tensor, 0, shape_id="lines")


def packing(model: Any, wanted: Literal["auto", Packing]) -> Packing:  # noqa: ANN401
    """How rows become micro-batches of this model.

    'auto' is 'lines' where rows may share a line ('packed' with an attention that takes one line only), else 'padded'.

    Raises:
        BadPolicy: something other than attention that goes by positions joins this model's tokens, or its attention
            takes one line of rows only.
    """
    attends = model._supports_attention_backend and not model._is_stateful  # noqa: SLF001 - transformers' marks of it
    attends = attends and _kinds(model) <= ATTENTION and "position_ids" in inspect.signature(model.forward).parameters
    several = model.config._attn_implementation in {"eager", "sdpa", "flex_attention", RECOMPUTE}  # noqa: SLF001
    if wanted == "auto":
        return "padded" if not attends else "lines" if several else "packed"
    if wanted != "padded" and not (attends and (several or wanted == "packed")):
        raise BadPolicy(f"packing = {wanted!r} would let the rows of this model see each other: set 'auto'")
    return wanted


def _kinds(model: Any) -> set[str]:  # noqa: ANN401
    """The kinds of its layers by transformers' names; none where the model knows one kind only."""
    return set(getattr(model.config.get_text_config(), "layer_types", None) or ())


def _plain(model: Any) -> bool:  # noqa: ANN401
    """Whether all layers attend to all that came before, by a mask that is added: then one mask serves them all."""
    config = model.config.get_text_config()
    windows = getattr(config, "sliding_window", None) or _kinds(model) - {FULL}
    return not windows and config._attn_implementation in {"eager", "sdpa", RECOMPUTE}  # noqa: SLF001


def _apart(positions: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores (B, 1, L, L) of lines of rows: nothing within a row, backwards; else the least.

    In the type of the scores: where transformers makes it, it is float32 and so are they, which takes a fifth longer.
    """
    row = positions.eq(0).cumsum(1)
    seen = row.unsqueeze(2).eq(row.unsqueeze(1)).tril().unsqueeze(1)
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def token_logp(logits: Tensor, targets: Tensor, temperatures: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Log-probs (K,) of the targets and entropies (K,), in nats, of softmax(logits / temperature of each token).

    Without `temperatures` (K,) they are all 1. Gradients flow through the log-probs only.
    """
    scaled = logits if temperatures is None else logits / temperatures.unsqueeze(-1)
    every = torch.log_softmax(scaled, dim=-1)
    with torch.no_grad():
        entropy = -(every.exp() * every).sum(-1)
    return every.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy


def target_logp(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probs (K,) of the targets as in `token_logp`, where nobody asks for entropies: a large vocabulary costs."""
    return -torch.nn.functional.cross_entropy(logits, targets, reduction="none")


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
    norm = float(whole(torch.nn.utils.clip_grad_norm_(model.parameters(), clip)))
    if norm != norm or norm == float("inf"):  # noqa: PLR0124 - the definition of NaN
        raise FloatingPointError("the gradient is not finite; the weights were left as they were")
    for group in opt.param_groups:
        group["lr"] = lr
    opt.step()
    opt.zero_grad(set_to_none=True)
    return norm
