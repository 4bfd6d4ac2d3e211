"""What share of a GPU's arithmetic the SFT and RL steps use (model-FLOPs utilisation), and how far its roofline lies.

The steps are the trainers' own (SftLearner, RlLearner) on a Llama-3.2-1B-shaped model with random weights: bfloat16
matrix products, float32 weights and AdamW, eight micro-batches a step of 4,096 tokens, packed from 512 to 2,048 each.

    FLOPs of a step = 6 N T + 6 V d K + 6 L h sum_i l_i^2

N: parameters of the layers' matrices, T: tokens, V d: the output head, which is computed for the K trained tokens only,
L: layers, h: heads times head size, l_i: length of row i. It is PaLM's count (arXiv 2204.02311, appendix B: 6 N and
12 L h l a token; a multiplication and an addition are two, backward costs twice forward) with half its attention, for a
causal row needs no more. Embedding lookups, norms and anything recomputed count nothing.

Roofline: no step is faster than FLOPs / peak + 28 P / bandwidth, P all parameters: AdamW reads weight, gradient and
two moments and writes three of them back, 4 bytes each. Peak is the datasheet's for a known GPU, else that of a large
matrix product here.

    python -m benchmarks.gpu [--device cpu --quick] [--attention NAME] [--compile] [--checkpointing]
"""

import argparse
import math
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from benchmarks import report
from schemas.load import load
from schemas.settings import Settings
from trainers.packing import Row

PEAKS = {
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
}
"""Dense bfloat16 FLOP/s by a part of the device's name, from NVIDIA's datasheets (without sparsity)."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A Llama, and the rows of a step. The defaults are Llama-3.2-1B."""

    hidden: int = 2048
    layers: int = 16
    heads: int = 32
    kv_heads: int = 8
    head: int = 64
    feed_forward: int = 8192
    vocabulary: int = 128_256
    tokens: int = 4096
    """Of a micro-batch."""
    micro_batches: int = 8
    steps: int = 10

    @property
    def matrices(self) -> int:
        """Parameters of the layers' matrices: q, o; k, v; gate, up, down."""
        query, key = self.heads * self.head, self.kv_heads * self.head
        return self.layers * self.hidden * (2 * query + 2 * key + 3 * self.feed_forward)


SMALL = Shape(hidden=64, layers=2, heads=2, kv_heads=1, head=32, feed_forward=128, vocabulary=512, tokens=256,
              micro_batches=2, steps=2)  # fmt: skip


def flops(shape: Shape, rows: Sequence[Row]) -> float:
    """FLOPs that a step on these rows needs (see above)."""
    total = sum(len(row.ids) for row in rows)
    trained = sum(row.trained for row in rows)
    squares = sum(len(row.ids) ** 2 for row in rows)
    head = shape.vocabulary * shape.hidden
    return 6.0 * (shape.matrices * total + head * trained + shape.layers * shape.heads * shape.head * squares)


def rows(shape: Shape, *, rl: bool) -> list[Row]:
    """The rows of a step: halves, quarters and eighths of a micro-batch, so that packing fills each to the last token.

    SFT trains on all tokens; RL on the last three quarters of a row, with advantages and log-probs of some sampler.
    """
    rng = Random(0)
    found = []
    for _ in range(shape.micro_batches):
        for part in (2, 4, 8, 8):
            size = shape.tokens // part
            ids = [rng.randrange(2, shape.vocabulary) for _ in range(size)]
            begin = size // 4 if rl else 1
            behaviour = [-1.0] * (size - begin) if rl else ()
            found.append(Row(ids, begin, rng.choice((-1.0, 1.0)) if rl else 0.0, behaviour))
    return found


def model(shape: Shape, folder: Path) -> int:
    """Write a random model of this shape in bfloat16; gives its parameters (the head is the embedding)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head,
        intermediate_size=shape.feed_forward,
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.tokens,
        tie_word_embeddings=True,
    )
    made = LlamaForCausalLM(config).to(torch.bfloat16)
    made.save_pretrained(folder)
    return sum(parameter.numel() for parameter in made.parameters())


def settings(shape: Shape, how: argparse.Namespace) -> Settings:
    """Both trainers' sections for this shape."""
    both = {
        "dtype": "bfloat16",
        "packing": "packed",
        "attention": how.attention,
        "compile": str(how.compile).lower(),
        "checkpointing": str(how.checkpointing).lower(),
    }
    flags = [f"{trainer}.{name}={value}" for trainer in ("sft", "rl") for name, value in both.items()]
    flags += [f"sft.batch_tokens={shape.tokens * shape.micro_batches}", f"sft.micro_tokens={shape.tokens}"]
    flags += [f"sft.max_len={shape.tokens}", f"rl.batch_tokens={shape.tokens}"]
    return load(environment={}, flags=flags)


def timed(work: Callable[[], object], times: int, device: str) -> list[float]:
    """Seconds of each of `times` calls, after two that are not counted."""
    import torch

    found = []
    for number in range(times + 2):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= 2:
            found.append(time.perf_counter() - began)
    return found


