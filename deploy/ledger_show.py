"""The ledger as a person reads it: tables, what is missing by name, and one last line that says whether it closes."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from deploy.ledger_lines import PARTS, Amount, Ledger, RlLine, StageLine

SHOWN = 20
"""Ids that are named on the screen; --json names them all."""
NUMBERS = ("taken", "out", "filtered", "dead", "in_flight", "lost")


def render(ledger: Ledger) -> Group:
    """The accounts."""
    table = Table(title="ledger", box=None)
    for name in ("stage", "from", "to"):
        table.add_column(name, no_wrap=True)
    for name in NUMBERS:
        table.add_column({"dead": "dead letters"}.get(name, name.replace("_", " ")), justify="right", no_wrap=True)
    for line in (*ledger.stages, *_sinks(ledger)):
        table.add_row(line.stage, line.input, line.output, *(f"{getattr(line, name):,}" for name in NUMBERS))
    parts: list[Group | Table | Text] = [table, _named(ledger)]
    if ledger.rl_by:
        parts.append(_rollouts(ledger))
    return Group(*parts, *_remarks(ledger), last_line(ledger))


def _sinks(ledger: Ledger) -> list[StageLine]:
    """The sink's accounts of all topics as one line, and that of the nodes."""
    topics = [line for line in ledger.sinks if line.output != "nodes"]
    sums = {name: sum(getattr(line, name) for line in topics) for name in NUMBERS}
    whole = [StageLine(stage="sink", input="topics", output="tables", **sums)] if topics else []
    return [*whole, *(line for line in ledger.sinks if line.output == "nodes")]


def _named(ledger: Ledger) -> Table:
    table = Table(title="rows that others name", box=None)
    for name in ("of", "named by"):
        table.add_column(name)
    for name in ("named", "lost"):
        table.add_column(name, justify="right")
    for line in ledger.named:
        table.add_row(line.of, line.by, f"{line.named:,}", f"{len(line.missing):,}")
    return table


def _rollouts(ledger: Ledger) -> Table:
    """Rollouts by source and difficulty; the tokens of all."""
    table = Table(title="rollouts", box=None)
    table.add_column("source")
    table.add_column("difficulty", justify="right")
    for part in PARTS:
        table.add_column(part.replace("_", " "), justify="right")
    for line in ledger.rl_by:
        table.add_row(line.source, f"{line.difficulty:g}", *(f"{amount.rollouts:,}" for amount in _amounts(line)))
    table.add_row("all", "", *(f"{amount.rollouts:,}" for amount in _amounts(ledger.rl)))
    table.add_row("tokens", "", *(f"{amount.tokens:,}" for amount in _amounts(ledger.rl)))
    return table


def _amounts(line: RlLine) -> list[Amount]:
    return [getattr(line, part) for part in PARTS]


def _remarks(ledger: Ledger) -> list[Text]:
    found = [Text(f"filtered: {count:,} rollouts, {why}") for why, count in sorted(ledger.rl.why.items())]
    for where, ids in ledger.missing().items():
        more = f" and {len(ids) - SHOWN} more (--json names them all)" if len(ids) > SHOWN else ""
        found.append(Text(f"lost: {where}: {', '.join(ids[:SHOWN])}{more}", style="red"))
    if not ledger.online:
        found.append(Text("no broker runs: computed from the tables and the offsets saved last", style="dim"))
    return found


def last_line(ledger: Ledger) -> Text:
    """Whether it closes, in one line."""
    taken, waiting = (sum(getattr(line, name) for line in ledger.stages) for name in ("taken", "in_flight"))
    if ledger.closes:
        return Text(
            f"It closes: {taken:,} ids taken in, {waiting:,} of them waiting or in flight, none lost.", style="green"
        )
    missing = ledger.missing()
    count = len({key for ids in missing.values() for key in ids})
    where = "; ".join(f"{name}: {ids[0]}{' ...' * (len(ids) > 1)}" for name, ids in missing.items())
    return Text(f"It does NOT close: {count:,} lost of {taken:,} ids taken in ({where}).", style="bold red")
