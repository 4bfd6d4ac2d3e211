"""The `factory` command. Heavy parts (torch, vLLM, DuckDB) are imported by the commands that need them.

Exit codes: 0 done; 1 the answer is no (the ledger does not close); 2 something to put right, in one sentence.
"""

import errno
import sys
from typing import Annotated

import typer

from deploy import options as o
from deploy.cli_ask import ask
from deploy.cli_export import exports
from deploy.cli_keep import keeps
from deploy.cli_plugins import plugins
from deploy.cli_replay import replays
from deploy.cli_reproduce import reproduces
from deploy.cli_run import runs
from deploy.cli_studio import studio
from deploy.cli_top import tops
from schemas.errors import DISK_FULL, Told

app = typer.Typer(
    name="factory",
    help="ASTRO as a stream-processing data factory: search trees to chains of thought to SFT and online RL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
runs(app)
ask(app)
exports(app)
keeps(app)
plugins(app)
replays(app)
reproduces(app)
studio(app)
tops(app)


@app.command("settings")
def settings_command(
    file: o.SettingsFile = None,
    set_: o.Set = None,
    as_json: o.AsJson = False,
    all_: Annotated[bool, typer.Option("--all", help="Defaults too.")] = True,
) -> None:
    """Print the settings in force (file, then environment, then flags)."""
    from deploy.plan import print_settings

    print_settings(o.settings_from(file, set_), as_json=as_json, all_=all_)


def main() -> None:
    """Run a command; an error that the user can put right is one sentence on stderr and exit code 2."""
    try:
        app()
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        print(f"factory: {sentence}", file=sys.stderr)
        sys.exit(2)


def explain(error: BaseException) -> str | None:
    """The sentence for an error that the user can put right; None for a defect of ours, which keeps its traceback."""
    if isinstance(error, Told):
        return str(error)
    if isinstance(error, OSError) and error.errno in {*DISK_FULL, errno.EADDRINUSE, errno.EACCES, errno.EROFS}:
        full = (
            "the disk is full: free some space (`factory compact --keep-days 1` removes what nobody needs) and start "
            "again, it goes on where it was; or choose another directory with --data"
        )
        what = dict.fromkeys(DISK_FULL, full) | {
            errno.EADDRINUSE: "the port is in use: choose another one or leave it at 0 for a free one",
        }
        told = what.get(error.errno or 0, "not allowed to write there: choose another directory with --data")
        return f"{error.filename or error.strerror}: {told}"
    return None


if __name__ == "__main__":
    main()
