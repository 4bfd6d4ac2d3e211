"""The kinds of numbers that settings are: a wrong one is refused when the settings are read, not hours later."""

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]
"""At least one."""
Positive = Annotated[float, msgspec.Meta(gt=0)]
"""Above zero."""
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
"""Zero or above."""
