"""The factory's side of benchmarks/train.py, on the files of train_data.py; prints one JSON object a turn.

- sft: the SFT trainer's own learner on batches that its own pool draws, in one process with both cores; `compiled`:
  with sft.compile;
- rl: `factory up` with the stages that RL needs (sample, verify, sink, prompts, rl) on the embedded broker and the real
  engine: the sampler and the trainer have a thread each, and what is beside them (broker, grader, tables) takes its
  part of the two cores. The clock starts after `WARM_STEPS` steps; groups that were sampled before it do not
  count, however many wait. The engine computes in the job's dtype, as TRL's generation does; `compiled`: the
  engine's model is, and the trainer's; `every`: without dynamic sampling, so steps are made of every group, as TRL's.

    python -m benchmarks.train_ours {sft|rl} WORK [compiled] [every]
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from benchmarks.train_data import Job, read
from schemas.load import load
from schemas.messages import Problem
from schemas.settings import Settings

WARM_STEPS = 48
"""By then a compiled trainer is compiled, and what was sampled meanwhile is trained on."""
PUBLISH_STEPS = 8
STAGES = ("sample", "verify", "sink", "prompts", "rl")
EVERY_PROBLEM = "select id, 0.5 as pass_rate, 'benchmark' as why from problems"


def main() -> None:
    """Run one side: a turn for each line of stdin, and a JSON object for each turn."""
    kind, folder, *words = sys.argv[1:]
    turns = {"sft": sft, "rl": rl}[kind](Path(folder), **dict.fromkeys(words, True))
    while sys.stdin.readline():
        print(json.dumps(next(turns)), flush=True)


def sft(folder: Path, *, compiled: bool = False) -> Iterator[dict[str, Any]]:
    """Tokens (padding not counted) and seconds of the warm steps, then of `steps` optimizer steps, again and again."""
    from trainers.packing import Row
    from trainers.pool import Pool
    from trainers.ranks import Ranks
    from trainers.supervised import SftLearner

    job, lines, _ = read(folder)
    section = [f"threads={job.threads}", f"dtype={job.dtype}", f"batch_tokens={job.batch_tokens}"]
    section.append(f"compile={str(compiled).lower()}")
    learner = SftLearner(load(environment={}, flags=[f"sft.{flag}" for flag in section]), Ranks())
    learner.load(job.model)
    pool = Pool(0, 1000.0, {})
    for number, line in enumerate(lines):
        pool.add(str(number), Row(line.ids, line.loss_from))
    for steps in chain([job.warm_steps], repeat(job.steps)):
        began, tokens = time.perf_counter(), 0
        for _ in range(steps):
            keys = pool.draw(job.batch_tokens)
            learner.learn([[pool.rows[key] for key in keys]], job.lr)
            pool.trained(keys)
            tokens += sum(len(pool.rows[key].ids) for key in keys)
        yield {"seconds": time.perf_counter() - began, "tokens": tokens, "steps": steps}


def settings(folder: Path, job: Job, *, compiled: bool, every: bool) -> Settings:
    """Those of the running factory: online RL from version 0 on every problem, at the job's sizes."""
    flags = {
        "factory.data": folder / "data",
        "factory.stages": json.dumps(STAGES),
        "policy.path": job.model,
        "engine.max_model_len": 512,
        "engine.dtype": job.dtype,
        "engine.args.enforce_eager": not compiled,
        "prompts.start": "weights",
        "prompts.sql": EVERY_PROBLEM,
        "sample.group": job.group,
        "sample.max_tokens": job.max_tokens,
        "sample.temperature": job.temperature,
        "rl.groups": job.groups,
        "rl.start_version": 0,
        "rl.lr": job.lr,
        "rl.dtype": job.dtype,
        "rl.compile": compiled,
        "rl.dynamic_sampling": not every,
        "rl.weight_decay": 0.01,
        "rl.publish_steps": PUBLISH_STEPS,
        "rl.max_lag": 6,
    }
    return load(environment={}, flags=[f"{name}={value}" for name, value in flags.items()])


def rl(folder: Path, *, compiled: bool = False, every: bool = False) -> Iterator[dict[str, Any]]:
    """One turn: samples and seconds of the steps while the clock ran, and what was sampled meanwhile."""
    from deploy.local import Factory

    job, _, problems = read(folder)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        chosen = settings(Path(place), job, compiled=compiled, every=every)
        clock = Clock(chosen, problems, job.seconds)
        Factory(chosen).run(600.0, clock.tick)
        yield measured(Path(chosen.factory.data), clock.began, every=every)


class Clock:
    """Asks the problems once the broker is up, and stops the factory when the time is over.

    Args:
        settings: of the factory.
        problems: what is published.
        seconds: of the clock.
    """

    def __init__(self, settings: Settings, problems: list[Problem], seconds: float) -> None:
        self._settings, self._problems, self._seconds = settings, problems, seconds
        self._asked = False
        self.began = 0.0

    def tick(self, factory: Any) -> None:  # noqa: ANN401 - deploy.local.Factory
        """As deploy.local.Tick."""
        from processors import status

        if not self._asked:
            self._asked = True
            self.ask()
        rows = [row for row in status.read_all(factory.data) if row.get("stage") == "rl"]
        step = max((int(row.get("step") or 0) for row in rows), default=0)
        now = time.time()
        if not self.began and step >= WARM_STEPS:
            self.began = now
        if self.began and now - self.began >= self._seconds:
            factory.stopping = True

    def ask(self) -> None:
        """Publish the problems."""
        from processors import kafka

        client = kafka.producer(self._settings)
        for problem in self._problems:
            kafka.send(client, problem)
        client.flush(30)
        client.close()


def measured(data: Path, began: float, *, every: bool) -> dict[str, Any]:
    """From the tables: steps that ended after `began` (s since the epoch), between the first and the last of them.

    Samples are those trained on, and no more than were sampled in that time in groups that are trained on. The lag is
    in versions.

    Raises:
        RuntimeError: there are fewer than two.
    """
    from processors.dataset import Datasets

    with Datasets(data / "datasets").connect() as connection:
        steps = connection.execute(
            "select time, rollouts, length, lag_mean, lag_max from training where time >= ? order by step", [began]
        ).fetchall()
        if not began or len(steps) < 2:
            logs = (f"{log.name}: {log.read_text('utf-8')[-500:]}" for log in sorted((data / "logs").glob("*.log")))
            raise RuntimeError("\n".join([f"{len(steps)} steps while the clock ran", *logs]))
        first, last = steps[0][0], steps[-1][0]
        groups = connection.execute(
            "select len(rollouts), len(list_distinct(rewards)) > 1 from rewards "
            "where epoch(_time) >= ? and epoch(_time) < ?",
            [first, last],
        ).fetchall()
    sampled, useful = sum(size for size, _ in groups), sum(size for size, mixed in groups if mixed)
    return {
        "seconds": last - first,
        "samples": min(sum(step[1] for step in steps[1:]), sampled if every else useful),
        "every": every,
        "sampled": sampled,
        "mixed_share": useful / max(sampled, 1),
        "length": sum(step[2] for step in steps) / len(steps),
        "version_steps": PUBLISH_STEPS,
        "lag_mean": sum(step[3] for step in steps) / len(steps),
        "lag_max": max(step[4] for step in steps),
    }


if __name__ == "__main__":
    main()
