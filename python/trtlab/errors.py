"""What trtlab raises on purpose. Each type also derives from the built-in that one would catch."""

from concurrent.futures import CancelledError as _CancelledError

__all__ = [
    "Cancelled",
    "Closed",
    "CudaError",
    "EngineError",
    "Error",
    "InvalidArgument",
    "NotFound",
    "OutOfMemory",
    "Overloaded",
    "Timeout",
]


class Error(Exception):
    """Base of all errors below."""


class InvalidArgument(Error, ValueError):
    """The call can never work as it is: fix its arguments."""


class NotFound(InvalidArgument, LookupError):
    """A name or a path that does not exist."""


class Timeout(Error, TimeoutError):
    """The time given to a wait is over. What was waited for is unharmed."""


class Closed(Error, RuntimeError):
    """The object was closed before or during the call."""


class Cancelled(Error, _CancelledError):
    """The request was cancelled before it ran. Also a ``concurrent.futures.CancelledError``."""


class Overloaded(Error, RuntimeError):
    """A bounded queue stayed full for as long as the caller was ready to wait: shed load or raise the limit."""


class OutOfMemory(Error, MemoryError):
    """Memory could not be had; the message says how much was asked for, and by whom."""


class EngineError(Error, RuntimeError):
    """An inference engine is missing, unusable, or failed; the message carries the engine's own words."""


class CudaError(Error, RuntimeError):
    """A call of CUDA's failed; the message names the call, the device and CUDA's own words.

    ``code`` is CUDA's number of the error. ``device_lost``: this process can use the device no more.
    """

    code: int = 0
    device_lost: bool = False
