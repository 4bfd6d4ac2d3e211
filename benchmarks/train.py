"""Training against TRL: SFT tokens a second against SFTTrainer, online RL samples a second against GRPOTrainer.

Both sides get the same model, rows, prompts, batch sizes, lengths, learning rate, dtype and two cores, in one run
(benchmarks/train_data.py). Each is a process of its own: benchmarks/train_ours.py here, benchmarks/trl_side.py in
.bench-venv, which is made at the first run from benchmarks/trl.txt. TRL's variants are described there; ours is
compared with the fastest of them, and so are ours: 'compiled' is torch.compile (sft.compile, rl.compile; in RL of the
engine's model, too).

Other work on the machine can halve its speed for minutes, so the sides take turns of seconds, round after round, all
but one asleep; a ratio is the median of the rounds' ratios. Ours in RL is a whole factory: it is started anew for each
of its turns, and the clock runs once it is warm.

What is counted: SFT, tokens of the rows, prompts included, padding not. RL, responses that an optimizer step was made
with, generation, grading and new weights included. TRL trains on every group; so does ours as `every`. The factory's
default replaces groups whose rewards are all equal, which teach nothing, and does not count them. The ratio of `mixed`
samples (those of the other groups) is given beside it.

    python -m benchmarks.train [--quick] [--only sft|rl] [--rounds N]
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import report, train_data
from benchmarks.train_data import Job
from processors.chat import resolve

ROOT = Path(__file__).parent.parent
CORES = 2
OURS = {"sft": ((), ("compiled",)), "rl": ((), ("compiled",), ("compiled", "every"))}
SFT_VARIANTS = (
    ("packed",),
    ("padded", "18"),
    ("eager", "10"),
    ("eager", "10", "compiled"),
    ("eager", "38", "compiled", "by32"),
)
RL_VARIANTS = (("transformers", "1"), ("transformers", "4"))
LIMIT_S = 600.0
ROUNDS = {"sft": 7, "rl": 3}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps of each, to see that it works")
    parser.add_argument("--only", choices=["sft", "rl"], help="one of the two comparisons")
    parser.add_argument("--rounds", type=int, default=0, help="of each; 0 = 7 of SFT, 3 of RL")
    parser.add_argument("--threads", type=int, default=CORES, help="cores of each side")
    arguments = parser.parse_args()
    job = Job(model=resolve("tiny"), threads=arguments.threads)
    rounds = arguments.rounds
    if arguments.quick:
        job, rounds = msgspec.structs.replace(job, steps=3, warm_steps=1, seconds=5.0), rounds or 1
    theirs = environment()
    hold(arguments.threads)
    values: dict[str, list[float]] = {}
    ratios: dict[str, float] = {}
    told: dict[str, Side] = {}
    with tempfile.TemporaryDirectory() as name:
        lines = train_data.rows(job.model, train_data.examples(2000, 0))
        train_data.write(Path(name), job, lines, train_data.problems(512, 1))
        for kind, usual in ROUNDS.items():
            if arguments.only in {None, kind}:
                found = compare(kind, name, job, theirs, rounds or usual)
                more, over = figures(found)
                values |= more
                ratios |= over
                told |= found[0]
    report.write("train", rounds or max(ROUNDS.values()), values, ratios, notes(job, told))


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
"""What a side printed of a turn."""


class Held:
    """A side that trains when it is told to, a turn at a time, and waits in between.

    Args:
        name: of the variant: sft, sft_compiled, sft_packed, ..., rl_transformers_1, ...
        command: that starts it.
        threads: of torch.
    """

    def __init__(self, name: str, command: list[str], threads: int) -> None:
        self.name, self.command = name, command
        count = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        self.words = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.words, text=True, cwd=ROOT,
            env=os.environ | count | quiet,
        )  # fmt: skip

    def turn(self) -> Side:
        """Let it train for a turn.

        Raises:
            RuntimeError: it failed, or took longer than LIMIT_S; with the end of what it said.
        """
        assert self.process.stdin
        assert self.process.stdout
        watch = threading.Timer(LIMIT_S, self.process.kill)
        watch.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write("\n")
                self.process.stdin.flush()
            for line in self.process.stdout:
                if line.startswith('{"seconds"'):
                    found: Side = json.loads(line)
                    print(f"train: {self.name}: {found}", flush=True)
                    return found
        finally:
            watch.cancel()
        self.words.seek(0)
        raise RuntimeError(f"{' '.join(self.command[2:])} failed:\n{self.words.read()[-3000:]}")

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self.words.close()


def compare(kind: str, folder: str, job: Job, theirs: Path, rounds: int) -> list[dict[str, Side]]:
    """What every variant did in each round, by its name."""
    trl = SFT_VARIANTS if kind == "sft" else RL_VARIANTS
    told = "sft" if kind == "sft" else "grpo"
    commands = {
        "_".join([kind, *variant]): [str(theirs), "-m", "benchmarks.trl_side", told, folder, *variant]
        for variant in trl
    }
    ours = [sys.executable, "-m", "benchmarks.train_ours", kind, folder]
    if kind == "sft":
        commands = {"_".join(["sft", *more]): [*ours, *more] for more in OURS["sft"]} | commands
    held: list[Held] = []
    found: list[dict[str, Side]] = []
    try:
        for name, command in commands.items():
            held.append(Held(name, command, job.threads))
            held[-1].turn()  # of warm steps: nobody else works while one compiles
        for _ in range(rounds):
            found.append({side.name: side.turn() for side in held})
            for more in OURS["rl"] if kind == "rl" else ():
                held.append(factory := Held("_".join(["rl", *more]), [*ours, *more], 1))
                found[-1][factory.name] = factory.turn()
                held.remove(factory)
                factory.close()
    finally:
        for side in held:
            side.close()
    return found


def figures(runs: list[dict[str, Side]]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """The values by name, a number a round, and the ratios: the median of our fastest over TRL's fastest."""
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
        ratios[f"{kind}_ours_over_trl_{unit}"] = statistics.median(over)
    return values, ratios


