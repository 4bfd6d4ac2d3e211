"""Which code makes rows today, without git: a replay's rows name it, so that one can tell what made what."""

import hashlib
from importlib.metadata import version
from pathlib import Path

FOLDERS = ("schemas", "processors")
"""Everything that decides what a stage makes of its input lies here."""


def code_version() -> str:
    """The package's version and the first 12 hex digits of a sha256 over these folders' source files: '0.1.0+1f2e...'.

    A changed comment changes it, too: two rows of one version were made by the same code, two of different versions
    perhaps by code that does the same.
    """
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for file in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py")):
        data = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()}:{len(data)}:".encode())
        digest.update(data)
    return f"{version('astro-factory')}+{digest.hexdigest()[:12]}"
