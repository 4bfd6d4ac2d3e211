"""Runs a plan: phase after phase, each as long as its goals are not in its tables, then the report.

There is no state beside the tables: after a crash or a Ctrl-C the same command finds the finished phases finished, and
the one that was under way goes on as every factory does.
"""

import fcntl
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from deploy import plan as checks
from deploy.local import MIN_FREE_BYTES, Factory
from deploy.process import GaveUp
from deploy.reproduce import goals as g
from deploy.reproduce import problems, record, tables
from deploy.reproduce.fork import fork
from deploy.reproduce.plan import Phase, Plan
from deploy.reproduce.progress import Progress
from deploy.reproduce.scales import SCALES
from processors import chat, status
from schemas.errors import Told

LOOK_S = 2.0
"""How often the tables are asked whether the goals are reached, at most..."""
LOOK_SHARE = 0.03
"""...and no more often than takes this share of the time: the processors are the trainer's..."""
LATE = 0.1
"""...unless a phase's end would then be seen later than by this share of the phase."""
ORPHANS_S = 90.0
STALLED_S = 600.0
"""A phase in which no goal and no token moved for so long will not move any more: RL without a mixed problem, say."""
GO_ON = "the same command goes on from here"


class Stopped(Told, RuntimeError):
    """The experiment ended before its time; the text says why and how to go on."""


class Interrupted(Stopped):
    """Somebody asked it to stop."""


def run(plan: Plan, out: Path) -> None:
    """Do what is not done yet.

    Args:
        plan: the plan.
        out: the experiment's directory; created.

    Raises:
        BadPolicy: there is no such policy.
        OtherPlan, OtherProblems: `out` holds another experiment.
        Interrupted: Ctrl-C.
        Stopped: a process gave up, the disk is full, a version could not be evaluated.
    """
    scale = SCALES[plan.scale]
    chat.resolve(plan.phases[0].settings.policy.path)  # before plan.json says that this is the experiment
    with _owned(out):
        contents = problems.files(scale.test, scale.dev)
        record.keep(out, record.describe(plan, out, contents))
        problems.write(out, contents)
        progress = Progress(len(plan.phases))
        for number, phase in enumerate(plan.phases, 1):
            progress.begin(number, phase.name)
            _perform(phase, out, progress)


@contextmanager
def _owned(out: Path) -> Iterator[None]:
    """The directory, for one process at a time."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("a+")
    except OSError as error:
        raise Stopped(f"--out {out}: not writable ({error.strerror}); choose another directory") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stopped(f"--out {out}: another `factory reproduce` runs there; choose another directory") from None
        yield


def _perform(phase: Phase, out: Path, progress: Progress) -> None:
    data = out / phase.dir
    if phase.fork:
        _begin(phase, out)
    phase = _of_the_moment(phase, out)
    if _done(phase, tables.reached(data, phase.goals)):
        progress.end("done before")
        return
    free = shutil.disk_usage(out).free
    if free < MIN_FREE_BYTES:
        raise Stopped(f"{out}: only {free // 1_000_000} MB free on its disk: free some, then {GO_ON}")
    checks.check(phase.settings)
    _outlive_orphans(data)
    try:
        _run_factory(phase, data, progress)
    finally:
        record.add_time(out, phase.name, progress.seconds)
    reached = tables.reached(data, phase.goals)
    if not _done(phase, reached):
        progress.end("stopped")
        raise Interrupted(f"stopped in phase {progress.number}, {phase.name}: {GO_ON}")
    progress.show(phase.goals, reached, data)
    progress.end("done")


def _outlive_orphans(data: Path) -> None:
    """Wait for the processes of a run that was killed: they hold locks and end by themselves without their parent."""
    deadline = time.monotonic() + ORPHANS_S
    while status.read_all(data) and time.monotonic() < deadline:
        time.sleep(LOOK_S / 4)


def _waiting(data: Path) -> str:
    """What its processes say they wait for."""
    said = [f"{row['stage']} waits: {row['waiting']}" for row in status.read_all(data) if row.get("waiting")]
    return f" ({'; '.join(said)})" if said else ""


def _begin(phase: Phase, out: Path) -> None:
    try:
        fork(out / phase.fork, out / phase.dir, phase.empty)
    except OSError as error:  # of many files at once: its text names them all
        why = error.strerror or str(error)[:200]
        raise Stopped(f"{phase.name}: the tables of {out / phase.fork} could not be copied ({why}); {GO_ON}") from error


def _of_the_moment(phase: Phase, out: Path) -> Phase:
    """The phase with what only the tables know: the versions to evaluate, the numbers to reach."""
    data = out / phase.dir
    if phase.versions:
        versions = [int(row[0]) for row in tables.rows(data, phase.versions)]
        section = msgspec.structs.replace(phase.settings.evaluate, versions=versions)
        settings = msgspec.structs.replace(phase.settings, evaluate=section)
        file = Path(section.file).stem
        phase = msgspec.structs.replace(phase, settings=settings, goals=(g.evaluated(file, settings),))
    goals = tuple(
        msgspec.structs.replace(
            goal, of=tables.number(data if goal.of_dir == "." else out / goal.of_dir, goal.of_sql), of_sql=""
        )
        if goal.of_sql
        else goal
        for goal in phase.goals
    )
    return msgspec.structs.replace(phase, goals=goals)


def _done(phase: Phase, reached: list[int]) -> bool:
    return all(now >= goal.of for now, goal in zip(reached, phase.goals, strict=True))


def _run_factory(phase: Phase, data: Path, progress: Progress) -> None:
    """One `factory up`, until the goals are reached, nothing moves any more, or somebody stops it."""
    watch = _Watch(phase, data, progress)
    factory = Factory(phase.settings)
    try:
        factory.run(None, watch.tick)
    except GaveUp as error:
        raise Stopped(f"{phase.name}: {error}; its logs are in {data / 'logs'}; put it right, then {GO_ON}") from error
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the factory's own handlers outlive it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if watch.failure:
        raise Stopped(watch.failure)
    if factory.interrupted:
        raise Interrupted(f"stopped in phase {progress.number}, {phase.name}: {GO_ON}")


class _Watch:
    """Looks at a phase's tables while its factory runs, and ends it; a failure is kept, for a tick must not raise."""

    def __init__(self, phase: Phase, data: Path, progress: Progress) -> None:
        self.phase, self.data, self.progress = phase, data, progress
        self.failure = ""
        self._next = 0.0
        self._began = time.time()
        self._closing = False

    def tick(self, factory: Factory) -> None:
        """Called twice a second."""
        if factory.stopping:
            if not self._closing:
                self.progress.stopping()
            self._closing = True
        elif (began := time.monotonic()) >= self._next:
            reached = tables.reached(self.data, self.phase.goals)
            took = time.monotonic() - began
            self._next = began + max(LOOK_S, min(took / LOOK_SHARE, LATE * self.progress.seconds))
            self.progress.show(self.phase.goals, reached, self.data)
            done = _done(self.phase, reached)
            self.failure = "" if done else self._hopeless()
            if done or self.failure:
                factory.stopping = True

    def _hopeless(self) -> str:
        """Why the goals will not be reached; '' = they may."""
        wanted = self.phase.settings.evaluate.versions
        if wanted and (why := tables.rows(self.data, g.given_up(wanted, self._began))):
            return f"{self.phase.name}: version {why[0][0]}; put it right, then {GO_ON}"
        if time.monotonic() - self.progress.moved > STALLED_S:
            minutes = STALLED_S / 60
            return f"{self.phase.name}: nothing moved for {minutes:.0f} minutes{_waiting(self.data)}; {GO_ON}"
        return ""
