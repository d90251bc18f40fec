"""How windows of a stream reach an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from trtlab._bindings._core import Future, Window, WindowStream


class windows(AsyncIterator[Window]):
    """Implement ``async for window in stream``."""

    def __init__(self, stream: WindowStream) -> None:
        self._stream = stream
        self._pending: Future | None = None

    async def __anext__(self) -> Window:
        future = self._stream.next_async() if self._pending is None else self._pending
        try:
            window: Window | None = await future
        except asyncio.CancelledError:
            # The window that came at the same moment is not lost: whoever asks next gets it.
            self._pending = None if future.cancelled() else future
            raise
        self._pending = None
        if window is None:
            raise StopAsyncIteration
        return window
