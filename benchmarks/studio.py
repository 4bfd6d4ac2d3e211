"""How long the studio's pages take over a million node rows and a hundred thousand groups of rollouts.

The tables are benchmarks/studio_rows.py's, written by the datasets' own writer; no engine. The real `factory studio` is
started and asked for every page, with its searches and orders, and for every file it gives; beside each list and row
stands a bare DuckDB query for the same rows over the same Parquet files, in a process of its own, one thread each.

cold: a page's first answer in a studio that has answered nothing; first: in one that has shown other pages; warm: the
median of the answers after that. Wall seconds are what a reader waits; CPU seconds (the server's, all its threads) do
not depend on who else uses the machine, so the ratio page/bare is of these.

    .venv/bin/python -m benchmarks.studio [--nodes 1000000] [--groups 100000] [--data DIR]
"""

import argparse
import importlib.metadata
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

import duckdb
import httpx
import msgspec
import psutil

from benchmarks import report, stream, studio_rows
from deploy.studio import ask, examples
from processors.dataset import Datasets, quoted
from schemas.tables import TABLES

WARM = 3
LIMIT_S = 1.0
"""What a page may take."""
SLOWEST = 12
"""Pages whose times stand in the result; those of all are printed."""
BOOKS_S = 120.0
STOP_S = 30.0
NEWEST = "ORDER BY _time DESC LIMIT 51"


class Probe(msgspec.Struct, frozen=True):
    """An address, and the bare query that gives a DuckDB the same rows; '' = there is no such query."""

    name: str
    path: str
    bare: str = ""
    status: int = 200
    """The answer's."""
    page: bool = True
    """Whether it has to stay under LIMIT_S: files of many rows do not."""
    cold: bool = False
    """Whether it is also asked for as the first page of a studio."""


class Told(msgspec.Struct):
    """What an address took, seconds."""

    cold: float = 0.0
    cold_cpu: float = 0.0
    first: float = 0.0
    first_cpu: float = 0.0
    warm: float = 0.0
    """Median."""
    warm_worst: float = 0.0
    warm_cpu: float = 0.0
    """Mean: the system counts in hundredths."""
    bytes: int = 0
    bare: float = 0.0
    bare_cpu: float = 0.0


def probes(rows: dict[str, int]) -> list[Probe]:
    """All that is asked for, of tables with so many rows."""
    return [*_lists(), *_rows(rows), *_asked(), *_tables(rows), *_files()]


def _lists() -> list[Probe]:
    """Each list: as it opens, turned, searched, narrowed, ordered."""
    names = {
        "trees": "SELECT id, problem.id, problem.question, problem.source, solved, stopped, seconds FROM trees",
        "traces": "SELECT id, arm, tree_id, problem.id, problem.question, backtracks, len(text) FROM traces",
        "rollouts": "SELECT id, problem.id, problem.question, problem.source, round, seconds FROM rollouts",
        "letters": "SELECT id, stage, topic, input_id, error, time FROM dead_letters",
    }
    searched = {
        "trees": ["outcome=unsolved", "outcome=timeout", "order=dearest", "order=hardest", "order=longest"],
        "traces": ["arm=direct", "backtracks=3", "order=backtracks", "order=longest"],
        "rollouts": ["fate=trained", "fate=filtered", "fate=waiting", "mix=mixed", "mix=none+correct", "order=oldest",
                     "order=slowest", "fate=trained&mix=mixed&source=numbers"],
        "letters": ["stage=verify", "q=field+7"],
    }  # fmt: skip
    found = []
    for name, query in names.items():
        asked = searched[name] + (["source=numbers", "q=crayons", "q=Case+77"] if name != "letters" else [])
        found.append(Probe(name, f"/{name}", f"{query} {NEWEST}", cold=True))
        found += [Probe(f"{name}?{one}", f"/{name}?{one}") for one in (*asked, "page=20", "q=no+such+thing")]
    return found


