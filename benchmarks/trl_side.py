"""TRL's side of benchmarks/train.py: SFTTrainer and GRPOTrainer on the files of train_data.py, as fast as they go here.

Runs in the environment of benchmarks/trl.txt and prints one JSON object for each line of stdin. Where TRL leaves a
choice, several are variants and the fastest is compared with:

- sft padded: batches of rows of like length (group_by_length), padded; NUMBER rows a micro-batch;
- sft eager: the same with eager attention, whose backward pass is faster on a CPU for short rows than SDPA's;
- `compiled` after NUMBER: the same with torch_compile; `by32`: padded to a multiple of 32 tokens, for few shapes;
- sft packed: best-fit rows of 512 tokens, a row a micro-batch, attention kept apart by position ids (padding-free);
- grpo transformers: `model.generate`, one generation for each optimizer step (on-policy), or for several;

TRL's colocated vLLM is left out: on a CPU it starts and fails at the first new weights (vLLM 0.32 cannot take them by
load_weights there: 'Parameter' object has no attribute 'weight_loader').

No logging, no saving, no evaluation, no reference model (beta 0), the same clip, loss and rewards as ours.

    python -m benchmarks.trl_side {sft|grpo} WORK VARIANT [NUMBER [compiled] [by32]]
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.train_data import Job, read

PACKED = 512
"""Tokens of a packed row: the longest example and the context of the tiny policy."""


def main() -> None:
    """Run one variant until stdin ends."""
    kind, folder, variant = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    number = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    {"sft": sft, "grpo": grpo}[kind](folder, variant, number)


def versions() -> dict[str, str]:
    """Of what is measured."""
    import torch
    import transformers
    import trl  # type: ignore[import-not-found]

    return {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}


def open_model(job: Job, attention: str = "sdpa") -> Any:  # noqa: ANN401 - transformers has no types
    """The policy with float32 weights, on `threads` threads."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(job.threads)
    return AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32, attn_implementation=attention)


def common(job: Job, folder: Path) -> dict[str, Any]:
    """The arguments of both trainers: nothing but training."""
    return {
        "output_dir": str(folder / "trl"),
        "use_cpu": True,
        "bf16": job.dtype == "bfloat16",
        "learning_rate": job.lr,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def turns(job: Job, seen: Callable[[], dict[str, float]], seconds: float = 0.0) -> Any:  # noqa: ANN401 - a TrainerCallback
    """Trains a turn for each line of stdin: the warm steps first, then `steps`, or as many as begin within `seconds`.

    Args:
        job: warm_steps and steps.
        seen: what was counted so far; a turn's are the differences.
        seconds: 0 = steps decide.
    """
    from transformers import TrainerCallback

    class Turns(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: object, **__: object) -> None:
            self.warm = True
            self.wait()

        def wait(self) -> bool:
            more = bool(sys.stdin.readline())
            self.began, self.first, self.steps = time.perf_counter(), seen(), 0
            return more

        def on_step_end(self, _arguments: object, _state: object, control: Any, **_: object) -> None:  # noqa: ANN401
            self.steps += 1
            took = time.perf_counter() - self.began
            if self.warm or not seconds:
                over = self.steps >= (job.warm_steps if self.warm else job.steps)
            else:
                over = took >= seconds
            if over:
                counted = {name: value - self.first[name] for name, value in seen().items()}
                print(json.dumps({"seconds": took, **counted, "steps": self.steps, **versions()}), flush=True)
                self.warm = False
                control.should_training_stop = not self.wait()

    return Turns()


def sft(folder: Path, variant: str, number: int) -> None:
    """Tokens (padding not counted) and seconds of SFTTrainer; `number`: rows of a padded micro-batch."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    job, lines, _ = read(folder)
    data = [{"input_ids": one.ids, "completion_mask": [int(at >= one.loss_from) for at in range(len(one.ids))]}
            for one in lines]  # fmt: skip
    mean = sum(len(one.ids) for one in lines) / len(lines)
    packed = variant == "packed"
    size = 1 if packed else number
    each = PACKED if packed else mean * size
    arguments = SFTConfig(
        **common(job, folder),
        max_length=PACKED,
        packing=packed,
        packing_strategy="bfd",
        per_device_train_batch_size=size,
        gradient_accumulation_steps=max(1, round(job.batch_tokens / each)),
        pad_to_multiple_of=32 if "by32" in sys.argv[5:] else None,
        train_sampling_strategy="random" if packed else "group_by_length",
        max_steps=100_000,
        completion_only_loss=True,
        torch_compile="compiled" in sys.argv[5:],
    )
    model = open_model(job, "eager" if variant == "eager" else "sdpa")
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(data),
                         processing_class=tokenizer(job))  # fmt: skip
    # its own count, padding left out
    trainer.add_callback(turns(job, lambda: {"tokens": trainer._total_train_tokens}))  # noqa: SLF001
    trainer.train()


def tokenizer(job: Job) -> Any:  # noqa: ANN401
    """The policy's."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(job.model)


def grpo(folder: Path, _variant: str, number: int) -> None:
    """Samples and seconds of GRPOTrainer; `number`: optimizer steps on the samples of one generation."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from processors.grading import grade_fast, reward

    job, _, problems = read(folder)
    words = tokenizer(job)
    asked = {}
    for problem in problems:
        turn = [{"role": "user", "content": problem.question}]
        asked[words.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)] = problem
    sampled = {"samples": 0.0, "tokens": 0.0, "mixed": 0.0}

    def rewards(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: object
    ) -> list[float]:
        paid = [reward(grade_fast(asked[prompt], text) or "unparsable")
                for prompt, text in zip(prompts, completions, strict=True)]  # fmt: skip
        for at in range(0, len(paid), job.group):
            sampled["mixed"] += job.group * (len(set(paid[at : at + job.group])) > 1)
        sampled["tokens"] += sum(map(len, completion_ids))
        sampled["samples"] += len(paid)
        return paid

    arguments = GRPOConfig(
        **common(job, folder),
        per_device_train_batch_size=job.group * job.groups,
        steps_per_generation=number,
        num_generations=job.group,
        max_completion_length=job.max_tokens,
        temperature=job.temperature,
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        loss_type="dapo",
        max_steps=100_000,
    )
    data = Dataset.from_list([{"prompt": prompt} for prompt in asked])
    trainer = GRPOTrainer(model=open_model(job), reward_funcs=rewards, args=arguments, train_dataset=data,
                          processing_class=words)  # fmt: skip
    each = job.group * job.groups

    def seen() -> dict[str, float]:
        return {"samples": trainer.state.global_step * each, **{f"sampled_{k}": v for k, v in sampled.items()}}

    trainer.add_callback(turns(job, seen, job.seconds))
    trainer.train()


if __name__ == "__main__":
    main()
