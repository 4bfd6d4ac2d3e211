"""The options that every command shares, and how they become settings."""

import os
import re
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from schemas.load import BadSettings, load
from schemas.settings import Settings

SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", help="A settings file (TOML or JSON); default ./factory.toml."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="One setting: section.key=value (repeatable). See `factory settings`.")
]
Data = Annotated[Path | None, typer.Option("--data", help="Directory of datasets, weights and checkpoints.")]
Broker = Annotated[str | None, typer.Option("--broker", help="HOST:PORT of a Kafka cluster; default: embedded.")]
Policy = Annotated[str | None, typer.Option("--policy", help="'tiny', a model directory or a hub name.")]
Problems = Annotated[
    list[Path] | None, typer.Option("--problems", help="A JSONL or Parquet file of problems (repeatable).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def settings_from(
    file: Path | None = None,
    flags: list[str] | None = None,
    data: Path | None = None,
    broker: str | None = None,
    policy: str | None = None,
    problems: list[Path] | None = None,
) -> Settings:
    """The settings of one command line; its own flags win over --set, the environment and the file.

    Raises:
        BadSettings: naming the setting and what to do.
    """
    texts = list(flags or [])
    for name, value in (("factory.data", data), ("broker.bootstrap", broker), ("policy.path", policy)):
        if value is not None:
            texts.append(f"{name}={msgspec.json.encode(str(value)).decode()}")
    if problems:
        for path in problems:
            if not path.is_file():
                raise BadSettings(f"--problems {path}: no such file")
        sources = ", ".join(f'{{kind = "file", name = {msgspec.json.encode(str(path)).decode()}}}' for path in problems)
        texts.append(f"problems.sources=[{sources}]")
    return load(file, os.environ, texts)


def seconds(text: str) -> float:
    """A duration: '90', '90s', '10m', '1.5h'.

    Raises:
        BadSettings: for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not match:
        raise BadSettings(f"--for {text}: write a duration such as 90s, 10m or 2h")
    return float(match[1]) * _UNITS[match[2] or "s"]