def _rows(rows: dict[str, int]) -> list[Probe]:
    """One of everything; by the beginning of its id; and one that does not exist."""
    problem = studio_rows.problem_id(rows["problems"] // 3)
    tree = studio_rows.tree_id(rows["trees"] // 3)
    group = studio_rows.group_id(rows["rollouts"] // 3)
    trace = studio_rows.trace_id(tree, 1)
    letter = studio_rows.letter_id(77)
    found = [
        Probe("problem", f"/problems/{problem}", _whole("problems", problem), cold=True),
        Probe("tree", f"/trees/{tree}", _whole("trees", tree), cold=True),
        Probe("trace", f"/traces/{trace}", _whole("traces", trace), cold=True),
        Probe("group", f"/rollouts/{group}", _whole("rewards", group), cold=True),
        Probe("letter", f"/letters/{letter}", _whole("dead_letters", letter)),
        Probe("tree of a problem", f"/trees/{problem}"),
    ]
    for name, id_ in (("trees", tree), ("traces", trace), ("rollouts", group)):
        found.append(Probe(f"{name} by a beginning", f"/{name}/{id_[:12]}"))
    none = ("trees", "traces", "rollouts", "problems", "letters")
    return found + [Probe(f"{name}: not there", f"/{name}/no-such-id", status=404) for name in none]


def _whole(table: str, id_: str) -> str:
    return f"SELECT * FROM {table} WHERE id = {quoted(id_)}"  # noqa: S608 - our own names


def _asked() -> list[Probe]:
    """The other pages, and SQL."""
    steps = "SELECT * EXCLUDE (rows) FROM training WHERE trainer = 'rl' ORDER BY step"
    counts = " UNION ALL ".join(f'SELECT count(*), max(_time) FROM "{name}"' for name in TABLES)  # noqa: S608 - ours
    found = [
        Probe("flow", "/flow", counts, cold=True),
        Probe("training", "/training", steps, cold=True),
        Probe("training of sft", "/training?run=sft-1&x=tokens"),
        Probe("training of both", "/training?run=sft-1&run=rl-1&x=minutes&source=numbers"),
        Probe("ask", "/ask", cold=True),
        _sql("group-by", stream.QUERY),
        _sql("a million rows", "SELECT * FROM nodes"),
    ]  # fmt: skip
    found += [_sql(f"example {at + 1}", one.sql, plot=one.plot, x=one.x) for at, one in enumerate(examples.EXAMPLES)]
    for form in ("csv", "parquet"):
        query = "SELECT tree_id, id, q, visits FROM nodes LIMIT 100000"
        found.append(Probe(f"answer.{form}", f"/ask/answer.{form}?{urlencode({'sql': query})}", query, page=False))
    return found


def _sql(name: str, query: str, **more: str) -> Probe:
    asked = urlencode({"sql": query} | {key: value for key, value in more.items() if value})
    return Probe(f"ask: {name}", f"/ask?{asked}", f"FROM ({query}) LIMIT {ask.SHOWN + 1}")


def _tables(rows: dict[str, int]) -> list[Probe]:
    """The latest rows of each table, one of them, and a search."""
    tree = studio_rows.tree_id(rows["trees"] // 2)
    found = [Probe(f"rows of {name}", f"/rows/{name}") for name in TABLES]
    found += [
        Probe("rows of nodes by tree", f"/rows/nodes?q={tree}"),
        Probe("a row of nodes", f"/rows/nodes/{tree}"),
        Probe("a row of training", "/rows/training/rl-1:9", "SELECT * FROM training WHERE id = 'rl-1:9'"),
        Probe("a row of weights", "/rows/weights/9"),
        Probe("a row of answers", f"/rows/answers/{quote(studio_rows.answers_id(9, 9))}"),
        Probe("a row of trees: not there", "/rows/trees/no-such-id", status=404),
    ]
    return found


def _files() -> list[Probe]:
    return [Probe(name, f"/static/{name}") for name in ("studio.css", "studio.js", "tree.js", "icon.svg")]


class Studio:
    """A running `factory studio` and its process.

    Args:
        data: the data directory.
    """

    def __init__(self, data: Path) -> None:
        command = [sys.executable, "-m", "deploy.cli", "studio", "--data", str(data)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line.startswith("studio: http"):
            raise RuntimeError(f"the studio did not start: {line!r}")
        self.client = httpx.Client(base_url=line.split()[1], timeout=300)
        self._seen = psutil.Process(self.process.pid)

    def cpu(self) -> float:
        """Seconds of all its threads so far."""
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    def memory_mb(self) -> float:
        """Its resident size."""
        return float(self._seen.memory_info().rss / 2**20)

    def get(self, probe: Probe) -> tuple[float, float, int]:
        """Wall seconds, CPU seconds and bytes of an answer; refuses another status than the probe's."""
        began, used = time.perf_counter(), self.cpu()
        answer = self.client.get(probe.path)
        took, size = time.perf_counter() - began, len(answer.content)
        if answer.status_code != probe.status or 'class="note bad" role="alert"' in answer.text[:100_000]:
            raise RuntimeError(f"{probe.name}: {answer.status_code}: {answer.text[-400:]}")
        return took, self.cpu() - used, size

    def books(self) -> float:
        """Seconds until the ledger page shows a ledger."""
        began = time.perf_counter()
        while "being computed" in (text := self.client.get("/ledger").text):
            if time.perf_counter() - began > BOOKS_S:
                raise TimeoutError(f"no ledger after {BOOKS_S:g} s")
            time.sleep(0.05)
        if "It closes" not in text:
            raise RuntimeError("the ledger of the made tables does not close")
        return time.perf_counter() - began


@contextmanager
def studio(data: Path) -> Iterator[Studio]:
    """A studio that ends with the context."""
    started = Studio(data)
    try:
        yield started
    finally:
        started.client.close()
        started.process.terminate()
        started.process.wait(STOP_S)


def measure(data: Path, asked: Sequence[Probe]) -> tuple[dict[str, Told], dict[str, float]]:
    """Each probe's times, and the studio's own: its first page, its ledger, its size at the end."""
    told = {probe.name: Told() for probe in asked}
    for probe in asked:
        if probe.cold:
            with studio(data) as fresh:
                told[probe.name].cold, told[probe.name].cold_cpu, _ = fresh.get(probe)
    with studio(data) as running:
        running.get(Probe("warm up", "/ask"))
        for probe in asked:
            found = told[probe.name]
            found.first, found.first_cpu, found.bytes = running.get(probe)
            again = [running.get(probe) for _ in range(WARM)]
            found.warm = statistics.median(wall for wall, _, _ in again)
            found.warm_worst = max(wall for wall, _, _ in again)
            found.warm_cpu = statistics.fmean(cpu for _, cpu, _ in again)
        own = {"ledger_page_s": running.books(), "studio_rss_mb": running.memory_mb()}
    return told, own


def bare(data: Path, asked: Sequence[Probe], told: dict[str, Told]) -> None:
    """The bare queries' times: a DuckDB of one thread over the files of the tables' logs, the second of two askings."""
    files, _ = Datasets(data / "datasets").snapshot()
    with duckdb.connect(config={"threads": 1}) as connection:
        for name, paths in files.items():
            listed = ", ".join(map(quoted, paths))
            connection.execute(f'CREATE VIEW "{name}" AS FROM read_parquet([{listed}])')
        for probe in (probe for probe in asked if probe.bare):
            for _ in range(2):
                began, used = time.perf_counter(), time.process_time()
                connection.execute(probe.bare).to_arrow_table()
                told[probe.name].bare = time.perf_counter() - began
                told[probe.name].bare_cpu = time.process_time() - used


def ratios(asked: Sequence[Probe], told: dict[str, Told], values: dict[str, float]) -> dict[str, float]:
    """The worst page, the pages over the limit, and pages against bare queries (CPU seconds; a mean of the shares)."""
    pages = [told[probe.name] for probe in asked if probe.page]
    pairs = [told[probe.name] for probe in asked if probe.page and probe.bare]
    return {
        "worst_cold_page_s": max(page.cold for page in pages),
        "worst_first_page_s": max(page.first for page in pages),
        "worst_warm_page_s": max(page.warm_worst for page in pages),
        "median_warm_page_s": statistics.median(page.warm for page in pages),
        "worst_first_page_cpu_s": max(page.first_cpu for page in pages),
        "worst_warm_page_cpu_s": max(page.warm_cpu for page in pages),
        "pages_over_limit": float(sum(max(page.cold, page.first, page.warm_worst) > LIMIT_S for page in pages)),
        "page_over_bare_cpu": sum(page.warm_cpu for page in pairs) / sum(page.bare_cpu for page in pairs),
        "sql_command_s": values["sql_s"],
        "ledger_command_s": values["ledger_s"],
    }


def versions() -> str:
    """Of what the pages are made with."""
    names = ("duckdb", "deltalake", "pyarrow", "aiohttp", "jinja2")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def main() -> None:
    """Measure and write benchmarks/results/studio.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1_000_000, help="Node rows, at least.")
    parser.add_argument("--groups", type=int, default=100_000, help="Rows of `rollouts` and of `rewards`.")
    parser.add_argument("--data", type=Path, help="A data directory to keep; filled where it is not there yet.")
    given = parser.parse_args()
    data = given.data or Path(tempfile.mkdtemp(prefix="studio-bench-"))
    try:
        result(data, studio_rows.Sizes(given.nodes, given.groups))
    finally:
        if not given.data:
            shutil.rmtree(data)


def result(data: Path, sizes: studio_rows.Sizes) -> None:
    """Fill the directory where it is empty, measure, write."""
    began = time.perf_counter()
    rows = studio_rows.filled(data, sizes)
    values: dict[str, float] = {"fill_s": time.perf_counter() - began}
    asked = probes(rows)
    told, own = measure(data, asked)
    values |= own
    bare(data, asked, told)
    values["sql_s"], values["sql_rss_mb"] = stream.command("sql", stream.QUERY, "--data", str(data))
    values["ledger_s"], values["ledger_rss_mb"] = stream.command("ledger", "--data", str(data))
    slowest = sorted(told, key=lambda name: told[name].first_cpu, reverse=True)[:SLOWEST]
    notes = [
        f"python -m benchmarks.studio --nodes {sizes.nodes} --groups {sizes.groups}",
        ", ".join(f"{name} {count:,}" for name, count in rows.items()),
        versions(),
        *(f"{name}: {said(told[name])}" for name in slowest),
    ]
    report.write("studio", 1, {name: [value] for name, value in values.items()}, ratios(asked, told, values), notes)
    for name, page in told.items():
        print(f"{name[:44]:44} {said(page)}")


def said(page: Told) -> str:
    """A page's times in a line."""
    cold = f"cold {page.cold:.3f} s, CPU {page.cold_cpu:.2f}; " if page.cold else ""
    bare = f"; bare {page.bare:.3f} s, CPU {page.bare_cpu:.3f}" if page.bare else ""
    warm = f"warm {page.warm:.3f} to {page.warm_worst:.3f} s, CPU {page.warm_cpu:.2f}"
    return f"{cold}first {page.first:.3f} s, CPU {page.first_cpu:.2f}; {warm}{bare}; {page.bytes:,} bytes"


if __name__ == "__main__":
    main()
