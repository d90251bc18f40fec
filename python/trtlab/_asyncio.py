"""How finished requests reach Python: event loops, and the thread that runs done-callbacks."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Callable, Generator
from typing import Any

from trtlab._bindings._core import Completions, Future, Lease, LeaseRequest, Pool, _close_all, _report_unraisable


class _LoopBridge:
    """One eventfd for one running loop: any number of futures that finish between two ticks wake it once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.completions = Completions()
        loop.add_reader(self.completions.fileno(), self.deliver)

    def deliver(self) -> None:
        for waiter in self.completions.take():
            if not waiter.done():
                waiter.set_result(None)


# A bridge belongs to its loop, as the loop's reader, and to nobody else: what finishes after the loop was closed would
# keep the loop alive through it.
_bridges: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_LoopBridge]] = weakref.WeakKeyDictionary()
_recent = threading.local()


def _bridge() -> tuple[asyncio.AbstractEventLoop, _LoopBridge]:
    loop = asyncio.get_running_loop()
    known: tuple[Any, Any] | None = getattr(_recent, "known", None)
    if known is not None and known[0]() is loop and (bridge := known[1]()) is not None:
        return loop, bridge
    of_loop = _bridges.get(loop)
    bridge = of_loop() if of_loop is not None else None
    if bridge is None:
        bridge = _LoopBridge(loop)
        _bridges[loop] = weakref.ref(bridge)
    _recent.known = (weakref.ref(loop), weakref.ref(bridge))
    return loop, bridge


def wait(future: Future) -> Generator[Any, None, Any]:
    """Implement ``await future``: suspend until it is done, and return its result."""
    if not future.done():
        loop, bridge = _bridge()
        waiter = loop.create_future()
        bridge.completions.watch(future, waiter)
        try:
            yield from waiter
        except asyncio.CancelledError:
            future.cancel()
            raise
    return future.result(0)


class Acquisition:
    """A lease to come from a pool: ``async with`` it to use the item, or await it for the lease."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._leases: list[Lease] = []

    def __await__(self) -> Generator[Any, None, Lease]:
        lease = self._pool.try_acquire()
        if lease is not None:
            return lease
        loop, bridge = _bridge()
        waiter = loop.create_future()
        request = LeaseRequest(self._pool, bridge.completions, waiter)
        try:
            yield from waiter
        except BaseException:
            request.cancel()
            raise
        return request.lease()

    async def __aenter__(self) -> Any:
        lease = await self
        self._leases.append(lease)
        return lease.item

    async def __aexit__(self, *exc: object) -> None:
        self._leases.pop().release()


class _CallbackThread:
    """Runs done-callbacks one after another, so that no engine's thread ever runs Python."""

    def __init__(self) -> None:
        self.completions = Completions()
        self._thread = threading.Thread(target=self._run, name="trtlab-callbacks", daemon=True)
        self._thread.start()
        atexit.register(self._stop)

    def _run(self) -> None:
        while True:
            finished = self.completions.wait()
            if not finished:
                return
            for future, callback in finished:
                _call(callback, future)
            # Nothing that is done stays alive until the next one comes.
            del finished, future, callback

    def _stop(self) -> None:
        # First what finishes futures: callbacks that send further requests would go on for ever.
        _close_all()
        self.completions.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join()


def _call(callback: Callable[[Future], object], future: Future) -> None:
    try:
        callback(future)
    except BaseException as error:
        # Reported, as concurrent.futures does, and goes no further.
        _report_unraisable(error, future)


_callbacks: _CallbackThread | None = None
_callbacks_lock = threading.Lock()


def call_when_done(future: Future, callback: Callable[[Future], object]) -> None:
    """Implement ``add_done_callback``."""
    global _callbacks
    if future.done():
        _call(callback, future)
        return
    with _callbacks_lock:
        if _callbacks is None:
            _callbacks = _CallbackThread()
    _callbacks.completions.watch(future, (future, callback))


def _after_fork() -> None:
    # Neither the thread nor the loops' eventfds are this process's own.
    global _callbacks, _callbacks_lock
    _callbacks = None
    _callbacks_lock = threading.Lock()
    _bridges.clear()
    _recent.__dict__.clear()


os.register_at_fork(after_in_child=_after_fork)
