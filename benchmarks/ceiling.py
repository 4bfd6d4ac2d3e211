"""The most this machine gives: given requests in one call to a bare vLLM engine, in a process that does nothing else.

Prints [seconds, generated tokens]. Started by benchmarks/search.py with a JSON file of what its trees asked.

    python -m benchmarks.ceiling REQUESTS.json
"""

import json
import sys
import time
from pathlib import Path

from processors.chat import resolve
from processors.engine_core import Core
from processors.policy import Request
from schemas.load import load


def main() -> None:
    """Warm up on a few requests, then time them all."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    core = Core(load(environment={}, flags=["engine.max_model_len=512"]), resolve("tiny"))
    run(core, asked[:64], "warm")
    start = time.perf_counter()
    tokens = run(core, asked, "cold")
    print(json.dumps([time.perf_counter() - start, tokens]))


def run(core: Core, asked: list[dict[str, object]], salt: str) -> int:
    """Put all requests in, then step until all are done; the tokens that were generated."""
    for place, entry in enumerate(asked):
        core.add(f"{salt}-{place}", Request(**entry, temperature=1.0, weights=salt))  # type: ignore[arg-type]
    tokens = 0
    while core.running:
        tokens += sum(len(sampled.token_ids) for sampled in core.step())
    return tokens


if __name__ == "__main__":
    main()
