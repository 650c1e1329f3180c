"""Values of packs as JSON has them."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any

LARGEST = sys.float_info.max


def plain(value: Any) -> Any:
    """A value as JSON has it: what JSON cannot say is told as text, infinity as the largest number, NaN as null."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else (None if math.isnan(value) else math.copysign(LARGEST, value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in list(value)]
    if isinstance(value, set | frozenset):
        return sorted((plain(one) for one in value), key=str)
    return str(value)
