"""The mark that a version of the weights leaves when its files are removed: whoever asks for it is told so."""

from pathlib import Path

MARK = "EXPIRED"
"""A file in the version's directory: one sentence, which is also the reason of its row in `filtered`."""


def expired(directory: str | Path) -> str:
    """What the mark says; '' where there is none."""
    try:
        return (Path(directory) / MARK).read_text("utf-8").strip()
    except OSError:
        return ""
