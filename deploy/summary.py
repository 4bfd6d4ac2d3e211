"""What `factory up` says at its end: the ledger, the datasets' sizes, pass@1 of each version, queries to try next."""

from rich.console import Console
from rich.table import Table

from deploy import ledger, ledger_show, questions
from processors.dataset import Datasets
from schemas.settings import Settings
from schemas.tables import TABLES

QUERIES = (questions.EVALUATIONS, questions.ARMS, questions.LOW_Q)


def print_summary(settings: Settings, console: Console) -> None:
    """Print it all from the tables alone."""
    console.print(ledger_show.render(ledger.compute(settings)))
    with Datasets.of(settings).connect() as connection:
        sizes = Table(title="datasets", box=None)
        sizes.add_column("table")
        sizes.add_column("rows", justify="right")
        for name in TABLES:
            count = connection.execute(f'select count(*) from "{name}"').fetchone()  # noqa: S608 - our own table names
            sizes.add_row(name, f"{count[0] if count else 0:,}")
        console.print(sizes)
        rows = connection.execute(
            "select version, trainer, pass_at_1, low, high, tokens, backtracks, problems from evaluations "
            "where source = 'all' and version >= 0 order by version"
        ).fetchall()
    scores = Table(title="pass@1 on held-out problems (95 % interval)", box=None)
    for column in ("version", "trainer", "pass@1", "interval", "tokens", "backtracks", "problems"):
        scores.add_column(column, justify="right")
    for version, trainer, mean, low, high, tokens, backtracks, problems in rows:
        interval = f"{low:.3f} to {high:.3f}"
        scores.add_row(
            f"v{version}", trainer, f"{mean:.3f}", interval, f"{tokens:.0f}", f"{backtracks:.2f}", f"{problems}"
        )
    console.print(scores)
    console.print("Ask the tables (they are yours while the factory runs, too):")
    for query in QUERIES:
        console.print(f'  factory sql "{query}"', soft_wrap=True, highlight=False)
