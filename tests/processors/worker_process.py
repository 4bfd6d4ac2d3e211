"""A worker in a process of its own, for tests that kill it.

`worker_process.py SETTINGS_JSON PLAN_JSON`: the plan names the stages to host, seconds a message, and a limit. A
handler answers every message with one Filtered of its stage, and writes what it began into the journal.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from processors.app import Source, attach, leave, run, stage_app
from processors.policy import NothingToServe
from processors.status import Status
from schemas.messages import Filtered, content_id
from schemas.settings import Settings
from schemas.topics import BY_NAME, message_id

INPUTS = {"search": ("problems",), "verify": ("traces", "rollouts"), "linearize": ("trees",)}


class Plan(msgspec.Struct, kw_only=True):
    stages: list[str]
    seconds: float = 0.0
    slow: float = 0.0
    """Seconds for every seventh message instead."""
    grace: float = 45.0
    limit: int | None = None
    journal: str
    fail: str = ""
    """'raise' in the handler, 'hiccup': a transient error on the first two attempts at p<fail_on>, 'down': on all,
    'cancel' what it waits for, 'unserved': no weights for it, 'unwritable': half a surrogate pair in the answer, or
    'also': the coroutine beside the apps raises."""
    fail_on: int = 0
    """On which message of this process (0 = the first; -1 = on each, where it raises)."""
    pad: int = 0
    """Extra characters in each answer."""


def handler(stage: str, plan: Plan) -> Callable[[Any, Source], Awaitable[list[Filtered]]]:
    journal = Path(plan.journal)
    begun = hiccups = 0

    def note(what: str, message: Any) -> None:
        with journal.open("a") as out:
            out.write(f"{what} {message_id(message)}\n")

    async def answer(message: Any, source: Source) -> list[Filtered]:
        nonlocal begun, hiccups
        if plan.fail in {"hiccup", "down"} and message_id(message) == f"p{plan.fail_on}":
            hiccups += 1
            if plan.fail == "down" or hiccups <= 2:
                raise ConnectionResetError(f"attempt {hiccups}")
        number, begun = begun, begun + 1
        note("begin", message)
        await asyncio.sleep(plan.slow if plan.slow and number % 7 == 0 else plan.seconds)
        if plan.fail == "unserved":
            raise NothingToServe("weights v0: not ours")
        if plan.fail == "raise" and plan.fail_on in {number, -1}:
            raise ValueError("the handler raised")
        odd = "\ud800" if plan.fail == "unwritable" and plan.fail_on == number else ""
        if number == plan.fail_on and plan.fail == "cancel":
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        note("end", message)
        return [
            Filtered(
                id=content_id(stage, message_id(message)), stage=stage, input_topic=source.topic,
                input_id=message_id(message), why="test" + "-" * plan.pad + odd, time=time.time(),
            )
        ]  # fmt: skip

    return answer


async def beside(plan: Plan) -> None:
    if plan.fail == "also":
        await asyncio.sleep(1.0)
        raise RuntimeError("the evaluator broke")
    await asyncio.Event().wait()


def main() -> None:
    settings = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Settings)
    plan = msgspec.json.decode(sys.argv[2], type=Plan)
    factory = msgspec.structs.replace(settings.factory, grace_s=plan.grace)
    settings = msgspec.structs.replace(settings, factory=factory)
    apps = []
    with contextlib.ExitStack() as stack:
        for stage in plan.stages:
            app = stage_app(stage, settings)
            status = stack.enter_context(Status(settings, stage))
            for topic in INPUTS[stage]:
                attach(app, BY_NAME[topic], handler(stage, plan), status, settings, plan.limit)
            apps.append(app)
        run(apps, settings, also=[beside(plan)])
    leave()


if __name__ == "__main__":
    main()