def matmul_peak(device: str, size: int) -> float:
    """FLOP/s of the fastest of a few square bfloat16 matrix products."""
    import torch

    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2.0 * size**3 / min(timed(lambda: left @ right, 5, device))


def bandwidth(device: str, size: int) -> float:
    """Bytes/s of the fastest of a few copies of `size` bytes: each is read and written."""
    import torch

    source = torch.zeros(size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2.0 * size / min(timed(lambda: target.copy_(source), 5, device))


def named_peak(name: str) -> float | None:
    """The datasheet's peak of a device, where it is known."""
    return next((peak for part, peak in PEAKS.items() if re.search(rf"\b{part}\b", name, re.IGNORECASE)), None)


def main() -> None:
    """Measure, and on a GPU write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="a very small model; nothing is written")
    parser.add_argument("--attention", default="sdpa", help="flex_attention or flash_attention_2 skip what is masked")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    how = parser.parse_args()
    import torch

    if how.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu: there is no CUDA GPU here; run it where one is, or try it with --device cpu --quick")
    if how.device == "cpu" and torch.cuda.is_available():
        sys.exit("gpu: the trainers take the GPU that is here; hide it with CUDA_VISIBLE_DEVICES= to measure the CPU")
    shape = SMALL if how.quick else Shape()
    found = measure(shape, how)
    values, ratios = figures(found)
    for name, each in values.items():
        print(f"gpu: {name} = {sum(each) / len(each):.4g}")
    for name, ratio in ratios.items():
        print(f"gpu: {name} = {ratio:.3f}")
    if not how.quick:
        report.write("gpu", shape.steps, values, ratios, notes(shape, how, found))


class Measured(msgspec.Struct):
    """What was measured on a device. FLOP, seconds, bytes."""

    device: str
    parameters: int
    named: float | None
    matmul: float
    bandwidth: float
    seconds: dict[str, list[float]]
    flops: dict[str, float]
    tokens: dict[str, int]

    @property
    def peak(self) -> float:
        """FLOP/s that utilisation is a share of."""
        return self.named or self.matmul


def measure(shape: Shape, how: argparse.Namespace) -> Measured:
    """Time the device and both trainers' steps on it."""
    import torch

    from trainers.ranks import Ranks
    from trainers.rl import RlLearner
    from trainers.supervised import SftLearner

    device = how.device
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    size, copied = (512, 1 << 24) if how.quick else (8192, 1 << 31)
    chosen = settings(shape, how)
    seconds: dict[str, list[float]] = {}
    work: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as folder:
        parameters = model(shape, Path(folder))
        for trainer, kind in (("sft", SftLearner), ("rl", RlLearner)):
            work[trainer] = rows(shape, rl=trainer == "rl")
            learner: Any = kind(chosen, Ranks())
            learner.load(folder)
            seconds[trainer] = timed(lambda: learner.learn([work[trainer]], 1e-5), shape.steps, device)  # noqa: B023
            learner.free()
    return Measured(
        device=name,
        parameters=parameters,
        named=named_peak(name),
        matmul=matmul_peak(device, size),
        bandwidth=bandwidth(device, copied),
        seconds=seconds,
        flops={trainer: flops(shape, each) for trainer, each in work.items()},
        tokens={trainer: sum(len(row.ids) for row in each) for trainer, each in work.items()},
    )


def figures(found: Measured) -> tuple[dict[str, list[float]], dict[str, float]]:
    """The values by name, a number a step, and utilisation and share of the roofline of the mean step."""
    values: dict[str, list[float]] = {
        "matmul_tflops": [found.matmul / 1e12],
        "peak_tflops": [found.peak / 1e12],
        "bandwidth_gb_per_s": [found.bandwidth / 1e9],
    }
    ratios = {}
    for trainer, seconds in found.seconds.items():
        mean = math.fsum(seconds) / len(seconds)
        bound = found.flops[trainer] / found.peak + 28 * found.parameters / found.bandwidth
        values[f"{trainer}_tokens_per_s"] = [found.tokens[trainer] / each for each in seconds]
        values[f"{trainer}_tflops"] = [found.flops[trainer] / each / 1e12 for each in seconds]
        ratios[f"{trainer}_model_flops_over_peak"] = found.flops[trainer] / mean / found.peak
        ratios[f"{trainer}_roofline_over_step_time"] = bound / mean
    return values, ratios


def notes(shape: Shape, how: argparse.Namespace, found: Measured) -> list[str]:
    """What the numbers need to be understood."""
    return [
        f"{found.device}, {found.parameters / 1e9:.2f}B parameters",
        f"a step: {shape.micro_batches} micro-batches of {shape.tokens} tokens; RL trains on three quarters of them",
        f"attention {how.attention}, compile {how.compile}, checkpointing {how.checkpointing}",
        f"peak: {'datasheet' if found.named else 'measured matrix product'}",
    ]


if __name__ == "__main__":
    main()
