"""plan.json says what an experiment is, before it starts; a directory never holds two. timings.json: what it took."""

import subprocess
from pathlib import Path
from typing import Any

import msgspec

from deploy.reproduce import problems
from deploy.reproduce.plan import BEST_OF_N, SEARCH, Plan, told
from processors import chat
from processors.announced import weights_sha
from processors.versions import local
from schemas.errors import Told

PLAN, TIMINGS = "plan.json", "timings.json"
NOT_COMPARED = ("commit",)
"""A resume may come from a later commit; which one began it stays in the file."""


class OtherPlan(Told, RuntimeError):
    """The directory holds another experiment; the text says what differs and what to do."""


def describe(plan: Plan, out: Path, contents: dict[str, bytes]) -> dict[str, Any]:
    """The plan as JSON values; report.py reads it, too.

    Args:
        plan: the plan.
        out: the experiment's directory.
        contents: problems.files of the plan.
    """
    trained = {f"seed-{seed}/{arm}": {"seed": seed, "arm": arm} for seed in plan.seeds for arm in plan.arms[1:]}
    settings = plan.phases[-1].settings
    search = plan.phases[0].settings
    return {
        "scale": plan.scale,
        "seeds": list(plan.seeds),
        "arms": list(plan.arms),
        "steps": {"sft": settings.sft.hand_over_steps, "rl": settings.rl.max_steps},
        "samples": search.evaluate.samples,
        "max_tokens": search.evaluate.max_tokens,
        "policy": search.policy.path,
        "policy_sha256": weights_sha(local(chat.resolve(search.policy.path))),
        "commit": commit(),
        "dirs": {SEARCH: SEARCH, BEST_OF_N: BEST_OF_N, "arms": trained},
        **{
            name: {"path": f"{name}.jsonl", "sha256": problems.sha(content), "problems": content.count(b"\n")}
            for name, content in contents.items()
        },
        "phases": [told(phase, out) for phase in plan.phases],
    }


def commit() -> str:
    """The commit of the running code, with '+' where files were changed since; '' where git does not know."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return ""
    status = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")


def keep(out: Path, description: dict[str, Any]) -> None:
    """Write plan.json; one that is there already must be the same.

    Raises:
        OtherPlan: it is not; the first difference is named.
    """
    path = out / PLAN
    new = msgspec.json.decode(msgspec.json.encode(description))
    if path.exists():
        try:
            old = msgspec.json.decode(path.read_bytes())
        except msgspec.MsgspecError as error:
            raise OtherPlan(f"{path} is not readable ({error}): choose another --out") from error
        if difference := _difference(old, new):
            raise OtherPlan(
                f"{out} holds another experiment ({difference}): give the same options to go on with it, "
                "or choose another --out"
            )
        return
    _write(path, new)


def _difference(old: Any, new: Any, at: str = "") -> str:  # noqa: ANN401 - JSON
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            place = f"{at}.{key}" if at else key
            if place not in NOT_COMPARED and (found := _difference(old.get(key), new.get(key), place)):
                return found
        return ""
    if (
        isinstance(old, list)
        and isinstance(new, list)
        and len(old) == len(new)
        and any(isinstance(x, dict) for x in old)
    ):
        pairs = (_difference(a, b, f"{at}[{_name(a, i)}]") for i, (a, b) in enumerate(zip(old, new, strict=True)))
        return next((found for found in pairs if found), "")
    return "" if old == new else f"{at} is {_short(old)} there, {_short(new)} here"


def _name(entry: Any, index: int) -> str:  # noqa: ANN401 - JSON
    return str(entry.get("name", index)) if isinstance(entry, dict) else str(index)


def _short(value: Any) -> str:  # noqa: ANN401 - JSON
    text = msgspec.json.encode(value).decode() if value is not None else "the default"
    return text if len(text) < 80 else text[:77] + "..."


def add_time(out: Path, phase: str, seconds: float) -> None:
    """Add what a phase took; a resumed one took the sum."""
    path = out / TIMINGS
    known: dict[str, float] = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    _write(path, known | {phase: round(known.get(phase, 0.0) + seconds, 1)})


def _write(path: Path, content: Any) -> None:  # noqa: ANN401 - JSON
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
    temporary.replace(path)
