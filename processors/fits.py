"""Whether a directory's weights fit the model that is loaded, told from the files' headers alone.

vLLM changes its weights in place: one tensor of the wrong shape, or a file cut short, leaves a model that is half of
each and that no later load repairs. So nothing is handed to it that cannot succeed.
"""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from processors.expired import expired
from processors.policy import ProbeFailed, UnknownWeights

TIED = "lm_head.weight"
"""May be left out: a model that ties its embeddings stores them once."""


def shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape, by name.

    Raises:
        SafetensorError: a file that is cut short or none of the kind.
    """
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return found


def check_fit(path: str, like: str) -> None:
    """Pass when the weights at `path` have the tensors of those at `like`, both directories (a hub name passes).

    Raises:
        UnknownWeights: there are none at `path`.
        ProbeFailed: they do not fit; the text names the first tensor that does not.
    """
    directory, model = Path(path), Path(like)
    if directory.is_absolute() and not any(directory.glob("*.safetensors")):
        raise UnknownWeights(f"{path}: no weights there: {expired(path) or 'deleted, or on another machine?'}")
    if not (directory.is_dir() and model.is_dir()):
        return
    try:
        theirs, ours = shapes(directory), shapes(model)
    except (SafetensorError, OSError) as error:
        raise ProbeFailed(f"{path}: these weights cannot be read: {error}") from error
    for name in sorted(ours):
        if name not in theirs and name != TIED:
            raise ProbeFailed(f"{path}: these weights do not fit the model: {name} is missing")
        if theirs.get(name, ours[name]) != ours[name]:
            raise ProbeFailed(
                f"{path}: these weights do not fit the model: {name} is {theirs[name]}, the model's is {ours[name]}"
            )
