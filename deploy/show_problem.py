"""A problem's way through the stages as a table: a line a row that was made of it, then what it waits for.

Texts are a model's or a file's: they are drawn as they are (no markup is read in them), without control characters.
"""

import time
from datetime import datetime

from rich.console import Group
from rich.table import Table
from rich.text import Text

from deploy.output import duration
from deploy.show_follow import Passage, ShownProblem
from deploy.tabular import visible
from schemas import messages as m

STYLES = {"filtered": "yellow", "dead_letters": "red", "weights": "green", "training": "green"}


def render_problem(found: m.Problem) -> Group:
    """A problem's question, answer and origin; of a ShownProblem also what became of it."""
    head = Text(f"problem {found.id}  {visible(found.source)} #{found.index}, grader {found.grader}", style="bold")
    parts = [head, Text(visible(found.question, "\n")), Text(f"answer {visible(found.answer)}", style="green")]
    if isinstance(found, ShownProblem):
        return Group(*parts, Text(""), _table(found), *_end(found))
    return Group(*parts)


def _table(found: ShownProblem) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("time", "stage", "table", "id", "after", "work", "what"):
        table.add_column(name, justify="right" if name in {"after", "work"} else "left", no_wrap=name != "what")
    for passage in found.passages:
        table.add_row(*_cells(passage), style="dim" if passage.superseded else STYLES.get(passage.table, ""))
    return table


def _cells(passage: Passage) -> list[Text]:
    at = datetime.fromtimestamp(passage.time).astimezone()
    lost = " (superseded: made from a copy that lost)" if passage.superseded else ""
    texts = (
        f"{at:%Y-%m-%d %H:%M:%S}",
        passage.stage,
        passage.table,
        passage.id,
        "" if passage.after is None else duration(passage.after),
        "" if passage.took is None else duration(passage.took),
        passage.what + lost,
    )
    return [Text(visible(text)) for text in texts]


def _end(found: ShownProblem) -> list[Text]:
    """What is not answered yet, and how long the whole way was."""
    now = time.time()
    lines = [
        Text(
            f"{one.table} {one.id} waits for {one.stage}, or is in its hand, for {duration(now - one.since)}", "yellow"
        )
        for one in found.waiting
    ]
    if len(found.passages) > 1:
        way = found.passages[-1].time - found.passages[0].time
        lines.append(Text(f"{duration(way)} from the first row to the last", style="bold"))
    return lines
