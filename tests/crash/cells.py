"""The matrix: which process is killed at which moment, where in the code that is, and why other cells do not exist."""

from schemas.killpoints import POINTS

PROCESSES = ("produce", "search", "linearize", "verify", "sink", "sample", "sft", "rl", "evaluate", "broker")
MOMENTS = ("working", "output", "table commit", "checkpoint", "announcement")
"""'output': between the output and the commit of the input's offset."""
TORN = "a Parquet file that no log names"
"""The one moment that no line of ours passes: the test watches the folder and kills the sink."""

CELLS: dict[tuple[str, str], tuple[str, ...]] = {
    ("produce", "working"): ("produce:working", "prompts:working"),
    ("produce", "output"): ("produce:output", "prompts:output"),
    ("search", "working"): ("search:working",),
    ("search", "output"): ("search:output",),
    ("search", "announcement"): ("base:announcement",),
    ("linearize", "working"): ("linearize:working",),
    ("linearize", "output"): ("linearize:output",),
    ("verify", "working"): ("verify:working",),
    ("verify", "output"): ("verify:output",),
    ("sink", "working"): ("sink:working",),
    ("sink", "output"): ("sink:output",),
    ("sink", "table commit"): (TORN,),
    ("sample", "working"): ("sample:working",),
    ("sample", "output"): ("sample:output",),
    ("sample", "announcement"): ("engine:announcement",),
    ("sft", "working"): ("sft:working",),
    ("sft", "output"): ("sft:output",),
    ("sft", "checkpoint"): ("sft:checkpoint", "sft:saved"),
    ("sft", "announcement"): ("sft:announcement", "sft:announced"),
    ("rl", "working"): ("rl:working",),
    ("rl", "output"): ("rl:output", "rl:offsets"),
    ("rl", "checkpoint"): ("rl:checkpoint", "rl:saved"),
    ("rl", "announcement"): ("rl:announcement", "rl:announced"),
    ("evaluate", "working"): ("evaluate:working",),
    ("evaluate", "output"): ("evaluate:output",),
    ("evaluate", "announcement"): ("engine:announcement",),
    ("broker", "working"): ("search:working",),
    ("broker", "output"): ("linearize:output",),
    ("broker", "table commit"): ("sink:output",),
    ("broker", "checkpoint"): ("rl:checkpoint",),
    ("broker", "announcement"): ("rl:announcement",),
}
"""The kill points of each cell; for the broker, at which point of another process it is killed."""

ONLY_SINK = "only the sink writes tables"
OFFSET = "it has none: what it has done is its group's offset"
TOPIC = "it has none: what it has sent is on the topic"
NO_WEIGHTS = "it neither reads nor writes weights"
WHY_NOT: dict[tuple[str, str], str] = {
    **{(name, "table commit"): ONLY_SINK for name in PROCESSES if name not in {"sink", "broker"}},
    **{(name, "checkpoint"): OFFSET for name in ("search", "linearize", "verify", "sample")},
    **{(name, "announcement"): NO_WEIGHTS for name in ("produce", "linearize", "verify")},
    ("produce", "checkpoint"): TOPIC,
    ("sink", "checkpoint"): "it has none: its offsets are in the tables' commits",
    ("sink", "announcement"): "to the sink a version is a row like any other",
    ("evaluate", "checkpoint"): "it has none: each sample is on the disk by itself ('working')",
}


def listed() -> str:
    """Every cell with its points, then every cell that does not exist with the reason."""
    lines = [f"{len(CELLS)} cells exist:"]
    for (process, moment), points in CELLS.items():
        told = "; ".join(f"{point}: {POINTS[point]}" if point in POINTS else point for point in points)
        lines.append(f"  {process:9} x {moment:12} {told}")
    lines.append(f"{len(WHY_NOT)} do not:")
    lines += [f"  {process:9} x {moment:12} {why}" for (process, moment), why in WHY_NOT.items()]
    return "\n".join(lines)
