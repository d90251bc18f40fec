"""Values that are not arrays yet, or whose element type Python's buffer protocol cannot say.

The compiled side calls this off the hot path only, so numpy is imported when the first such value comes.
"""

from __future__ import annotations

from typing import Any

from trtlab._layout import numpy_dtype
from trtlab.errors import EngineError, InvalidArgument

_MAX_RANK = 8

#: What numpy lacks, and has through the package ml_dtypes -> the dtype of its bits.
BITS = {"bfloat16": "uint16", "float8_e4m3fn": "uint8"}


def _refuse(model: str, direction: str, name: str, expected: str, problem: str) -> InvalidArgument | EngineError:
    message = f"model '{model}', {direction} '{name}': expected {expected}, got {problem}"
    if direction == "output":  # the caller of `infer` gave nothing wrong
        return EngineError(f"{message} (returned by the model's function)")
    return InvalidArgument(message)


def as_array(value: Any, dtype: str, model: str, direction: str, name: str, expected: str) -> Any:
    """Return ``value`` as an array of ``dtype`` (what numpy lacks: its bits), or raise InvalidArgument.

    Arrays keep their dtype: a wrong one is refused, never converted. Scalars and nested lists take the wanted one if
    nothing is lost: ints fit floats and smaller ints by value, floats do not become ints.
    """
    import numpy as np

    def refuse(problem: str) -> InvalidArgument | EngineError:
        return _refuse(model, direction, name, expected, problem)

    if hasattr(value, "__array_interface__") or hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.name == dtype:
            return array.view(BITS[dtype]) if dtype in BITS else array
        raise refuse(
            f"{array.dtype}{list(array.shape)}: convert it to {dtype}"
            + (" (numpy has it through the package ml_dtypes)" if dtype in BITS else "")
        )
    if not isinstance(value, (bool, int, float, list, tuple)):
        raise refuse(f"a {type(value).__name__}: pass an array, a number or nested lists of numbers")
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise refuse(f"nested lists that make no array: {error}") from None
    if array.dtype.kind not in "biuf":
        if array.size == 0:
            array = array.astype(np.float64)
        else:
            raise refuse(f"values that are no numbers (numpy reads them as {array.dtype})")
    if dtype == "bfloat16":
        return _bfloat16_bits(array)
    if dtype == "float8_e4m3fn":
        bits = _float8_bits(array)
        if bits is None:
            raise refuse(f"values that {dtype} cannot hold without loss: its largest is 448")
        return bits
    wanted = np.dtype(dtype)
    if wanted.kind in "iub" and array.dtype.kind == "f" and array.size > 0:
        raise refuse(f"{array.dtype} values, which {dtype} cannot hold without loss: convert them first")
    with np.errstate(all="ignore"):
        converted = array.astype(wanted)
    # Rounding a float to a shorter one is what everybody expects; turning it into infinity, or rounding an int, is not.
    lossy = np.isinf(converted) & np.isfinite(array) if array.dtype.kind == "f" else converted != array
    if array.size > 0 and np.any(lossy):
        raise refuse(f"values that {dtype} cannot hold without loss")
    return converted


def _bfloat16_bits(array: Any) -> Any:
    """Round to nearest even: bfloat16 is the upper half of a float32."""
    import numpy as np

    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    quieted = np.where(np.isnan(array), np.uint16(0x7FC0), rounded)
    return quieted.reshape(array.shape)


def _float8_bits(array: Any) -> Any:
    """Round to nearest even: 4 bits of exponent with bias 7, 3 of mantissa. None if that loses more than precision."""
    import numpy as np

    codes = np.arange(0x7F)  # 0x7F is NaN, and there is no infinity
    exponents, fractions = codes >> 3, codes & 7
    values = np.where(exponents == 0, fractions * 2.0**-9, (8 + fractions) * 2.0 ** (exponents - 10.0))
    exact = array.astype(np.float64)
    size = np.abs(exact)
    # Halfway between two neighbours the one whose code is even is nearer.
    halves = (values[:-1] + values[1:]) / 2
    below = np.searchsorted(halves, size, side="left")
    bits = below + ((size == halves[np.minimum(below, len(halves) - 1)]) & (below % 2 == 1))
    bits = np.where(np.isnan(exact), 0x7F, bits)
    rounded = values[np.minimum(bits, len(values) - 1)]
    is_int = array.dtype.kind != "f"
    if np.any((rounded != size) & is_int) or np.any(size > values[-1] + 16):  # half of the last step
        return None
    return np.asarray(bits + np.where(np.signbit(exact), 0x80, 0), dtype=np.uint8).reshape(array.shape)


def byte_strings(value: Any, model: str, direction: str, name: str) -> tuple[list[bytes], list[int]]:
    """Return the byte strings of ``value`` in row-major order, and its shape. Text becomes UTF-8."""

    def encode(item: Any) -> bytes:
        if isinstance(item, str):
            try:
                return item.encode()
            except UnicodeEncodeError as error:
                raise _refuse(model, direction, name, "bytes", f"text that has no UTF-8 form: {error}") from None
        if isinstance(item, (bytes, bytearray, memoryview)):
            return bytes(item)
        raise _refuse(
            model, direction, name, "bytes", f"a {type(item).__name__}: elements are bytes (or str, as UTF-8)"
        )

    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return [encode(value)], []
    if hasattr(value, "__array__") and not isinstance(value, (list, tuple)):
        import numpy as np

        try:
            array = np.asarray(value)
        except (TypeError, ValueError) as error:  # in a GPU's memory, for example
            raise _refuse(
                model, direction, name, "bytes", f"a {type(value).__name__} that numpy cannot read: {error}"
            ) from None
        if array.dtype.kind not in "SUO":
            raise _refuse(model, direction, name, "bytes", f"{array.dtype}{list(array.shape)}: use a dtype of strings")
        return [encode(item) for item in array.ravel().tolist()], list(array.shape)

    items: list[bytes] = []

    def walk(part: Any, rank: int = 0) -> list[int]:
        if not isinstance(part, (list, tuple)):
            items.append(encode(part))
            return []
        if rank == _MAX_RANK:
            raise _refuse(model, direction, name, "bytes", f"lists nested deeper than {_MAX_RANK} axes")
        inner = [walk(child, rank + 1) for child in part]
        if any(shape != inner[0] for shape in inner):
            raise _refuse(model, direction, name, "bytes", "nested lists of unequal lengths")
        return [len(part), *(inner[0] if inner else [])]

    shape = walk(value)
    return items, shape


def to_numpy(tensor: Any) -> Any:
    """Return a numpy array over the tensor's memory; see ``Tensor.numpy``."""
    import numpy as np

    if tensor.dtype == "bytes":
        strings = np.empty(tensor.size, dtype=object)
        strings[:] = tensor._byte_strings()
        return strings.reshape(tensor.shape)
    if tensor.dtype in BITS:
        try:
            import ml_dtypes
        except ImportError:
            raise InvalidArgument(
                f"numpy has no {tensor.dtype} of its own: pip install ml_dtypes, or read the tensor with "
                "torch.from_dlpack"
            ) from None
        bits = np.frombuffer(tensor._bits(), dtype=BITS[tensor.dtype])
        return bits.view(getattr(ml_dtypes, tensor.dtype)).reshape(tensor.shape)
    return np.asarray(memoryview(tensor))


def of_bits(bits: Any, dtype: str) -> Any:
    """Return a numpy array of ``dtype`` over the memory of a tensor of its elements' bits."""
    return to_numpy(bits).view(numpy_dtype(dtype))
