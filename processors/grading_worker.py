"""The grading process: math-verify behind a fork, so that a hostile answer costs a child and never the grader.

Run as a script by processors/grading_pool.py; requests and replies are JSON lines on stdin and stdout. This process
imports math-verify once (seconds) and never grades: a forked child (milliseconds) does, under a memory limit. Past the
deadline the child is killed and forked anew; the library's own signal-based timeouts are off. Nothing here imports the
rest of the factory. Other judges (reasoning-gym's scorers, graders that a package adds) are imported when first asked.
"""

import argparse
import contextlib
import gc
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable

Judge = Callable[[dict[str, str]], str]
FAILED = "failed: "
"""Begins a reply that is no outcome but what is wrong with an installed grader."""


def make_judge() -> Judge:
    """Question -> outcome by math-verify; both answers are read as LaTeX, so no text ever reaches a Python parser."""
    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(answer: str) -> list[object]:
        return list(parse("\\boxed{" + " ".join(answer.split()) + "}", config, parsing_timeout=None))

    def judge(asked: dict[str, str]) -> str:
        said = read(asked["answer"])
        if not any(not isinstance(part, str) for part in said):
            return "unparsable"
        return "correct" if verify(read(asked["gold"]), said, float_rounding=12, timeout_seconds=None) else "wrong"

    judge({"gold": r"\frac{1}{2}", "answer": "x^2+0.5"})
    return judge


def make_scorer() -> Judge:
    """Question -> outcome by the reasoning-gym scorer that it names; whoever asks has checked that it is a safe one."""
    import warnings

    warnings.simplefilter("ignore")
    import reasoning_gym

    def score(asked: dict[str, str]) -> str:
        problem = json.loads(asked["metadata"])
        points = reasoning_gym.get_score_answer_fn(problem["generator"])(asked["answer"], problem["entry"])
        return "correct" if points >= 1 else "wrong"

    return score


def make_installed(name: str) -> Judge:
    """Question -> outcome by the grader that an installed package has under this name (docs/extending.md)."""
    from importlib.metadata import entry_points

    with contextlib.redirect_stdout(sys.stderr):  # stdout carries replies only
        grade = next(iter(entry_points(group="astro_factory.graders", name=name))).load()

    def judge(asked: dict[str, str]) -> str:
        problem = {"question": asked["question"], "answer": asked["gold"], "metadata": asked["metadata"]}
        try:
            right = grade(asked["answer"], problem)
        except (ValueError, ArithmeticError):  # Python's way to say that a text is no number, date, ...
            return "unparsable"
        except (MemoryError, RecursionError):
            raise
        except Exception as error:  # noqa: BLE001 - a process edge: somebody else's code
            return FAILED + " ".join(f"{type(error).__name__}: {error}"[:500].split())
        if not isinstance(right, bool):
            return f"{FAILED}it returned {type(right).__name__} where True or False is wanted"
        return "correct" if right else "wrong"

    return judge


def child(judges: dict[str, Judge], requests: int, replies: int, memory_mb: int, timeout_s: float) -> None:
    """Answer requests until the pipe closes; an alarm with its default action ends a child whose parent is gone."""
    limit = memory_mb << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(2000)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            signal.setitimer(signal.ITIMER_REAL, timeout_s + 1)
            request = json.loads(line)
            try:
                outcome = judges[request["judge"]](request)
            except (MemoryError, RecursionError):
                outcome = "rejected"
            except Exception:  # noqa: BLE001 - a process edge: whatever a computer algebra system raises on hostile text
                outcome = "unparsable"
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.write(replies, outcome.encode() + b"\n")


def _silence() -> None:
    """Give up the parent's stdin and stdout: they must close when the parent dies, and carry replies only."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)


class Child:
    """A forked grader and the two pipes to it."""

    def __init__(self, judges: dict[str, Judge], memory_mb: int, timeout_s: float) -> None:
        request_read, self.requests = os.pipe()
        self.replies, reply_write = os.pipe()
        self.timeout_s = timeout_s
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.requests)
            os.close(self.replies)
            _silence()
            try:
                child(judges, request_read, reply_write, memory_mb, timeout_s)
            finally:
                os._exit(0)
        os.close(request_read)
        os.close(reply_write)

    def ask(self, line: bytes, deadline: float = 0.0) -> str | None:
        """The outcome, 'timeout' (by the monotonic clock; default: the whole limit), or None where the child died."""
        deadline = deadline or time.monotonic() + self.timeout_s
        with contextlib.suppress(BrokenPipeError):
            os.write(self.requests, line)
        reply = b""
        while not reply.endswith(b"\n"):
            ready, _, _ = select.select([self.replies], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return "timeout"
            part = os.read(self.replies, 100)
            if not part:
                return None
            reply += part
        return reply.decode().strip()

    def end(self) -> None:
        """Kill and reap it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.requests)
        os.close(self.replies)


def _told(reply: str) -> dict[str, str]:
    return {"failed": reply.removeprefix(FAILED)} if reply.startswith(FAILED) else {"outcome": reply}


def serve(memory_mb: int, timeout_s: float) -> None:
    """Reply to each request line with one line, in order, until stdin closes; the first line says that it is ready."""
    judges = {"math": make_judge()}
    gc.collect()
    gc.freeze()
    grader: Child | None = None
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if (name := request["judge"]) not in judges:
            try:
                judges[name] = make_scorer() if name == "gym" else make_installed(name)
            except Exception as error:  # noqa: BLE001 - a process edge: somebody else's package is imported
                why = " ".join(f"{type(error).__name__}: {error}"[:500].split())
                print(json.dumps({"id": request["id"], "failed": f"it cannot be imported ({why})"}), flush=True)
                continue
            if grader:  # it was forked before the library was there
                grader.end()
                grader = None
        outcome: str | None = None
        deadline = time.monotonic() + timeout_s
        for _ in range(2):
            grader = grader or Child(judges, memory_mb, timeout_s)
            outcome = grader.ask(line, deadline)
            if outcome in (None, "timeout", "rejected"):
                grader.end()
                grader = None
            if outcome is not None:
                break
        print(json.dumps({"id": request["id"], **_told(outcome or "rejected")}), flush=True)
    if grader:
        grader.end()


def main() -> None:
    """Parse the limits and serve; Ctrl-C in a terminal is for the factory, which closes our stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory-mb", type=int, required=True)
    parser.add_argument("--timeout-s", type=float, required=True)
    arguments = parser.parse_args()
    serve(arguments.memory_mb, arguments.timeout_s)


if __name__ == "__main__":
    main()
