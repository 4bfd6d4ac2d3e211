"""Old versions' weights are removed by a rule that keeps every one that somebody may still ask for ([weights] keep).

Kept are the newest `keep` versions, the base, every hand-over, each trainer's newest, what a checkpoint began from, the
version that rl.start_version names, every version that the evaluator has not done yet, and one that was the newest a
short while ago: a tree or a rollout that began under it may be under way. Nothing else loads weights: rollouts carry
their log-probs, and training goes on from checkpoints. A version that goes leaves a mark (processors/expired.py) and a
row in `filtered`; its row in `weights` stays, so whatever names it still finds who it was.
"""

import itertools
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from processors.dataset import Datasets
from processors.expired import MARK, expired
from schemas.messages import Filtered, Weights, content_id
from schemas.settings import Settings
from trainers import checkpoint

STAGE = "weights"
"""Of the rows in `filtered`."""
WAITING = """
SELECT version, path FROM weights WHERE sha256 NOT IN (SELECT sha FROM evaluations WHERE source = 'all' AND policy = ?)
  AND version || ':' || sha256 NOT IN (SELECT input_id FROM filtered WHERE stage = 'evaluate')
"""


def retire(settings: Settings, datasets: Datasets) -> list[Filtered]:
    """Remove the files of versions that nobody needs.

    Returns:
        A row for each version without files that the table `filtered` does not have yet (also those that went before
        a crash).
    """
    rows = [row for row in datasets.messages(Weights) if row.policy == settings.policy.name]
    for row in expendable(rows, settings, _needed(settings, datasets), time.time()):
        _remove(Path(row.path), settings.weights.keep)
    with datasets.connect() as connection:
        found = connection.execute("SELECT input_id FROM filtered WHERE stage = ?", [STAGE]).fetchall()
    told = {name for (name,) in found}
    return [_row(row, why) for row in rows if (why := expired(row.path)) and _name(row) not in told]


def expendable(rows: Sequence[Weights], settings: Settings, needed: set[str], now: float) -> list[Weights]:
    """The versions to remove, of all that were announced.

    Args:
        rows: the announcements of one policy.
        settings: weights.keep, search.timeout_s, rl.start_version, factory.data.
        needed: paths of weights that must stay.
        now: seconds since the epoch.
    """
    ordered = sorted(rows, key=lambda row: row.version)
    newest = {row.version for row in ordered[-settings.weights.keep :]}
    newest |= {max(row.version for row in rows if row.trainer == who) for who in {row.trainer for row in rows}}
    home = Path(settings.factory.data).resolve() / "weights"
    # A tree that began while this version was the newest ends, or is published as it stands, by then.
    recent = now - 2 * settings.search.timeout_s
    return [
        row
        for row, following in itertools.pairwise(ordered)
        if row.trainer != "base"
        and not row.handover
        and row.version not in newest
        and row.version != settings.rl.start_version
        and row.path not in needed
        and following.time < recent
        and Path(row.path).parent == home
        and Path(row.path, "config.json").exists()  # else it went before
    ]


def _needed(settings: Settings, datasets: Datasets) -> set[str]:
    """Paths that a checkpoint began from, or that are still to be evaluated."""
    root = Path(settings.factory.data) / "checkpoints"
    paths = set()
    for trainer in ("sft", "rl"):
        for path in checkpoint.found(root / trainer):
            try:
                paths.add(checkpoint.peek(path).base)
            except (OSError, msgspec.MsgspecError):  # cut off; the trainer says so when it starts
                continue
    stages, asked = settings.factory.stages, settings.evaluate.versions
    if stages and "evaluate" not in stages:
        return paths
    with datasets.connect() as connection:
        waiting = connection.execute(WAITING, [settings.policy.name]).fetchall()
    return paths | {path for version, path in waiting if not asked or version in asked}


def _remove(directory: Path, keep: int) -> None:
    """Leave the mark, then let the files go, the config last: a crash on the way is finished by whoever comes next."""
    mark = directory / MARK
    day = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    mark.write_text(f"expired: its files were removed on {day}, for weights.keep = {keep}\n", "utf-8")
    checkpoint.sync(mark)
    checkpoint.sync(directory)
    for file in sorted(directory.iterdir(), key=lambda file: file.name == "config.json"):
        if file.name != MARK:
            file.unlink()


def _name(row: Weights) -> str:
    return f"{row.version}:{row.sha256}"


def _row(row: Weights, why: str) -> Filtered:
    name = _name(row)
    return Filtered(
        id=content_id(STAGE, name, "expired"),
        stage=STAGE,
        input_topic="weights",
        input_id=name,
        why=why,
        time=time.time(),
    )
