"""A trainer's checkpoints and plan on the store, so that a run goes on on a machine that has neither.

A checkpoint is uploaded once it is whole here, its state.json last: without one it is not there. A step's plan is
uploaded before the step. Both take a name once only (a conditional put), so of two trainers on two machines, whose
locks do not know of each other, the second to plan a step or to save one is refused and ends.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from processors.store import Store
from schemas.errors import Told
from trainers import checkpoint
from trainers.journal import Planned

_PLAN = re.compile(r"plan/(\d+)\.json")


class TakenOver(Told, RuntimeError):
    """Another trainer, perhaps on another machine, has gone on with this run; the text says at which step."""


class Copies:
    """One trainer's directory on the store.

    Args:
        store: where.
        trainer: 'sft' or 'rl'.
        root: its checkpoints on this machine.
    """

    def __init__(self, store: Store, trainer: str, root: Path) -> None:
        self.store, self.root = store, root
        self.key = f"checkpoints/{trainer}"

    def newer(self, local: Path | None) -> Path | None:
        """The store's newest whole checkpoint, once it is here, where it is newer than this machine's; else `local`.

        That one is uploaded where a crash came before it was.
        """
        names = self._names()
        for name in reversed(names):
            if local and checkpoint.age(name) <= checkpoint.age(local.name):
                break
            temporary = self.root / f".{name}.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            self.store.download(f"{self.key}/{name}", temporary)
            if not (why := checkpoint.damage(temporary)):
                checkpoint.commit(temporary, self.root / name)
                return self.root / name
            shutil.rmtree(temporary)
            print(f"factory: the checkpoint {name} on {self.store.url} is damaged ({why}): left out", file=sys.stderr)
        if local and local.name not in names:
            self.save(local)
        return local

    def plans(self) -> list[Planned]:
        """The plans of all steps since the oldest checkpoint."""
        steps = [name for name in self.store.folder(self.key).sizes() if _PLAN.fullmatch(name)]
        read = (self.store.folder(f"{self.key}/{name}").read_bytes() for name in sorted(steps))
        return [msgspec.json.decode(data, type=Planned) for data in read]

    def plan(self, step: int, rows: Sequence[str]) -> None:
        """Make a step's plan durable; the same plan may come twice.

        Raises:
            TakenOver: another one is there.
        """
        data = msgspec.json.encode(Planned(step=step, rows=list(rows)))
        self._once(self._plan(step), data, f"planned step {step} of")

    def drop(self, step: int) -> None:
        """Take back the plan of a step that cannot be taken."""
        self.store.delete([self._plan(step)])

    def save(self, path: Path) -> None:
        """Upload a checkpoint; older ones than the last two go, and the plans of steps that no resume takes again.

        Raises:
            TakenOver: another trainer has saved this step.
        """
        to = f"{self.key}/{path.name}"
        for file in sorted(path.glob("*.safetensors")):
            self.store.put(f"{to}/{file.name}", file)
        self._once(f"{to}/state.json", (path / "state.json").read_bytes(), f"saved {path.name} of")
        names = self._names()
        first = checkpoint.age(names[-checkpoint.KEEP :][0])[0]
        there = self.store.folder(self.key).sizes()
        old = [name for name in there if name.partition("/")[0] in names[: -checkpoint.KEEP]]
        old += [name for name in there if (match := _PLAN.fullmatch(name)) and int(match[1]) <= first]
        # The state first: a checkpoint without it is none, whatever a crash leaves of the others.
        self.store.delete([f"{self.key}/{name}" for name in sorted(old, key=lambda name: "state.json" not in name)])

    def _plan(self, step: int) -> str:
        return f"{self.key}/plan/{step:07d}.json"

    def _names(self) -> list[str]:
        """The checkpoints that are whole, oldest first."""
        there = (name.partition("/") for name in self.store.folder(self.key).sizes())
        return sorted({name for name, _, file in there if file == "state.json"}, key=checkpoint.age)

    def _once(self, key: str, data: bytes, what: str) -> None:
        if not self.store.take(key, data) and self.store.folder(key).read_bytes() != data:
            raise TakenOver(
                f"another trainer, perhaps on another machine, has {what} this run: one is enough, and this one ends"
            )
