"""`factory` and `python` for a page's commands, in forks of one process that has imported what they need.

A page has dozens of commands, and each would spend seconds on its imports (torch, transformers). A fork is otherwise
the installed command: deploy.cli.main with the arguments, directory, environment, files and exit code of the caller.
What would run for hours (`--dry-run` exists, or it is in PARSED) is rehearsed: the real command line takes it, and it
goes no further.
"""

import contextlib
import importlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

PARSED = (["bootstrap"], ["broker"], ["policy", "fetch"], ["ledger", "--watch"])
"""How the commands begin that run long and know no --dry-run."""
PRELOADED = (
    "deploy.cli", "deploy.sql", "deploy.export", "deploy.replay", "deploy.dlq_replay", "deploy.ledger", "deploy.show",
    "deploy.plan", "deploy.compact", "processors.chat", "trainers.weights", "transformers.models.llama.modeling_llama",
    "transformers.models.auto.tokenization_auto",
)  # fmt: skip
CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({path!r})
    asked = {{"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}
    socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
    sys.exit(int(server.recv(16) or b"70"))
"""
"""Started once a command, so it imports next to nothing."""


class Warm:
    """Runs scripts of bash whose PATH has our commands (in `bin_`) and the system's, and no others."""

    def __init__(self, bin_: Path) -> None:
        self.bin = bin_
        self.environment = {**os.environ, "PATH": f"{bin_}:/usr/bin:/bin", "COLUMNS": "160"}

    def run(self, script: str, place: Path, **environment: str) -> str:
        """What a script says on stdout; it must end well."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=place, env={**self.environment, **environment},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def python(self, code: str, place: Path) -> str:
        """What a block of Python says, as `python -c` runs it."""
        return self.run(f"python -c {shlex.quote(code)}", place)


@contextlib.contextmanager
def serving(folder: Path, root: Path) -> Iterator[Warm]:
    """The commands, while the process behind them lives; `root`: the repository."""
    path = folder / "warm.sock"
    server = subprocess.Popen([sys.executable, __file__, str(path)], stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        assert server.stdout
        assert server.stdout.readline() == "ready\n", "the imports failed"
        yield Warm(_commands(folder / "bin", path, root))
    finally:
        server.terminate()
        server.wait(10)


def _commands(folder: Path, path: Path, root: Path) -> Path:
    folder.mkdir()
    (folder / "client.py").write_text(CLIENT.format(path=str(path)), "utf-8")
    client = f'exec {sys.executable} -S -E {folder / "client.py"} "$(basename "$0")" "$@"'
    made = {
        "factory": client,
        "python": client,
        "make": f'exec /usr/bin/make --no-print-directory -n -C {root} "$@"',
        # Not run: the files that they are told of must be there.
        "pytest": f'test -f "{root}/$1"',
        "prometheus": 'file="${1#--config.file=}"; test -f "$file"',
    }
    for name, text in made.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n", "utf-8")
        (folder / name).chmod(0o755)
    return folder


def serve(path: str) -> None:
    """Answer each connection in a fork, until SIGTERM."""
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(16)
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                answer(connection)
            connection.close()


def answer(connection: socket.socket) -> None:
    """Be the command that is asked for, tell its exit code, and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    data, files, _, _ = socket.recv_fds(connection, 1 << 18, 3)
    asked = json.loads(data)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(at, mode, closefd=False) for at, mode in enumerate("rww"))
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    code = 1
    try:
        name, *arguments = asked["argv"]
        code = factory(arguments) if name == "factory" else python(arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - a process edge
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # the reader may be gone, as behind `| head`
                stream.flush()
        connection.send(str(code).encode())
        os._exit(code)


def factory(arguments: list[str]) -> int:
    """The command line, rehearsed where it would run long."""
    from deploy.cli import main

    command, rest = found(arguments)
    if any(arguments[: len(begin)] == begin for begin in PARSED):
        command.make_context(command.name, rest)
        return 0
    if any("--dry-run" in option.opts for option in command.params) and "--dry-run" not in arguments:
        arguments = [*arguments, "--dry-run"]
    sys.argv = ["factory", *arguments]
    main()
    return 0


def found(arguments: list[str]):
    """The command that is named, and the arguments that are its own."""
    import typer

    from deploy.cli import app

    command = typer.main.get_command(app)
    for at, word in enumerate(arguments):
        if not hasattr(command, "commands"):
            return command, arguments[at:]
        command = command.commands[word]
    return command, []


def python(arguments: list[str]) -> int:
    """`python -c CODE`."""
    kind, code = arguments
    assert kind == "-c", arguments
    exec(compile(code, "<block>", "exec"), {"__name__": "__main__"})
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
