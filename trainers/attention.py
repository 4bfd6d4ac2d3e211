"""Attention for a compiled model on a CPU: SDPA's forward kernel, and a backward pass that is matrix products.

transformers' 'eager' keeps the probabilities (B, H, L, L) for the backward pass; SDPA's own backward kernel is slow on
a CPU. Here SDPA's forward kernel keeps the log-sum-exp of each query's scores, from which the probabilities are made
again (FlashAttention-2, arXiv 2307.08691, algorithm 2, without its tiles). Compiled, all that is beside the matrix
products is one loop; uncompiled it is a dozen, and slower than 'eager'. In bfloat16 its gradients are as far from
float32's as those of 'eager' (tests/trainers/test_attention.py).
"""

from typing import Any

import torch

from processors.chat import BadPolicy

Tensor = torch.Tensor
NAME = "recompute"


class Attend(torch.autograd.Function):
    """Softmax(q k^T scale + mask) v; all (B, H, L, D) of one dtype, the mask (B, 1, L, L) of the same."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:  # noqa: ANN401
        """Attention's output, as the queries."""
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - the one that tells its sums
        out, sums = kernel(query, key, value, attn_mask=mask, scale=scale)
        ctx.save_for_backward(query, key, value, mask, out, sums)
        ctx.scale = scale
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # noqa: ANN401
        """Those of query, key and value."""
        query, key, value, mask, out, sums = ctx.saved_tensors
        scores = torch.matmul(query, key.transpose(-1, -2)).float() * ctx.scale + mask
        probabilities = torch.exp(scores - sums.unsqueeze(-1))
        share = torch.matmul(gradient, value.transpose(-1, -2)).float()
        mean = (gradient.float() * out.float()).sum(-1, keepdim=True)
        of_scores = (probabilities * (share - mean) * ctx.scale).to(query.dtype)
        weights = probabilities.to(query.dtype).transpose(-1, -2)
        of_key = torch.matmul(of_scores.transpose(-1, -2), query)
        return torch.matmul(of_scores, key), of_key, torch.matmul(weights, gradient), None, None


def attend(
    _module: Any,  # noqa: ANN401 - transformers has no types
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **more: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """As transformers calls it: query (B, H, L, D), key and value of H or fewer heads; gives (B, L, H, D).

    Raises:
        BadPolicy: the model wants more of attention than softmax, a mask and a scale.
    """
    if more.get("softcap") or more.get("s_aux") is not None or more.get("dropout"):
        raise BadPolicy(f"attention = {NAME!r} has no soft cap, sinks or dropout: set 'eager'")
    several = query.shape[1] // key.shape[1]
    if several > 1:
        key, value = key.repeat_interleave(several, 1), value.repeat_interleave(several, 1)
    with torch.autocast(query.device.type, enabled=False):
        query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings are float32 under autocast
        out: Tensor = Attend.apply(query, key, value, attention_mask.to(value.dtype), scaling)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None


def register() -> None:
    """Make it known to transformers, with the masks of its 'eager'."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)
