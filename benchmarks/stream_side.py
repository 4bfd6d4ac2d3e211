"""The processes that benchmarks/stream.py times: each does one thing and prints one line of JSON.

python -m benchmarks.stream_side publish|sink|ceiling|sql|ledger|searcher SETTINGS.json [SQL]
"""

import asyncio
import contextlib
import gc
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from benchmarks.cloning import grown
from processors import kafka
from processors.dataset import Datasets
from processors.policy import Completion, EngineStats, Request
from processors.status import Status
from schemas.settings import Settings

TABLES = ("trees", "nodes")
READY_S = 600.0
THINKING_S = 1.0
"""Of the slow engine, an answer."""


def main() -> None:
    """Do what the command line says."""
    part, path, *more = sys.argv[1:]
    settings = msgspec.json.decode(Path(path).read_bytes(), type=Settings)
    parts: dict[str, Callable[..., dict[str, float]]] = {
        "publish": publish,
        "sink": sink,
        "ceiling": ceiling,
        "sql": sql,
        "ledger": ledger,
        "searcher": searcher,
    }
    print(json.dumps(parts[part](settings, *more) | {"rss_mb": peak_mb()}))


def peak_mb() -> float:
    """The largest resident size of this process so far (rusage would count what forked it)."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def publish(settings: Settings, rows: str) -> dict[str, float]:
    """Put trees with at least so many nodes, and their problems, on the topics."""
    producer = kafka.producer(settings)
    nodes = seed = 0
    while nodes < int(rows):
        tree = grown(seed)
        for message in (tree.problem, tree):
            kafka.send(producer, message)
        nodes, seed = nodes + len(tree.nodes), seed + 1
    producer.flush(READY_S)
    producer.close()
    return {"nodes": nodes}


def datasets(settings: Settings) -> Datasets:
    """The tables of the data directory."""
    return Datasets.of(settings)


def sink(settings: Settings) -> dict[str, float]:
    """Seconds that the sink takes for all that the topics hold, from its first poll to its last commit."""
    from processors.sink import GC_OBJECTS, Sink

    gc.set_threshold(GC_OBJECTS)  # as its process does
    topics = ["problems", "trees"]
    wanted = sum(kafka.highwater(settings, topics).values())
    status = Status(settings, "sink")
    made = Sink(settings, datasets(settings), topics, status)
    stopping = threading.Event()
    thread = threading.Thread(target=made.session, args=(stopping,))
    began, cpu = time.perf_counter(), time.process_time()
    thread.start()
    while thread.is_alive() and status.read()["records"] < wanted:
        time.sleep(0.02)
    stopping.set()  # else the last rows would wait for sink.flush_s
    thread.join()
    return {"s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


def ceiling(settings: Settings) -> dict[str, float]:
    """Seconds that pyarrow takes to write the very files that the sink made, from memory, with the same codec."""
    seconds = cpu = 0.0
    rows = dict.fromkeys(TABLES, 0)
    with tempfile.TemporaryDirectory(dir=settings.factory.data) as folder:
        for name in TABLES:
            for at, uri in enumerate(datasets(settings).table(name).file_uris()):
                table = pq.read_table(uri.removeprefix("file://"))
                rows[name] += table.num_rows
                began, began_cpu = time.perf_counter(), time.process_time()
                pq.write_table(table, f"{folder}/{name}-{at}.parquet", compression="zstd")
                seconds, cpu = seconds + time.perf_counter() - began, cpu + time.process_time() - began_cpu
    return {"s": seconds, "cpu_s": cpu, **{f"{name}_rows": float(count) for name, count in rows.items()}}


def sql(settings: Settings, query: str) -> dict[str, float]:
    """Seconds of one query in a process that has begun: opening the tables, and the answer."""
    from deploy import sql as asking

    began, cpu = time.perf_counter(), time.process_time()
    found = asking.query(settings, query)
    return {"s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu, "rows": found.num_rows}


def ledger(settings: Settings) -> dict[str, float]:
    """Seconds of one ledger in a process that has begun, with its broker."""
    from deploy import ledger as books

    began, cpu = time.perf_counter(), time.process_time()
    found = books.compute(settings)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        "s": seconds,
        "cpu_s": cpu,
        "closes": float(found.closes),
        "taken": sum(line.taken for line in found.stages),
    }


class SlowEngine:
    """Says the same to everybody, a second later."""

    def __init__(self, answer: Completion) -> None:
        self.answer = answer

    async def generate(self, _request: Request) -> Completion:
        """The answer."""
        await asyncio.sleep(THINKING_S)
        return self.answer

    async def generate_many(self, requests: Sequence[Request]) -> list[Completion]:
        """The answer to each."""
        await asyncio.sleep(THINKING_S)
        return [self.answer for _ in requests]

    async def score(self, token_ids: Sequence[int], _sha: str) -> list[float]:
        """Nothing that anybody asks here."""
        return [0.0 for _ in token_ids[1:]]

    def stats(self) -> EngineStats:
        """Nothing to tell."""
        return EngineStats()

    def close(self) -> None:
        """Nothing to close."""


def searcher(settings: Settings) -> dict[str, float]:
    """The real stage on the slow engine, until it is told to stop (SIGTERM)."""
    from processors import app
    from processors.chat import Chat, resolve
    from processors.grading import Grader
    from processors.searcher import build
    from processors.versions import Versions, ensure_base

    chat = Chat(resolve(settings.policy.path), settings.policy)
    ids = [*chat.encode("Answer: 7"), chat.eos_id]
    with contextlib.closing(Versions(settings)) as versions, Status(settings, "search") as status:
        base = ensure_base(settings, versions)
        said = Completion(
            token_ids=ids, logprobs=[-1.0] * len(ids), text="Answer: 7", finish="stop", version=0, sha=base.sha256
        )
        grader = Grader(settings)
        try:
            app.run([build(settings, SlowEngine(said), versions, grader, status)], settings)
        finally:
            grader.close()
    return {}


if __name__ == "__main__":
    main()
