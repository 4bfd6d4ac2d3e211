"""The code blocks of a page of docs/, and a package made of those that name a file: installed by its metadata alone."""

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    language: str
    text: str
    file: str
    """What its first line names, as in '# my_parts/squares.py'; '' = none."""


def blocks(page: str) -> list[Block]:
    found = []
    for language, text in BLOCK.findall((ROOT / "docs" / page).read_text("utf-8")):
        named = re.match(r"# (\S+\.\w+)\n", text)
        found.append(Block(language, text, named[1] if named else ""))
    return found


def install(page: str, place: Path) -> None:
    """Write the page's files below `place`, and the metadata that an installer would make of its pyproject.toml."""
    files = {block.file: block.text for block in blocks(page) if block.file}
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, "utf-8")
    project = tomllib.loads(files["pyproject.toml"])["project"]
    entries = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in parts.items())
        for group, parts in project["entry-points"].items()
    )
    metadata(place, project["name"], project["version"], entries)


def metadata(place: Path, name: str, version: str, entries: str) -> None:
    folder = place / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
    (folder / "entry_points.txt").write_text(entries, "utf-8")
