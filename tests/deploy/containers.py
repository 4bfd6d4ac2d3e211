"""What the tests of deploy/docker and deploy/kubernetes share: the real command line takes a container's command."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from typer.testing import CliRunner

from deploy.cli import app

ROOT = Path(__file__).parent.parent.parent


def planned(
    arguments: Sequence[str], environment: Mapping[str, str | None], files: Mapping[str, Path], data: Path
) -> str:
    """What `factory ARGUMENTS --dry-run` prints with a container's environment.

    `files` says where a path of the container lies here; /data is `data`. Bad settings raise, as everywhere.
    """
    here = [str(files.get(argument, argument)) for argument in arguments]
    said = {
        name: value
        for name, value in environment.items()
        if name.startswith(("FACTORY_", "AWS_")) and value is not None
    }
    assert said["FACTORY_FACTORY_DATA"] == "/data"
    result = CliRunner().invoke(app, [*here, "--dry-run"], env=said | {"FACTORY_FACTORY_DATA": str(data)})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output
