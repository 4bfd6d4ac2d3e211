"""The end of `factory reproduce`: report.json, report.md, report.html and plots/, from the tables and the plan alone.

report_facts.py asks, report_arms.py and report_results.py compute, report_plots.py draws, report_text.py and
report_html.py tell. It can be written again at any time, also before the experiment is done: of what there is.
"""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from deploy.reproduce import report_html, report_plots, report_results, report_text
from deploy.reproduce.plan import ABLATIONS, ARMS, ablated
from deploy.reproduce.report_arms import Table, places, tables
from deploy.reproduce.report_facts import Directory
from deploy.reproduce.report_numbers import RESAMPLES, pearson
from processors.dataset import NoDatasets

DEV = "dev"


def write(out: Path) -> None:
    """Write the report beside the plan.

    Args:
        out: the experiment's directory, with plan.json.

    Raises:
        NothingToReport: no version has answered the test yet.
        NoDatasets: the search has no tables.
    """
    report = compute(out)
    plots = report_plots.draw(report)
    (out / "plots").mkdir(exist_ok=True)
    for name, svg in plots.items():
        (out / "plots" / f"{name}.svg").write_text(svg, "utf-8")
    text = report_text.markdown(report)
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (out / "report.md").write_text(text, "utf-8")
    (out / "report.html").write_text(report_html.page(text, plots), "utf-8")


def compute(out: Path) -> dict[str, Any]:
    """The content of report.json, as plain values."""
    plan = json.loads((out / "plan.json").read_text("utf-8"))
    found, boots = tables(out, plan), report_results.Boots()
    arms = {name: report_results.arm(table, boots) for name, table in ordered(found).items()}
    curves = curves_of(out, plan)
    report = {
        "arms": arms,
        "differences": report_results.differences(found, boots),
        "differences_first_attempt": report_results.differences(found, boots, "first_attempt"),
        "equal_tokens": report_results.equal_tokens(found, boots),
        "search": searched(out, plan),
        "curves": curves,
        "correlation": correlation(plan, curves, "astro"),
        "examples": report_results.examples(found),
        "trained_on_test_problems": overlap(out, plan, found),
        "bootstrap": {
            "resamples": RESAMPLES,
            "seeds": sorted({seed for table in found.values() for seed in table.seeds if seed >= 0}),
            "problems": len(next(iter(found.values())).values["pass_at_1"][0]),
        },
        "plan": plan,
        "wall": wall(out),
        "commit": plan.get("commit", ""),
        "command": command(plan),
        "machine": machine(),
    }
    plain: dict[str, Any] = msgspec.to_builtins(report)
    return plain


def ordered(found: Mapping[str, Table]) -> dict[str, Table]:
    """Base, then SFT, then RL."""
    first = ["base", "direct_sft", "best_of_n_sft", "astro_sft", "direct_rl", "astro_rl"]
    names = [*(name for name in first if name in found), *sorted(set(found) - set(first))]
    return {name: found[name] for name in names}


def searched(out: Path, plan: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What the searches cost, by data directory."""
    costs = {}
    for name in ("search", "best_of_n"):
        try:
            with Directory(out / plan["dirs"].get(name, name)) as facts:
                costs[name] = facts.searched()
        except NoDatasets:
            continue
    return costs


def curves_of(out: Path, plan: Mapping[str, Any]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """RL's steps and the checkpoints' scores on the dev problems (in points), by directory."""
    steps, dev = {}, {}
    for directory, seed, _ in places(plan):
        if seed < 0 or not (out / directory / "datasets").exists():
            continue
        with Directory(out / directory) as facts:
            if rows := facts.steps():
                steps[directory] = rows
            if rows := facts.checkpoints(DEV):
                shares = ("pass_at_1", "truncated")
                dev[directory] = [row | {name: 100 * row[name] for name in shares} for row in rows]
    return {"training": steps, "dev": dev}


def correlation(plan: Mapping[str, Any], curves: Mapping[str, Any], arm: str) -> Any:  # noqa: ANN401 - a Correlation
    """Pearson's r of backtracks and pass@1 over the checkpoints of an arm, all seeds together."""
    names = [directory for directory, _, name in places(plan) if name == arm]
    rows = [row for name in names for row in curves["dev"].get(name, [])]
    return pearson([(row["backtracks"], row["pass_at_1"]) for row in rows])


def overlap(out: Path, plan: Mapping[str, Any], found: Mapping[str, Table]) -> int:
    """How many test problems are among what any arm trained on, by text: 0, or the experiment is void."""
    questions = [one.problem.question for table in found.values() for one in table.cells[0].scored.values()]
    count = 0
    for directory, _, _ in places(plan):
        if (out / directory / "datasets").exists():
            with Directory(out / directory) as facts:
                count = max(count, facts.trained_on(questions))
    return count


def wall(out: Path) -> dict[str, float]:
    """Seconds by phase, as run.py wrote them; nothing where it has not yet."""
    path = out / "timings.json"
    seconds: dict[str, float] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return {**seconds, "total": round(sum(seconds.values()), 1)}


def command(plan: Mapping[str, Any]) -> str:
    """The command that makes such a report; settings of the user's own stand in the plan."""
    parts = ["factory reproduce", f"--scale {plan['scale']}", f"--seeds {','.join(map(str, plan['seeds']))}"]
    standard = [arm for arm in plan["arms"] if arm in ARMS]
    if set(standard) != set(ARMS):
        parts.append(f"--arms {','.join(standard)}")
    parts += [f"--ablation {name}" for name in ABLATIONS if ablated(name) in plan["arms"]]
    if plan.get("policy", "tiny") != "tiny":
        parts.append(f"--policy {plan['policy']}")
    return " ".join(parts)


def machine() -> str:
    """Processor, cores, memory and Python, in words."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    total = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    memory = f"{total / (1 << 20):.0f} GiB, " if total else ""
    return f"{model or platform.machine()}, {os.cpu_count()} cores, {memory}Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return []
