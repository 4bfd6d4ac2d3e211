"""What settings are made of: a wrong name or number is refused when the settings are read, not hours later."""

from typing import Annotated

import msgspec

from schemas import plugins

Count = Annotated[int, msgspec.Meta(ge=1)]
"""At least one."""
Positive = Annotated[float, msgspec.Meta(gt=0)]
"""Above zero."""
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
"""Zero or above."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections; unknown keys are refused."""


def named(point: plugins.Point, setting: str, name: str) -> None:
    """Refuse the name of a part that is neither ours nor installed."""
    if why := plugins.unknown(point, name):
        raise ValueError(f"{setting}: {why}")
