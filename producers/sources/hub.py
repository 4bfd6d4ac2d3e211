"""A Hugging Face dataset as files: its Parquet and JSONL files are fetched into the hub's cache and read as any others.

No dataset script of the hub is ever run.
"""

from pathlib import Path

from producers.sources.files import PARQUET, Files
from producers.sources.items import BadSource
from producers.sources.mapping import Fields

_ENDINGS = (*PARQUET, ".jsonl")


def hub_source(repository: str, fields: Fields, max_bytes: int) -> Files:
    """The dataset's files of one split (and config), in the order of their names.

    Args:
        repository: 'owner/name' on the hub.
        fields: the mapping; split, config and revision choose the files.
        max_bytes: as for files.

    Raises:
        BadSource: where it cannot be fetched, or has no such file.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repository,
            repo_type="dataset",
            revision=fields.revision,
            allow_patterns=[f"*{fields.split}*{ending}" for ending in _ENDINGS],
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadSource(f"problems.sources: the hub dataset {repository!r} cannot be fetched: {reason}") from error
    paths = [path for path in sorted(Path(folder).rglob("*")) if _wanted(path.relative_to(folder), fields)]
    if not paths:
        place = f"{fields.config}/" if fields.config else ""
        raise BadSource(f"problems.sources: {repository} has no Parquet or JSONL file named {place}*{fields.split}*")
    return Files(fields.label or repository, paths, fields, max_bytes)


def _wanted(path: Path, fields: Fields) -> bool:
    """Whether a file of the snapshot belongs to the split and config."""
    if path.suffix not in _ENDINGS or fields.split not in str(path):
        return False
    return not fields.config or fields.config in path.parts[:-1]
