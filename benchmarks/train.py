"""Training against TRL: SFT tokens a second against SFTTrainer, online RL samples a second against GRPOTrainer.

Both sides get the same model, rows, prompts, batch sizes, lengths, learning rate, dtype and two cores, in turn, in one
run (benchmarks/train_data.py). Each is a process of its own: benchmarks/train_ours.py here, benchmarks/trl_side.py in
.bench-venv, which is made at the first run from benchmarks/trl.txt. TRL's variants are described there; ours is
compared with the fastest of them, and so are ours: 'compiled' is torch.compile (sft.compile = true; RL's rows change
their shapes so often that compiling took longer than it saved).

What is counted: SFT, tokens of the rows, prompts included, padding not. RL, responses that an optimizer step was made
with, generation, grading and new weights included. TRL trains on every group; the factory replaces groups whose rewards
are all equal, which teach nothing, and does not count them, so the ratio of `mixed` samples (those of the other groups)
is given beside it.

    python -m benchmarks.train [--quick] [--only sft|rl] [--runs N]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import report, train_data
from benchmarks.train_data import Job
from processors.chat import resolve

ROOT = Path(__file__).parent.parent
CORES = 2
OUR_SFT_VARIANTS = ((), ("compiled",))
SFT_VARIANTS = (("packed",), ("padded", "18"), ("eager", "10"), ("eager", "10", "compiled"))
RL_VARIANTS = (("transformers", "1"), ("transformers", "4"))
LIMIT_S = 600.0


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps of each, to see that it works")
    parser.add_argument("--only", choices=["sft", "rl"], help="one of the two comparisons")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=CORES, help="cores of each side")
    arguments = parser.parse_args()
    job = Job(model=resolve("tiny"), threads=arguments.threads)
    if arguments.quick:
        job = msgspec.structs.replace(job, steps=3, warm_steps=1, seconds=5.0)
    theirs = environment()
    hold(arguments.threads)
    wanted = [arguments.only] if arguments.only else ["sft", "rl"]
    runs = [once(job, theirs, wanted) for _ in range(arguments.runs)]
    values, ratios = figures(runs)
    report.write("train", len(runs), values, ratios, notes(job, runs[0]))


def hold(cores: int) -> None:
    """Keep this process, and so all that it starts, on as many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def environment() -> Path:
    """The Python of TRL's environment, which is made where it is missing."""
    place = ROOT / ".bench-venv"
    python = place / "bin" / "python"
    if not (place / ".installed").exists():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([str(uv), "venv", "-q", "--clear", "--python", sys.executable, str(place)], check=True)
        links = os.environ.get("PIP_FIND_LINKS", "")
        source = ["--find-links", links] if links else ["--torch-backend", "cpu"]
        command = [str(uv), "pip", "install", "-q", "--python", str(python), *source]
        command += ["-r", str(Path(__file__).with_name("trl.txt"))]
        subprocess.run(command, check=True)
        (place / ".installed").touch()
    return python


Side = dict[str, Any]
"""What a side printed."""


def once(job: Job, theirs: Path, wanted: list[str]) -> dict[str, Side]:
    """Every side once, by name: sft, sft_compiled, sft_packed, ..., rl, rl_transformers_1, ..."""
    found: dict[str, Side] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = train_data.rows(job.model, train_data.examples(2000, 0))
        train_data.write(folder, job, lines, train_data.problems(512, 1))
        if "sft" in wanted:
            for ours in OUR_SFT_VARIANTS:
                command = [sys.executable, "-m", "benchmarks.train_ours", "sft", name, *ours]
                found["_".join(["sft", *ours])] = side(command, job.threads)
            for variant in SFT_VARIANTS:
                command = [str(theirs), "-m", "benchmarks.trl_side", "sft", name, *variant]
                found["_".join(["sft", *variant])] = side(command, job.threads)
        if "rl" in wanted:
            found["rl"] = side([sys.executable, "-m", "benchmarks.train_ours", "rl", name], 1)
            for variant in RL_VARIANTS:
                command = [str(theirs), "-m", "benchmarks.trl_side", "grpo", name, *variant]
                found["_".join(["rl", *variant])] = side(command, job.threads)
    return found


def side(command: list[str], threads: int) -> Side:
    """Run one side to its end and read its last line.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    count = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=ROOT, env=os.environ | count | quiet
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} failed:\n{done.stderr[-3000:]}")
    found: Side = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"train: {' '.join(command[2:4])} {' '.join(command[5:])}: {found}", flush=True)
    return found


def figures(runs: list[dict[str, Side]]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """The values by name, a number a run, and the ratios: the mean over the runs of our fastest over TRL's fastest."""
    values: dict[str, list[float]] = {}
    ratios: dict[str, float] = {}
    for kind, unit in (("sft", "tokens"), ("rl", "samples"), ("rl", "mixed")):
        names = [name for name in runs[0] if name.split("_")[0] == kind]
        if not names:
            continue
        over = []
        for run in runs:
            speeds = {name: speed(run[name], unit) for name in names}
            for name in names:
                values.setdefault(f"{label(name, run[name])}_{unit}_per_s", []).append(speeds[name])
            best = {who: max(speeds[name] for name in names if trls(run[name]) == who) for who in (True, False)}
            over.append(best[False] / best[True])
        ratios[f"{kind}_ours_over_trl_{unit}"] = sum(over) / len(over)
    return values, ratios


def trls(found: Side) -> bool:
    """Whether it was TRL's; its side says of which version."""
    return "trl" in found


def label(name: str, found: Side) -> str:
    """'sft' is sft_ours, 'sft_packed' is sft_trl_packed."""
    kind, *variant = name.split("_")
    return "_".join([kind, "trl" if trls(found) else "ours", *variant])


def speed(found: Side, unit: str) -> float:
    """A side's tokens or samples a second; 'mixed': of groups with different rewards (all that ours trains on)."""
    if unit != "mixed":
        return float(found[unit] / found["seconds"])
    return float(found["samples"] / found["seconds"] * (found["mixed_share"] if trls(found) else 1.0))


def notes(job: Job, run: dict[str, Side]) -> list[str]:
    """What the numbers need to be understood."""
    found = [
        f"tiny policy, {job.threads} cores a side, {job.dtype} matrix products, float32 weights, lr {job.lr}",
    ]
    theirs = next(side for side in run.values() if trls(side))
    found.append(f"TRL {theirs['trl']}, transformers {theirs['transformers']}, torch {theirs['torch']}")
    if "sft" in run:
        found.append(f"SFT: {job.steps} steps of about {job.batch_tokens} tokens, loss on the responses")
    if ours := run.get("rl"):
        rate, mixed = ours["sampled"] / ours["seconds"], 100 * ours["mixed_share"]
        found += [
            f"RL: {job.groups} groups of {job.group} a step, at most {job.max_tokens} tokens; mean length: "
            + ", ".join(
                f"{label(name, side)} {side['length']:.0f}" for name, side in run.items() if name.startswith("rl")
            ),
            f"RL ours: lag {ours['lag_mean']:.1f} versions on the mean, {ours['lag_max']} at most",
            f"RL ours: {rate:.0f} samples/s were sampled, {mixed:.0f} % of them mixed",
            "RL TRL: the number is how many optimizer steps the samples of one generation make",
        ]
    return found


if __name__ == "__main__":
    main()
