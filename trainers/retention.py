"""Old versions' weights are removed by a rule that keeps every one that somebody may still ask for ([weights] keep).

Kept are the newest `keep` versions, the base, every hand-over, each trainer's newest, what a checkpoint began from, the
version that rl.start_version names, every version that the evaluator has not done yet, and one that was the newest a
short while ago: a tree or a rollout that began under it may be under way. A version that an engine refused does not
count as the newest of anything, for the one before is served on; itself it stays as long as that one. Nothing else
loads weights: rollouts carry their log-probs, and training goes on from checkpoints. A version that goes leaves a mark
(processors/expired.py) and a row in `filtered`; its row in `weights` stays, so whatever names it still finds who it
was.
"""

import math
import time
from collections.abc import Container, Sequence
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
EVALUATED = """
WITH told AS (SELECT asked, version, sha, count(DISTINCT id) AS n FROM answers GROUP BY ALL),
  latest AS (SELECT policy, arg_max(asked, time) AS asked FROM answers GROUP BY policy)
SELECT DISTINCT e.policy, e.version, e.sha FROM evaluations e JOIN told USING (asked, version, sha)
  JOIN latest USING (policy, asked) WHERE e.source = 'all' AND told.n >= e.problems
"""
"""The versions with a row for 'all' and all its answers, as the evaluator has it (evaluator.done_before).

What is asked now only the evaluator knows; here the newest that was told of the policy stands for it. So a version that
was done may go in the moment between a change of problems or settings and the first evaluation that is made with them;
the evaluator then gives it up, and says so.
"""
WAITING = f"""
SELECT version, path, version || ':' || sha256 IN (SELECT input_id FROM filtered WHERE stage = 'evaluate') FROM weights
WHERE (version, sha256) NOT IN (SELECT version, sha FROM ({EVALUATED}) WHERE policy = ?)
"""  # noqa: S608 - our own text
REFUSED = "SELECT input_id FROM filtered WHERE input_topic = 'weights' AND stage <> ?"


def retire(settings: Settings, datasets: Datasets) -> list[Filtered]:
    """Remove the files of versions that nobody needs.

    Returns:
        A row for each version without files that the table `filtered` does not have yet (also those that went before
        a crash).
    """
    rows = [row for row in datasets.messages(Weights) if row.policy == settings.policy.name]
    with datasets.connect(only=("filtered",)) as connection:
        refused = {name for (name,) in connection.execute(REFUSED, [STAGE]).fetchall()}
        found = connection.execute("SELECT input_id FROM filtered WHERE stage = ?", [STAGE]).fetchall()
    for row in expendable(rows, settings, _needed(settings, datasets), time.time(), refused):
        _remove(Path(row.path), settings.weights.keep)
    told = {name for (name,) in found}
    return [_row(row, why) for row in rows if (why := expired(row.path)) and _name(row) not in told]


def expendable(
    rows: Sequence[Weights], settings: Settings, needed: set[str], now: float, refused: Container[str] = ()
) -> list[Weights]:
    """The versions to remove, of all that were announced.

    Args:
        rows: the announcements of one policy.
        settings: weights.keep, search.timeout_s, rl.start_version, factory.data.
        needed: paths of weights that must stay.
        now: seconds since the epoch.
        refused: 'version:sha' of those that an engine does not serve.
    """
    ordered = sorted(rows, key=lambda row: row.version)
    served = [row for row in ordered if _name(row) not in refused]
    # From here on all stay, the refused among them too: another engine may serve what one has refused.
    first = served[-settings.weights.keep :][0].version if served else 0
    newest = {version for kept in (ordered, served) for version in {row.trainer: row.version for row in kept}.values()}
    replaced = _replaced(ordered, served)
    home = Path(settings.factory.data).resolve() / "weights"
    # A tree that began while this version was the newest ends, or is published as it stands, by then.
    recent = now - 2 * settings.search.timeout_s
    return [
        row
        for row in ordered
        if row.trainer != "base"
        and not row.handover
        and row.version < first
        and row.version not in newest
        and row.version != settings.rl.start_version
        and row.path not in needed
        and replaced[row.version] < recent
        and Path(row.path).parent == home
        and Path(row.path, "config.json").exists()  # else it went before
    ]


def _replaced(ordered: Sequence[Weights], served: Sequence[Weights]) -> dict[int, float]:
    """By version, when the next one that is served was announced; inf = none is."""
    there, after, found = {row.version for row in served}, math.inf, {}
    for row in reversed(ordered):
        found[row.version] = after
        if row.version in there:
            after = row.time
    return found


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
    with datasets.connect(only=("answers", "evaluations", "filtered", "weights")) as connection:
        waiting = connection.execute(WAITING, [settings.policy.name]).fetchall()
    # Who names a version wants it tried again: the evaluator does not take it for given up.
    return paths | {path for version, path, given_up in waiting if (version in asked if asked else not given_up)}


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
