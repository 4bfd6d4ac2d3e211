"""`python -m deploy.reference` writes docs/reference/*.md."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from deploy.reference import commands, metrics, settings, tables

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
PAGES: Mapping[str, Callable[[], list[str]]] = MappingProxyType(
    {"settings.md": settings.page, "tables.md": tables.page, "commands.md": commands.page, "metrics.md": metrics.page}
)
MADE = "*Made by `python -m deploy.reference` from the source; change that instead.*"


def files() -> dict[Path, str]:
    """What is written where."""
    return {FOLDER / name: text(page()) for name, page in PAGES.items()}


def text(lines: list[str]) -> str:
    """A page of these lines, the first of which is its title."""
    return "\n".join([lines[0], "", MADE, *lines[1:]]).rstrip() + "\n"


if __name__ == "__main__":
    for path, content in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, "utf-8")
        print(path)
