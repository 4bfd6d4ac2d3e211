"""The GPU benchmark's arithmetic, held against counts made another way, and its path from end to end at a tiny size."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu
from benchmarks.gpu import SMALL, Measured, Shape
from trainers.model import ROUND, forward, load, token_logp
from trainers.packing import Row, pack


def test_the_default_shape_is_llama_3_2_1b():
    shape = Shape()
    assert shape.matrices == 973_078_528  # 1,235,814,400 in all, less the embedding and 33 norms of 2,048
    assert shape.matrices + shape.vocabulary * shape.hidden + 33 * shape.hidden == 1_235_814_400


def test_flops_are_those_that_torch_counts(tmp_path):
    shape = Shape(hidden=64, layers=3, heads=4, kv_heads=2, head=16, feed_forward=96, vocabulary=330, tokens=320)
    parameters = gpu.model(shape, tmp_path)
    assert parameters == shape.matrices + shape.vocabulary * shape.hidden + (2 * shape.layers + 1) * shape.hidden
    row = Row(list(range(2, 322)), 320 - ROUND)  # whole, so that nothing is added for the output head's shape
    (batch,) = pack([row], 320)
    model = load(tmp_path, attention="eager")  # two plain matrix products, of which causality would need one half
    with FlopCounterMode(display=False) as counter:
        logp, _ = token_logp(forward(model, batch), batch.targets)
        logp.sum().backward()
    attention = 6 * shape.layers * shape.heads * shape.head * 320**2
    # The embedding needs a gradient, too, so the backward pass leaves out nothing.
    assert counter.get_total_flops() == pytest.approx(gpu.flops(shape, [row]) + attention, rel=1e-6)


@pytest.mark.parametrize("rl", [False, True])
def test_packing_fills_every_micro_batch_to_the_last_token(rl):
    rows = gpu.rows(SMALL, rl=rl)
    batches = pack(rows, SMALL.tokens, "packed")
    assert [batch.input_ids.shape for batch in batches] == [(1, SMALL.tokens)] * SMALL.micro_batches
    trained = sum(row.trained for row in rows) / sum(len(row.ids) for row in rows)
    assert trained == (0.75 if rl else 1 - 4 / SMALL.tokens)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("GeForce RTX 9999", None),
    ],
)
def test_a_device_has_its_own_peak(name, peak):
    assert gpu.named_peak(name) == peak


def test_utilisation_is_of_the_peak_and_the_roofline_adds_the_optimizer():
    found = Measured(
        device="x", parameters=10, named=None, matmul=200.0, bandwidth=140.0,
        seconds={"sft": [3.0, 5.0]}, flops={"sft": 400.0}, tokens={"sft": 60},
    )  # fmt: skip
    values, ratios = gpu.figures(found)
    assert ratios == {"sft_model_flops_over_peak": 0.5, "sft_roofline_over_step_time": (2.0 + 2.0) / 4.0}
    assert values["sft_tokens_per_s"] == [20.0, 12.0]
    assert gpu.figures(found.__class__(**{**_fields(found), "named": 400.0}))[1]["sft_model_flops_over_peak"] == 0.25


def _fields(found: Measured) -> dict:
    return {name: getattr(found, name) for name in Measured.__struct_fields__}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the trainers take the GPU")
def test_it_runs_on_a_cpu_and_says_what_is_missing():
    done = _command("--device", "cpu", "--quick")
    assert done.returncode == 0, done.stderr
    told = dict(line.removeprefix("gpu: ").split(" = ") for line in done.stdout.splitlines())
    assert 0 < float(told["sft_model_flops_over_peak"]) < float(told["sft_roofline_over_step_time"]) < 1
    assert float(told["rl_tokens_per_s"]) > 0
    refused = _command()
    assert refused.returncode == 1
    assert refused.stderr.startswith("gpu: there is no CUDA GPU here")


def _command(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.gpu", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
