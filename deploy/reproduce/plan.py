"""The plan of an experiment, pure: a scale, seeds and arms become phases, each a `factory up` with a goal.

A phase's goal is asked of its tables (goals.py), so whoever comes back after a crash sees what is done. The base's
search is shared: an arm is a fork of it (fork.py) whose own settings and query make the difference.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from deploy.plan import changed
from deploy.reproduce import goals as g
from deploy.reproduce.scales import BEST, COMMON, SCALES, Name
from schemas.load import BadSettings
from schemas.settings import Settings

SEARCH, BEST_OF_N = "search", "best_of_n"
BASE: Final = "base"
ARMS: Final[tuple[str, ...]] = (BASE, "direct", BEST_OF_N, "astro")
"""Of every experiment; 'base' is evaluated within the search."""
MAKERS = ("produce", "search", "linearize", "verify", "sink")
WORDS = ("linearize", "verify", "sink")
SCHOOL = ("sft", "sink")
RL = ("sft", "prompts", "sample", "verify", "rl", "sink")
SCORE = ("evaluate", "sink")
ANSWERED: Final = ("answers", "evaluations")
"""Tables that a fork leaves empty: they speak of the base."""
WORDED: Final = ("traces", "examples", "filtered", "dead_letters")
"""Tables that an arm with its own words makes anew from the trees, reasons for having none included."""

Resolve = Callable[[Mapping[str, Any]], Settings]
"""Settings of 'section.key': value, the user's own on top."""


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """What one arm trains on."""

    sql: str
    source: str = SEARCH
    """The data directory that it forks."""
    words: Mapping[str, Any] = {}
    """Settings of the linearizer that it needs beside the search's: its traces are made anew."""
    rl: bool = True


DIRECT_SQL: Final = "select * from examples where arm = 'direct'"
STANDARD: Final[Mapping[str, Arm]] = {
    "direct": Arm(sql=DIRECT_SQL, words={"linearize.direct_reflects": False, "linearize.search": 0}),
    "astro": Arm(sql="select * from examples where arm in ('direct', 'search')"),
    BEST_OF_N: Arm(sql="select * from examples where arm = 'best_of_n'", source=BEST_OF_N, rl=False),
}
ABLATIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "k=0": {"linearize.search": 0, "linearize.direct_reflects": True},
    **{f"k={k}": {"linearize.min_wrong": k, "linearize.max_wrong": k} for k in (1, 2, 3, 4)},
    "no-phrases": {"linearize.phrases": False},
    "merge=low_q": {"linearize.merge": "low_q"},
    "merge=random": {"linearize.merge": "random"},
    "no-votes": {"linearize.vote_filter": False},
}
"""The variants of ASTRO's traces that --ablation knows."""


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """One `factory up`."""

    name: str
    dir: str
    """Its data directory, below the experiment's."""
    settings: Settings
    goals: tuple[g.Goal, ...]
    fork: str = ""
    """The data directory that it begins as a copy of."""
    empty: tuple[str, ...] = ()
    """Tables that the copy leaves out."""
    versions: str = ""
    """SQL for the versions to evaluate; '' = those of the settings."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A whole experiment."""

    scale: Name
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    phases: tuple[Phase, ...]


def ablated(name: str) -> str:
    """The arm of an ablation: 'k=2' is 'astro-k2', 'no-phrases' is 'astro-no-phrases'."""
    return "astro-" + (name.replace("=", "") if name.startswith("k=") else name.replace("=", "-"))


def arms_of(arms: Sequence[str], ablations: Sequence[str]) -> dict[str, Arm]:
    """The arms to train, by name.

    Raises:
        BadSettings: for a name that there is not.
    """
    for arm in arms:
        _known(arm, ARMS, "--arms")
    found = {arm: STANDARD[arm] for arm in dict.fromkeys(arms) if arm != BASE}
    for name in ablations:
        _known(name, list(ABLATIONS), "--ablation")
        found[ablated(name)] = Arm(sql=STANDARD["astro"].sql, words=ABLATIONS[name])
    return found


def _known(name: str, names: Sequence[str], flag: str) -> None:
    if name not in names:
        raise BadSettings(f"{flag} {name}: there are {', '.join(names)}")


def make(
    scale: str, seeds: Sequence[int] | None, arms: Sequence[str], ablations: Sequence[str], out: Path, resolve: Resolve
) -> Plan:
    """The plan.

    Args:
        scale: a key of SCALES.
        seeds: None = the scale's.
        arms: of ARMS.
        ablations: of ABLATIONS.
        out: where everything lies.
        resolve: makes Settings of the plan's values, the user's on top.

    Raises:
        BadSettings: for a name that there is not, or settings that contradict each other.
    """
    _known(scale, list(SCALES), "--scale")
    assert scale in SCALES
    size = SCALES[scale]  # type: ignore[index] # checked above
    chosen = tuple(dict.fromkeys(seeds)) if seeds else size.seeds
    wanted = arms_of(arms, ablations)
    maker = _Maker(scale, out, resolve)
    if "astro-no-votes" in wanted and not maker.settings(SEARCH, {}).search.votes:
        raise BadSettings("--ablation no-votes: there are no votes to leave out: --set search.votes=8 turns them on")
    phases = maker.search()
    if any(arm.source == BEST_OF_N for arm in wanted.values()):
        phases += maker.best_of_n()
    phases += [maker.words(name, arm) for name, arm in wanted.items() if arm.words]
    phases += [phase for seed in chosen for name, arm in wanted.items() for phase in maker.arm(seed, name, arm)]
    names = (BASE, *wanted)
    return Plan(scale=scale, seeds=chosen, arms=names, phases=tuple(phases))  # type: ignore[arg-type]


