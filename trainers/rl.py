"""Online reinforcement learning (process): steps on reward groups as they arrive, a new version every few steps.

Begins from the version that SFT hands over. Every group ends in exactly one place: a training step's rows or a
`filtered` row that says why (all rewards equal, too stale, aborted, malformed, overlong); see session.py for crashes.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from processors.announced import check_place
from processors.cached import at_hand
from processors.status import Status
from processors.stopping import stop_event
from processors.versions import Versions
from schemas.errors import Told
from schemas.killpoints import passed
from schemas.messages import Filtered, RewardGroup, TrainingStep, Weights, content_id
from schemas.settings import Settings
from trainers import groups as cohort
from trainers import objectives
from trainers.intake import TOPIC, Intake
from trainers.journal import Planned
from trainers.learner import Learned, Learner
from trainers.packing import Row
from trainers.ranks import Ranks, joined
from trainers.session import Session

SAVE_IDLE_S = 30.0
"""Filtered groups are checkpointed, and their offsets committed, at least this often."""
LOOK_S = 0.5
PATIENCE_S = 60.0
"""A planned group that is no row for this long is named."""


def run(settings: Settings, status: Status, stop: threading.Event | None = None) -> None:
    """Train until told to stop (SIGTERM, SIGINT or `stop`) or, where rl.max_steps is set, idle after the last step."""
    with (
        joined() as ranks,
        stop_event() as asked,
        Session(settings, status, RlLearner(settings, ranks), stop or asked) as session,
    ):
        if session.saved():
            session.start("", -1)
        elif first := wait_for_start(session):
            session.start(first.path, first.version)
        else:
            return
        loop = Rl(session)
        try:
            loop.loop()
        finally:
            loop.intake.close()
        session.idle()


def follow(settings: Settings) -> None:
    """The part of every rank but the first: train when rank 0 says so."""
    with joined() as ranks:
        RlLearner(settings, ranks).follow()


class NoSuchVersion(Told, ValueError):
    """settings.rl.start_version was never published; the text says which were."""


def wait_for_start(session: Session) -> Weights | None:
    """The version to begin from, once it is announced; None when told to stop first.

    Raises:
        NoSuchVersion: later versions are there, and this one is not.
        WeightsElsewhere: it lies where no weights of ours may lie.
    """
    wanted = session.settings.rl.start_version
    waiting = "the version that SFT hands over" if wanted < 0 else f"version {wanted}"
    session.status.set(waiting=waiting, idle=True)
    versions = Versions(session.settings)
    try:
        while not session.stop.is_set():
            for row in versions.all():
                if row.version == wanted or (wanted < 0 and row.handover):
                    check_place(session.settings, at_hand(session.settings, row))
                    session.status.set(waiting="", idle=False)
                    return row
            there = [row.version for row in versions.all()]
            if 0 <= wanted < max(there, default=0):
                raise NoSuchVersion(f"rl.start_version = {wanted} was never published; there are {there}: take another")
            session.stop.wait(LOOK_S)
    finally:
        versions.close()
    return None


class RlLearner(Learner):
    """RL's model on this rank, and the reference policy where the objective needs one."""

    def __init__(self, settings: Settings, ranks: Ranks) -> None:
        super().__init__(settings, "rl", ranks)
        section, size = settings.rl, settings.sample.group
        most = section.groups // section.updates * size
        told = f"rl.groups = {section.groups} in {section.updates} update(s) of sample.group = {size} give {most} rows"
        self.check(most, told)
        self.objective = section.parts()
        objectives.loss_of(self.objective)  # one that cannot be used is told before the model is loaded
        if self.objective.normaliser == "constant" and not self.objective.constant_length:
            length = settings.sample.max_tokens
            self.objective = msgspec.structs.replace(self.objective, constant_length=length)
        self.reference: Any = None

    def load(self, base: str, path: Path | None = None) -> None:
        """Also the reference, which the run began from."""
        super().load(base, path)
        if self.objective.kl and self.objective.kl_to == "reference":
            self.reference = self.opened(base)

    def free(self) -> None:
        """Also the reference."""
        self.reference = None
        super().free()

    def update(self, shares: Sequence[Sequence[Row]], lr: float) -> Learned:
        """An optimizer step on each share that has rows; the loss is their mean, the sums are of all tokens."""
        parts, settings, ranks = self.objective, self.settings.rl, self.ranks
        # All of these before the first optimizer step: the proximal policy is the model as the step found it.
        fixed: list[dict[str, dict[int, torch.Tensor]]] = [{} for _ in shares]
        for rows, known in zip(shares, fixed, strict=True):
            if parts.proximal == "start" and settings.updates > 1:
                known["proximal"] = cohort.logps(self.model, rows, parts, settings, ranks)
            if self.reference is not None:
                known["reference"] = cohort.logps(self.reference, rows, parts, settings, ranks)
        losses: list[float] = []
        norms: list[float] = []
        sums: dict[str, float] = {}
        for rows, known in zip(shares, fixed, strict=True):
            if not rows:  # planned without rl.mask_overlong, trained with it
                continue
            loss, added = cohort.train(self.model, rows, parts, settings, known, ranks)
            losses.append(loss)
            norms.append(self.apply(loss, lr))
            sums = {name: sums.get(name, 0.0) + value for name, value in added.items()}
        return Learned(sum(losses) / max(len(losses), 1), max(norms, default=0.0), sums)


