"""The README.md of an export: what is in it, from which rows of which tables, made by which code under which settings.

Its header is the YAML of a Hugging Face dataset card, so the hub and `datasets.load_dataset` read it, too; what is ours
stands under `astro_factory`. Paths and addresses of the machine stay out of it: a card is made to be published.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from deploy.code_version import code_version
from deploy.export_files import Exported
from deploy.plan import changed
from producers.sources.opening import configured
from schemas.settings import Settings, Source

SECTIONS = ("problems", "policy", "search", "linearize", "verify", "prompts", "sample", "sft", "rl")
"""The settings that shape the data; the others speak of this machine."""
UNKNOWN = "unknown"
REPRODUCED = """\
The versions of the tables, and the settings that are not the defaults, stand in this file's header: the query over
these versions gives these rows again.
"""
MADE = "The licences are the problems'. Solutions were written by a model, whose own terms hold for them."
USE = {
    "trl": "SFTTrainer takes `prompt` and `completion`; GRPOTrainer takes `prompt`, and gives its reward functions the "
    "other columns.",
}


def card(
    settings: Settings,
    done: Exported,
    title: str,
    query: str,
    as_of: str,
    versions: Mapping[str, int],
    schema: pa.Schema,
    now: datetime,
) -> str:
    """The card's text.

    Args:
        settings: in force at the export.
        done: what was written.
        title: a table's name, or what the query is.
        query: the SQL.
        as_of: the time, or the versions that the user named; '' = now.
        versions: of every table.
        schema: of the rows.
        now: with its time zone.
    """
    sources = [
        {"name": name, "rows": rows, "license": license_of(name, settings)} for name, rows in done.sources.items()
    ]
    ours = {
        "query": query,
        "as_of": as_of or now.isoformat(timespec="seconds"),
        "tables": dict(versions),
        "code_version": code_version(),
        "format": done.format,
        "rows": done.rows,
        "sources": sources,
        "settings": published(settings),
    }
    header: dict[str, Any] = {"pretty_name": f"astro-factory: {title}", **_license(sources), "tags": ["astro-factory"]}
    files = [{"split": "train", "path": "data/train-*"}]
    header |= {"configs": [{"config_name": "default", "data_files": files}], "astro_factory": ours}
    front = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{front}---\n{_body(done, title, query, sources, schema, ours)}"


def _body(
    done: Exported, title: str, query: str, sources: list[dict[str, Any]], schema: pa.Schema, ours: Mapping[str, Any]
) -> str:
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", query))])
    command = f"`factory export --format {done.format}` (code {ours['code_version']})"
    lines = [
        f"# {title}\n",
        f"{done.rows:,} rows in {done.files} file(s), exported by {command} as of {ours['as_of']}.\n",
        f"{fence}sql\n{query}\n{fence}\n",
        REPRODUCED,
        *([f"{USE[done.format]}\n"] if done.format in USE else []),
        "| column | type |\n|---|---|",
        *(f"| {_cell(field.name)} | {_cell(str(field.type))} |" for field in schema),
    ]
    if sources:
        lines += ["", "| source of problems | rows | licence |\n|---|---|---|"]
        lines += [f"| {_cell(one['name'])} | {one['rows']:,} | {_cell(one['license'])} |" for one in sources]
        lines += ["", MADE]
    return "\n".join(lines) + "\n"


def license_of(name: str, settings: Settings) -> str:
    """The licence of a source's problems: as the settings say, or for a generator that of its package."""
    for source in configured(settings):
        if name == source_name(source):
            return source.license or (_generator() if source.kind == "reasoning_gym" else UNKNOWN)
    return UNKNOWN


def source_name(source: Source) -> str:
    """The `source` that its problems have."""
    label = source.params.get("label")
    return str(label or (Path(source.name).stem if source.kind == "file" else source.name))


def _generator() -> str:
    try:
        found = metadata.metadata("reasoning-gym").json
    except metadata.PackageNotFoundError:
        return UNKNOWN
    return str(found.get("license_expression") or found.get("license") or UNKNOWN)


def _license(sources: list[dict[str, Any]]) -> dict[str, str]:
    """The header's licence, where all rows have one and the same."""
    found = {one["license"] for one in sources}
    return {"license": found.pop().lower()} if len(found) == 1 and UNKNOWN not in found else {}


def published(settings: Settings) -> dict[str, Any]:
    """The settings that shape the data and are not the defaults; of a path only its last part."""
    return {name: _bare(value) for name, value in changed(settings).items() if name.split(".")[0] in SECTIONS}


def _bare(value: Any) -> Any:  # noqa: ANN401 - a setting's value
    if isinstance(value, dict):
        return {key: _bare(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_bare(one) for one in value]
    if isinstance(value, str) and value.startswith(("/", "~", "./", "../")):
        return Path(value).name
    return value


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