class _Maker:
    """Makes phases of one scale below one directory."""

    def __init__(self, scale: str, out: Path, resolve: Resolve) -> None:
        self.scale = SCALES[scale]  # type: ignore[index] # checked by make()
        self.out = out
        self.resolve = resolve

    def settings(
        self, directory: str, values: Mapping[str, Any], seed: int = 0, own: Mapping[str, Any] | None = None
    ) -> Settings:
        """The settings of a phase; directory, seed and stages are not the user's to change, nor what makes an arm.

        Args:
            directory: below the experiment's.
            values: of the phase.
            seed: factory.seed.
            own: values that make it what it is.

        Raises:
            BadSettings: the user's settings change one of `own`, or name a broker.
        """
        own = own or {}
        made = self.resolve({**COMMON, **self.scale.settings, **self._test(), **values, **own})
        for key, value in own.items():
            section, _, name = key.partition(".")
            if getattr(getattr(made, section), name) != value:
                raise BadSettings(f"{key} = {value!r} makes {directory} what it is: leave {key} out of your settings")
        if made.broker.bootstrap:
            raise BadSettings("broker.bootstrap: every data directory here has a broker of its own: leave it out")
        factory = msgspec.structs.replace(
            made.factory, data=str(self.out / directory), seed=seed, stages=list(values.get("factory.stages", []))
        )
        return msgspec.structs.replace(made, factory=factory)

    def _test(self) -> dict[str, Any]:
        file = str(self.out / "test.jsonl")
        return {
            "evaluate.file": file, "evaluate.problems": self.scale.test, "evaluate.samples": self.scale.samples,
        }  # fmt: skip

    def search(self) -> list[Phase]:
        """The base searches, then answers the test: beside it thousands of samples would hold up the trees."""
        alone = {"engine.threads": self.scale.threads}
        values = {**alone, "factory.stages": list(MAKERS), "problems.limit": self.scale.trees}
        settings = self.settings(SEARCH, values)
        goals = (g.searched(settings.problems.limit),)
        search = Phase(name=SEARCH, dir=SEARCH, settings=settings, goals=goals)
        return [search, self.scored(SEARCH, "base: test", 0, "test", "SELECT 0")]

    def best_of_n(self) -> list[Phase]:
        """The same problems and those that follow them, by best-of-n, until the search's tokens are spent.

        Trees in flight at that moment are finished while it stops; what follows from them has a phase of its own.
        """
        own = {"search.strategy": "best_of_n"}
        values = {"factory.stages": list(MAKERS), "engine.threads": self.scale.threads, **BEST}
        settings = self.settings(BEST_OF_N, values, own=own)
        problems = msgspec.structs.replace(settings.problems, limit=0)  # the search's limit is not this one's
        settings = msgspec.structs.replace(settings, problems=problems)
        spend = Phase(name=BEST_OF_N, dir=BEST_OF_N, settings=settings, goals=(g.spent_as_much(SEARCH),))
        words = self.settings(BEST_OF_N, {**values, "factory.stages": list(WORDS)}, own=own)
        return [spend, Phase(name=f"{BEST_OF_N}: traces", dir=BEST_OF_N, settings=words, goals=(g.worded(),))]

    def words(self, name: str, arm: Arm) -> Phase:
        """The search's trees, put into other words."""
        directory = f"words/{name}"
        settings = self.settings(directory, {"factory.stages": list(WORDS)}, own=arm.words)
        empty = (*ANSWERED, *WORDED)
        return Phase(
            name=f"{name}: traces", dir=directory, settings=settings, goals=(g.worded(),), fork=arm.source, empty=empty
        )

    def arm(self, seed: int, name: str, arm: Arm) -> list[Phase]:
        """Training, the test, and the curve of one seed's arm."""
        directory = f"seed-{seed}/{name}"
        values = {"factory.stages": list(RL if arm.rl else SCHOOL), "sft.threads": self.scale.threads}
        settings = self.settings(directory, values, seed, own={**arm.words, "sft.sql": arm.sql})
        source = f"words/{name}" if arm.words else arm.source
        train = Phase(
            name=f"seed {seed} {name}: train",
            dir=directory,
            settings=settings,
            goals=g.trained(settings, rl=arm.rl),
            fork=source,
            empty=ANSWERED,
        )
        test = self.scored(directory, f"seed {seed} {name}: test", seed, "test", g.LAST_ONES)
        if not (arm.rl and self.scale.curve):
            return [train, test]
        curve = g.curve(self.scale.curve)
        return [train, test, self.scored(directory, f"seed {seed} {name}: curve", seed, "dev", curve)]

    def scored(self, directory: str, name: str, seed: int, file: str, versions: str) -> Phase:
        """Versions on one of the two files of problems, with both cores."""
        values: dict[str, Any] = {"factory.stages": list(SCORE), "engine.threads": self.scale.threads}
        if file == "dev":
            values |= {
                "evaluate.file": str(self.out / "dev.jsonl"), "evaluate.problems": self.scale.dev,
                "evaluate.samples": self.scale.dev_samples,
            }  # fmt: skip
        settings = self.settings(directory, values, seed)
        return Phase(
            name=name, dir=directory, settings=settings, goals=(g.evaluated(file, settings),), versions=versions
        )


def told(phase: Phase, out: Path) -> dict[str, Any]:
    """A phase as plan.json tells it: settings beside the defaults, paths below the experiment's directory."""
    prefix = str(out) + "/"
    values = {
        key: value.removeprefix(prefix) if isinstance(value, str) else value
        for key, value in changed(phase.settings).items()
    }
    return {"name": phase.name, "dir": phase.dir, "fork": phase.fork, "settings": values}
