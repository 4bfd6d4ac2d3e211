"""A few steps of SFT and RL without a broker, on however many ranks; as a program, on those of RANK and WORLD_SIZE.

python learning.py BASE DIRECTORY writes DIRECTORY/told.json and checkpoints, and begins SFT's second half from what
another number of ranks left in DIRECTORY/one.
"""

import json
import os
import sys
from pathlib import Path

import torch
from rewarded import group

from schemas.load import load
from schemas.settings import Settings
from trainers import groups as cohort
from trainers import ranks
from trainers.checkpoint import State, found
from trainers.packing import Row
from trainers.rl import RlLearner
from trainers.supervised import SftLearner

FLAGS = (
    "sft.batch_tokens=200",
    "sft.micro_tokens=40",
    "sft.max_len=60",
    "sft.lr=0.003",
    "rl.lr=0.003",
    "rl.groups=4",
    "rl.updates=2",
    "rl.kl=0.1",
    "rl.kl_to=reference",
    "rl.batch_tokens=40",
    "rl.packing=packed",
    "rl.checkpointing=true",
    "sample.group=2",
)
STEPS = 3


def settings(*flags: str) -> Settings:
    return load(environment={}, flags=[*FLAGS, *flags])


def rows(step: int) -> list[Row]:
    generator = torch.Generator().manual_seed(step)
    return [Row(torch.randint(4, 70, (n,), generator=generator).tolist(), 1 + n // 4) for n in (9, 41, 17, 30, 5)]


def sft(learner: SftLearner, base: str, root: Path, steps: range, path: Path | None = None) -> list[tuple]:
    """The losses and norms of these steps, and a checkpoint after them."""
    learner.load(base, path)
    told = [learner.learn([rows(step)], 0.003) for step in steps]
    learner.save(root, State(run="sft", trainer="sft", base=base, version=0, step=steps.stop))
    learner.free()
    return [(one.loss, one.norm) for one in told]


def rl(learner: RlLearner, base: str, root: Path) -> list[tuple]:
    """The same of RL, with the sums of its statistics."""
    learner.load(base)
    told = []
    for step in range(STEPS):
        groups = [group(4 * step + at, version=0, rewards=(1, -1)) for at in range(4)]
        shares = [cohort.rows(share, learner.objective) for share in cohort.shares(groups, 2)]
        told.append(learner.learn(shares, 0.003))
    learner.save(root, State(run="rl", trainer="rl", base=base, version=0))
    learner.free()
    return [(one.loss, one.norm, one.sums) for one in told]


def main(base: str, directory: Path) -> None:
    torch.set_num_threads(1)
    with ranks.joined() as here:
        learners = [*(SftLearner(settings(), here) for _ in range(4)), RlLearner(settings(), here)]
        if here.rank:
            for learner in learners:
                learner.follow()
            return
        told = {
            "sft": sft(learners[0], base, directory / "two", range(STEPS)),
            "resumed": sft(
                learners[1], base, directory / "two-resumed", range(STEPS, 2 * STEPS), found(directory / "one")[-1]
            ),
            "whole": sft(learners[2], base, directory / "two-whole", range(2 * STEPS)),
            "again": sft(
                learners[3], base, directory / "two-again", range(STEPS, 2 * STEPS), found(directory / "two")[-1]
            ),
            "rl": rl(learners[4], base, directory / "two-rl"),
        }
        (directory / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    assert int(os.environ["WORLD_SIZE"]) > 1
    main(sys.argv[1], Path(sys.argv[2]))
