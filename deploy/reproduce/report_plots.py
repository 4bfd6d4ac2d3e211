"""The report's plots as SVG: text stays text, lines and letters take the page's colour, so they read in light and dark.

matplotlib draws with one fixed ink, which is then replaced by currentColor; a plot that stands alone brings both
colours with it. Nothing in a plot points outside of it.
"""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's text colour while matplotlib draws."""
COLOURS = {"base": "#8a8a8a", "direct": "#3f8fd2", "best_of_n": "#2ca58d", "astro": "#e0672f"}
OTHERS = ("#a678d0", "#c9a227", "#d0578f", "#6f8f3a", "#7f7fd0")
STYLE = "<style>svg{color:#222}@media(prefers-color-scheme:dark){svg{color:#ddd}}</style>"
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "astro",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "legend.frameon": False,
}

Report = Mapping[str, Any]


def label(arm: str) -> str:
    """An arm's name for people: 'astro_rl' is 'ASTRO-RL'."""
    words = {"base": "Base", "direct": "Direct", "astro": "ASTRO", "sft": "SFT", "rl": "RL"}
    stem, _, stage = arm.rpartition("_")
    if stem == "best_of_n":
        return f"best-of-N-{words.get(stage, stage)}"
    return "-".join(words.get(part, part) for part in arm.split("_"))


def colour(arm: str) -> str:
    """Of an arm or of a data directory's arm."""
    for name in ("base", "best_of_n", "direct"):
        if arm.startswith(name):
            return COLOURS[name]
    if arm in {"astro", "astro_sft", "astro_rl"}:
        return COLOURS["astro"]
    return OTHERS[sum(map(ord, arm.rpartition("_")[0])) % len(OTHERS)]


def draw(report: Report) -> dict[str, str]:
    """The plots by name; one without data is left out."""
    makers: dict[str, tuple[Callable[[Report, Figure], bool], tuple[float, float]]] = {
        "accuracy": (accuracy, (7.5, 0.42 * len(report["arms"]) + 1.1)),
        "rl": (rl, (9.5, 6.4)),
        "backtracks": (backtracks, (6.0, 4.0)),
        "tokens": (tokens, (7.5, 4.4)),
    }
    found = {}
    with mpl.rc_context(SETTINGS):
        for name, (maker, size) in makers.items():
            figure = Figure(figsize=size, layout="constrained")
            if maker(report, figure):
                found[name] = svg(figure, name)
    return found


def svg(figure: Figure, name: str) -> str:
    """The figure as one <svg> element whose ids are its own."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)
    head, _, rest = text.partition(">")
    return f"{head}>{STYLE}{rest}"


def accuracy(report: Report, figure: Figure) -> bool:
    """pass@1 of each arm with its interval; hollow: of first attempts."""
    axes = figure.subplots()
    names = list(report["arms"])
    for at, name in enumerate(reversed(names)):
        one = report["arms"][name]
        value = one["pass_at_1"]
        reach = [[max(0, value["mean"] - value["low"])], [max(0, value["high"] - value["mean"])]]
        axes.errorbar(value["mean"], at, xerr=reach, fmt="o", color=colour(name), capsize=3)
        axes.plot(one["first_attempt"], at, "o", mfc="none", color=colour(name), ms=9)
    axes.set_yticks(range(len(names)), [label(name) for name in reversed(names)])
    axes.set_xlabel("pass@1 on the test, points (ring: of first attempts)")
    axes.grid(axis="x", alpha=0.25)
    return True


def rl(report: Report, figure: Figure) -> bool:
    """Over RL's steps: dev pass@1 of the checkpoints, training reward, length, backtracks, entropy, lag."""
    steps, dev = report["curves"]["training"], report["curves"]["dev"]
    if not steps:
        return False
    grid = figure.subplots(2, 3).ravel()
    arms = report["plan"]["dirs"]["arms"]
    _lines(grid[0], dev, arms, "pass_at_1", 1)
    grid[0].set_title("pass@1 on dev, points")
    window = max(1, max(len(rows) for rows in steps.values()) // 20)
    titles = {
        "reward": "reward in training", "length": "length, tokens", "backtracks": "backtracks a response",
        "entropy": "entropy, nats a token", "lag": "lag, versions",
    }  # fmt: skip
    for axes, (name, title) in zip(grid[1:], titles.items(), strict=True):
        _lines(axes, steps, arms, name, window)
        axes.set_title(title)
    for axes in grid:
        axes.grid(alpha=0.25)
    for axes in grid[3:]:
        axes.set_xlabel("RL step")
    handles = {line.get_label(): line for axes in grid for line in axes.get_lines() if line.get_label()[0] != "_"}
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=4)
    return True


def _lines(axes: Axes, curves: Mapping[str, Any], arms: Mapping[str, Any], name: str, window: int) -> None:
    """A line a directory, those of one arm in one colour; running means over `window` steps."""
    told: set[str] = set()
    for directory, rows in curves.items():
        arm = arms[directory]["arm"].replace("-", "_")
        values = [float(row[name]) for row in rows]
        smooth = [
            sum(values[max(0, at - window + 1) : at + 1]) / len(values[max(0, at - window + 1) : at + 1])
            for at in range(len(values))
        ]
        text = f"_{directory}" if arm in told else label(arm)
        told.add(arm)
        axes.plot([row["step"] for row in rows], smooth, color=colour(arm), lw=1.5, alpha=0.85, label=text)


def backtracks(report: Report, figure: Figure) -> bool:
    """Backtracks against pass@1, a point a checkpoint on dev."""
    dev = report["curves"]["dev"]
    if not dev:
        return False
    axes = figure.subplots()
    told: set[str] = set()
    for directory, rows in dev.items():
        arm = report["plan"]["dirs"]["arms"][directory]["arm"].replace("-", "_")
        text = f"_{directory}" if arm in told else label(arm)
        told.add(arm)
        x, y = [row["backtracks"] for row in rows], [row["pass_at_1"] for row in rows]
        axes.scatter(x, y, color=colour(arm), s=22, alpha=0.8, label=text)
    r = report["correlation"]["pearson_r"]
    axes.set_title("" if r is None else f"ASTRO's checkpoints: r = {r:.2f}")
    axes.set_xlabel("backtracks a response")
    axes.set_ylabel("pass@1 on dev, points")
    axes.grid(alpha=0.25)
    axes.legend()
    return True


def tokens(report: Report, figure: Figure) -> bool:
    """Accuracy against tokens a problem: one sample (dot), the majority of k (line), the best of k (dashes)."""
    axes = figure.subplots()
    for name, one in report["arms"].items():
        spent, value = one["tokens"], one["pass_at_1"]["mean"]
        for kind, line in (("maj", "-"), ("pass", ":")):
            if name.endswith("_sft") and kind == "pass":
                continue  # of SFT's arms one line is enough to look at
            ks = [1, *(int(k) for k in one[f"{kind}_at_k"])]
            y = [value, *(point["mean"] for point in one[f"{kind}_at_k"].values())]
            axes.plot([k * spent for k in ks], y, line, color=colour(name), lw=1.2, alpha=0.8)
        marker = "s" if name.endswith("_sft") else "o"
        axes.plot(spent, value, marker, color=colour(name), label=label(name))
    axes.set_xscale("log")
    axes.set_xlabel("tokens a problem (line: majority of k samples; dots: best of k)")
    axes.set_ylabel("accuracy on the test, points")
    axes.grid(alpha=0.25)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return True