def trls(found: Side) -> bool:
    """Whether it was TRL's; its side says of which version."""
    return "trl" in found


def label(name: str, found: Side) -> str:
    """'sft' is sft_ours, 'sft_packed' is sft_trl_packed."""
    kind, *variant = name.split("_")
    return "_".join([kind, "trl" if trls(found) else "ours", *variant])


def speed(found: Side, unit: str) -> float:
    """A side's tokens or samples a second; 'mixed': of groups with different rewards."""
    if unit != "mixed":
        return float(found[unit] / found["seconds"])
    return float(found["samples"] / found["seconds"] * (mixed(found) if found.get("every", True) else 1.0))


def mixed(found: Side) -> float:
    """The share of the samples that are of groups with different rewards."""
    if "mixed_share" in found:
        return float(found["mixed_share"])
    return float(found["sampled_mixed"] / max(found["sampled_samples"], 1))


def length(found: Side) -> float:
    """The mean length of a response, in tokens."""
    return float(found["length"] if "length" in found else found["sampled_tokens"] / max(found["sampled_samples"], 1))


def notes(job: Job, run: dict[str, Side]) -> list[str]:
    """What the numbers need to be understood."""
    found = [
        f"tiny policy, {job.threads} cores a side, {job.dtype} matrix products, float32 weights, lr {job.lr}",
    ]
    theirs = next(side for side in run.values() if trls(side))
    found.append(f"TRL {theirs['trl']}, transformers {theirs['transformers']}, torch {theirs['torch']}")
    if "sft" in run:
        found.append(f"SFT: {job.steps} steps of about {job.batch_tokens} tokens, loss on the responses")
    if ours := [name for name, side in run.items() if name.startswith("rl") and not trls(side)]:
        best = max(ours, key=lambda name: speed(run[name], "samples"))
        fastest, name = run[best], label(best, run[best])
        rate, share = fastest["sampled"] / fastest["seconds"], 100 * mixed(fastest)
        found += [
            f"RL: {job.groups} groups of {job.group} a step, at most {job.max_tokens} tokens; mean length: "
            + ", ".join(
                f"{label(name, side)} {length(side):.0f}" for name, side in run.items() if name.startswith("rl")
            ),
            f"{name}, first round: lag {fastest['lag_mean']:.1f} versions on the mean, {fastest['lag_max']} at most",
            f"{name}: a version every {fastest['version_steps']} steps",
            f"{name}, first round: {rate:.0f} samples/s were sampled, {share:.0f} % of them mixed",
            "RL TRL: the number is how many optimizer steps the samples of one generation make",
        ]
    return found


if __name__ == "__main__":
    main()
