"""The attention of compiled models, as it is computed without a compiler, against transformers' own."""

import pytest
import torch

from trainers import model as policy
from trainers.attention import attend
from trainers.packing import Row, pack


def gradients(directory, attention: str, dtype: str, how: str) -> dict[str, torch.Tensor]:
    """Of the log-probs of a few rows, by parameter."""
    generator = torch.Generator().manual_seed(0)
    rows = [Row(torch.randint(4, 70, (n,), generator=generator).tolist(), 1 + n // 3) for n in (9, 41, 17, 30, 23, 5)]
    model = policy.load(directory, attention=attention)
    for batch in pack(rows, 200, how):
        policy.target_logp(policy.forward(model, batch, dtype=dtype), batch.targets).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def far(some: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """The mean over the parameters of the relative error."""
    return sum(float((some[name] - exact[name]).norm() / exact[name].norm()) for name in exact) / len(exact)


@pytest.mark.parametrize("how", ["lines", "padded", "packed"])
def test_gradients_are_those_of_eager(llama, how) -> None:
    exact = gradients(llama(), "eager", "float32", "padded")
    found = gradients(llama(), "recompute", "float32", how)
    for name, value in exact.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_in_bfloat16_it_is_as_exact_as_eager(llama) -> None:
    exact = gradients(llama(), "eager", "float32", "lines")
    error = {name: far(gradients(llama(), name, "bfloat16", "lines"), exact) for name in ("eager", "recompute")}
    assert 0 < error["recompute"] < 1.25 * error["eager"]


@pytest.mark.parametrize("more", [{"softcap": 30.0}, {"s_aux": torch.ones(2)}, {"dropout": 0.1}])
def test_what_it_has_not_is_refused(more) -> None:
    some = torch.randn(1, 2, 4, 8)
    with pytest.raises(policy.BadPolicy, match="set 'eager'"):
        attend(None, some, some, some, torch.zeros(1, 1, 4, 4), 0.3, **more)
