"""Shapes, dtypes and numbers as callers say them, checked before they reach compiled code."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from trtlab.errors import InvalidArgument

if TYPE_CHECKING:
    import numpy as np

_IN_ML_DTYPES = ("bfloat16", "float8_e4m3fn")


def extents_of(shape: int | Sequence[int]) -> tuple[int, ...]:
    """Return the extents of ``shape``, or raise InvalidArgument."""
    try:
        extents = tuple(map(operator.index, shape if isinstance(shape, Iterable) else (shape,)))
    except TypeError:
        raise InvalidArgument(f"a shape: expected an int or a sequence of ints, got {shape!r}") from None
    if len(extents) > 8 or any(extent < 0 for extent in extents):
        raise InvalidArgument(f"a shape: expected up to 8 extents >= 0, got {shape!r}")
    # Also if one of them is 0: the others make strides.
    if math.prod(max(extent, 1) for extent in extents) >= 2**60:
        raise InvalidArgument(f"a shape: {list(extents)} has more elements than any memory")
    return extents


def check_whole(what: str, value: int, low: int, high: int) -> int:
    """Return ``value``, or raise InvalidArgument unless it is an int from ``low`` to ``high``."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidArgument(f"{what}: expected an int from {low} to {high}, got {value!r}")
    return value


def dtype_name(dtype: Any) -> str:
    """Return trtlab's name of a dtype as numpy or ml_dtypes takes it, or raise InvalidArgument."""
    if isinstance(dtype, str) and dtype in _IN_ML_DTYPES:
        return dtype
    return str(numpy_dtype(dtype).name)


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """Return numpy's dtype, of ml_dtypes where numpy has none, or raise InvalidArgument."""
    import numpy as np

    if isinstance(dtype, str) and dtype in _IN_ML_DTYPES:
        try:
            import ml_dtypes
        except ImportError:
            raise InvalidArgument(f"numpy has no {dtype} of its own: pip install ml_dtypes") from None
        dtype = getattr(ml_dtypes, dtype)
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        raise InvalidArgument(f"a dtype: expected one of numpy's, or one of {_IN_ML_DTYPES}, got {dtype!r}") from None
    if found.hasobject or found.itemsize == 0 or found.names is not None or not found.isnative:
        raise InvalidArgument(f"a dtype: expected a number's, in this machine's byte order, got {found}")
    return found
