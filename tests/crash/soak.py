"""`make soak`: for SOAK_MINUTES (20) something dies every 5 to 15 seconds, then the same checks as everywhere.

The seed is printed; SOAK_SEED chooses it again, and with it the moments and victims.
"""

import os
import secrets
import time
from pathlib import Path

import pytest
from crashing import Crashing, Killer, holds, running

MINUTES = float(os.environ.get("SOAK_MINUTES", "20"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or secrets.randbelow(1_000_000) + 1
BETWEEN_S = (5.0, 15.0)
SETTLE_S = 600
OPTIONS = (
    "factory.restart_limit=100000",
    "sft.min_examples=24",
    "sft.publish_steps=4",
    "sft.hand_over_steps=12",
    "sft.patience_s=20",
    "rl.groups=4",
    "rl.publish_steps=1",
    "evaluate.problems=8",
    "sink.flush_s=1",
)
GROWS = ("problems", "trees", "traces", "examples")


@pytest.mark.timeout(MINUTES * 60 + 3 * SETTLE_S)
def test_random_kills(tmp_path: Path) -> None:
    print(f"\nSOAK_SEED={SEED} SOAK_MINUTES={MINUTES:g}", flush=True)
    factory = Crashing(tmp_path, *OPTIONS)
    with running(factory, MINUTES + 2 * SETTLE_S / 60):
        factory.until(lambda: factory.count("examples") > 0, SETTLE_S, "the first examples")
        killer = Killer(factory, SEED, BETWEEN_S)
        began = time.monotonic()
        killer.run(MINUTES * 60)
        print(f"{killer.killed.total()} kills in {time.monotonic() - began:.0f} s: {dict(killer.killed)}", flush=True)
        before = {table: factory.count(table) for table in GROWS}
        for table in GROWS:
            factory.until(lambda at=table: factory.count(at) > before[at], SETTLE_S, f"more {table} after the kills")
        factory.stop()
    holds(factory)
    counts = {table: factory.count(table) for table in (*GROWS, "rollouts", "rewards", "training", "weights")}
    print(f"the ledger closes, no id is twice, linearize and verify gave what they give undisturbed: {counts}")
