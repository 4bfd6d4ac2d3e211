"""PromQL over the metrics that processes export: a name that is not exported is an error here, not an empty plot."""

from deploy.numbers import FLOW
from processors.metrics import NUMBERS
from schemas.topics import TOPICS

__all__ = [
    "ENGINES",
    "FLOW",
    "GROUPS",
    "QUEUED",
    "RATE",
    "TRAINERS",
    "WITH_WEIGHTS",
    "duration",
    "highest",
    "metric",
    "rate",
    "total",
]

RATE = "$__rate_interval"
"""Grafana's: four scrapes, or what a point of the plot covers."""
GROUPS = tuple(stage for stage in FLOW if any(stage in topic.consumers for topic in TOPICS))
"""Those that consume a topic as a group."""
QUEUED = tuple(stage for stage in FLOW if stage in {*GROUPS, "sink", "evaluate"})
"""Those that tell a lag."""
WITH_WEIGHTS = ("sft", "rl", "search", "sample", "evaluate")
TRAINERS = ("sft", "rl")
ENGINES = ("search", "sample", "evaluate", "linearize")
"""Those that may host an engine; it counts its tokens at the first stage of its process."""
_KINDS = {number.name: number.kind for number in NUMBERS}


def metric(stage: str, name: str) -> str:
    """The full name of a stage's number.

    Raises:
        KeyError: it is none of processors/metrics.py.
    """
    return f"factory_{stage}_{name}" + ("_total" if _KINDS[name] == "counter" else "")


def rate(stage: str, name: str, over: str = RATE) -> str:
    """Units a second, of all its processes."""
    return f"sum(rate({metric(stage, name)}[{over}]))"


def total(stage: str, name: str) -> str:
    """The sum over its processes."""
    return f"sum({metric(stage, name)})"


def highest(stage: str, name: str) -> str:
    """The greatest of its processes: of a lag, which is the group's, each process tells the same."""
    return f"max({metric(stage, name)})"


def duration(stage: str, share: float) -> str:
    """Seconds within which this share of its units were done."""
    buckets = f"factory_{stage}_duration_seconds_bucket"
    return f"histogram_quantile({share}, sum by (le) (rate({buckets}[{RATE}])))"