class Rl:
    """The loop; `session` is started."""

    def __init__(self, session: Session) -> None:
        assert isinstance(session.learner, RlLearner)
        self.session, self.settings = session, session.settings.rl
        self.objective = session.learner.objective
        self.vocabulary = int(session.learner.model.config.get_text_config().vocab_size)
        seen = session.state.seen
        for key in session.refused():
            seen.setdefault(key, 1)
        planned = {key for step in session.replay for key in step.rows}
        self.intake = Intake(session.settings, session.datasets, {*seen, *planned})
        self.waiting: deque[RewardGroup] = deque()
        self.unsaved, self.saved = 0, time.monotonic()
        self.awaited: str = ""
        self.missed = 0.0

    def loop(self) -> None:
        """Steps until stopped, or until rl.max_steps."""
        session = self.session
        while not session.stop.is_set() and not self.finished():
            session.confirm()
            groups = self.next_groups()
            if groups:
                self.step(groups)
                self.publish_when_due()
            elif self.unsaved and time.monotonic() - self.saved > SAVE_IDLE_S:
                self.save()
        self.save()

    def finished(self) -> bool:
        """Whether rl.max_steps are done."""
        return 0 < self.settings.max_steps <= self.session.state.step

    def next_groups(self) -> list[RewardGroup]:
        """The groups of the next step: those a crash interrupted first, then live ones; empty = too few yet."""
        if self.session.replay:
            return self.planned(self.session.replay[0])
        for group in self.intake.poll(0 if len(self.waiting) >= self.settings.groups else 200):
            self.admit(group)
        # A group that waited through a publication may have become too stale.
        held, self.waiting = self.waiting, deque()
        for group in held:
            self.admit(group)
        self.session.status.set(waiting_groups=len(self.waiting))
        if len(self.waiting) < self.settings.groups:
            return []
        return [self.waiting.popleft() for _ in range(self.settings.groups)]

    def planned(self, step: Planned) -> list[RewardGroup]:
        """The groups of a step that a crash interrupted, once all are rows; empty = not yet.

        The plan was on the disk before the step, its rows need not have been: a power cut may have taken them, and
        then they come again from their topic (processors/mending.py).
        """
        session = self.session
        groups = self.intake.planned(step.rows)
        if len(groups) == len(step.rows):
            session.replay.popleft()
            session.status.set(waiting="")
            self.awaited = ""
            return groups
        there = {group.id for group in groups}
        missing = next(key for key in step.rows if key not in there)
        if missing != self.awaited:
            self.awaited, self.missed = missing, time.monotonic()
            session.status.set(waiting=f"for the planned groups of step {step.step}")
        elif self.missed and time.monotonic() - self.missed > PATIENCE_S:
            self.missed = 0.0
            said = f"for group {missing}, which step {step.step} was planned with and the table {TOPIC} has lost"
            session.status.set(waiting=said)
            print(f"factory: rl waits {said}; it goes on when the group is a row again", file=sys.stderr)
        session.stop.wait(LOOK_S)
        return []

    def admit(self, group: RewardGroup) -> None:
        """Keep a group for a step, or filter it with the reason."""
        session = self.session
        why = cohort.refusal(
            group,
            version=session.state.version,
            max_lag=self.settings.max_lag,
            parts=self.objective,
            vocabulary=self.vocabulary,
        )
        if not why:
            self.waiting.append(group)
            return
        session.state.seen[group.id] = 1
        self.unsaved += 1
        session.status.add(filtered=1)
        session.outbox.send(
            Filtered(
                id=content_id("rl", group.id, why),
                stage="rl",
                input_topic="rewards",
                input_id=group.id,
                why=why,
                rollouts=len(group.rollouts),
                tokens=cohort.tokens(group),
                source=group.problem.source,
                difficulty=group.problem.difficulty,
                time=time.time(),
            )
        )

    def step(self, groups: list[RewardGroup]) -> None:
        """One step on these groups, planned before and told of after."""
        session, began = self.session, time.monotonic()
        session.plan([group.id for group in groups])
        step = session.state.step + 1
        lr = objectives.learning_rate(step, peak=self.settings.lr, warmup=self.settings.warmup, total=0)
        shares = [cohort.rows(share, self.objective) for share in cohort.shares(groups, self.settings.updates)]
        learned = session.learn(shares, lr, [group.id for group in groups])
        session.finish(
            TrainingStep(
                id=f"{session.state.run}:{step}",
                run=session.state.run,
                trainer="rl",
                step=step,
                version=session.state.version,
                loss=learned.loss,
                lr=lr,
                grad_norm=learned.norm,
                tokens=sum(row.trained for share in shares for row in share),
                rows=[group.id for group in groups],
                rollouts=sum(len(group.rollouts) for group in groups),
                seconds=time.monotonic() - began,
                table_version=self.intake.version,
                objective=msgspec.json.encode(self.objective).decode(),
                time=time.time(),
                **cohort.describe(groups, learned.sums, version=session.state.version),
            )
        )
        self.unsaved += 1

    def publish_when_due(self) -> None:
        """Checkpoint and publish every `publish_steps` steps or `publish_s` seconds, and after the last step."""
        if self.finished() or self.session.due(self.settings.publish_steps, self.settings.publish_s):
            self.session.publish()
            passed("rl:offsets")
            self.intake.commit(self.session.state.seen)
            self.unsaved, self.saved = 0, time.monotonic()

    def save(self) -> None:
        """Checkpoint, then let the group's offsets follow."""
        self.session.save()
        self.intake.commit(self.session.state.seen)
        self.unsaved, self.saved = 0, time.monotonic()
