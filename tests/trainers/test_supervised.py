"""However a step is computed - packed, in small micro-batches, recomputed, compiled - it is the same step."""

import shutil

import pytest
import torch

from schemas.load import load
from trainers import model as policy
from trainers.packing import Row
from trainers.ranks import Ranks
from trainers.supervised import SftLearner

NO_COMPILER = not (shutil.which("g++") or shutil.which("clang++"))


def rows() -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    return [Row(torch.randint(4, 70, (n,), generator=generator).tolist(), 1 + n // 3) for n in (9, 41, 17, 30, 23, 5)]


def learned(directory, *flags: str):
    """The loss, the norm and the weights after a step under these settings."""
    base = ("sft.batch_tokens=200", "sft.max_len=50", *flags)
    learner = SftLearner(load(environment={}, flags=base), Ranks())
    learner.load(str(directory))
    told = learner.learn([rows()], 0.003)
    return told, {name: parameter.detach() for name, parameter in learner.model.named_parameters()}


@pytest.mark.parametrize(
    "flags",
    [
        ["sft.micro_tokens=45"],
        ["sft.packing=padded"],
        ["sft.packing=packed"],
        ["sft.packing=packed", "sft.micro_tokens=60"],
        ["sft.checkpointing=true"],
        pytest.param(
            ["sft.compile=true"],
            marks=[pytest.mark.slow, pytest.mark.skipif(NO_COMPILER, reason="no C++ compiler")],
        ),
    ],
    ids=" ".join,
)
def test_settings_of_computing_change_no_step(llama, flags) -> None:
    plain, expected = learned(llama())
    told, found = learned(llama(), *flags)
    assert (told.loss, told.norm) == pytest.approx((plain.loss, plain.norm), rel=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-4, rtol=1e-3)
        assert float((found[name] - value).abs().mean()) < 1e-6


@pytest.mark.slow
@pytest.mark.skipif(NO_COMPILER, reason="no C++ compiler")
def test_one_compilation_serves_a_line_many_lines_and_more_than_4096_tokens(llama) -> None:
    from torch._dynamo.utils import counters

    learner = SftLearner(load(environment={}, flags=["sft.compile=true", "sft.batch_tokens=9000"]), Ranks())
    learner.load(str(llama()))
    compiled = []
    for number, length in ((20, 60), (1, 60), (100, 60), (30, 40)):
        learner.learn([[Row(list(range(4, 4 + length)))] * number], 0.003)
        compiled.append(counters["stats"]["unique_graphs"])
    assert compiled[0] == compiled[-1], compiled


def test_bfloat16_is_near(llama) -> None:
    plain, _ = learned(llama())
    told, _ = learned(llama(), "sft.dtype=bfloat16")
    assert told.loss != plain.loss
    assert told.loss == pytest.approx(plain.loss, rel=0.01)


def test_checkpointing_keeps_fewer_activations_and_no_dropout(llama) -> None:
    kept = {}
    for checkpointing in (False, True):
        model = policy.load(llama())
        model.config.attention_dropout = 0.5
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.5
        policy.fit(model, checkpointing=checkpointing, compiled=False)
        sizes: list[int] = []

        def note(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            logits = model(input_ids=torch.arange(4, 44)[None], use_cache=False).logits
        kept[checkpointing] = (sum(sizes), logits.detach())
    assert kept[True][0] < 0.6 * kept[False][0]
    torch.testing.assert_close(kept[True][1], kept[False][1])


def test_an_attention_that_is_not_there_says_what_to_set(llama) -> None:
    with pytest.raises(policy.BadPolicy, match=r"attention = 'fancy'.*auto"):
        policy.load(llama(), attention="fancy")
