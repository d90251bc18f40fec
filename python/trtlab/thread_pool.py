"""Worker threads, as a ``concurrent.futures.Executor``."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, TypeVar

from trtlab._bindings import _core
from trtlab.errors import InvalidArgument

if TYPE_CHECKING:
    from typing_extensions import Self

P = ParamSpec("P")
T = TypeVar("T")

_lock = threading.Lock()  # only for the first time that somebody waits for several futures at once


def _not_negative(timeout: float | None) -> float | None:
    # The standard library's Executor.map asks with what is left of its time, which may be less than none.
    return None if timeout is None else max(timeout, 0)


class TaskFuture(concurrent.futures.Future[T]):
    """The result to come of a task: a ``concurrent.futures.Future`` for whoever takes one, and awaitable.

    All members may be called from any thread; waits release the GIL. Only the pool fulfils it.
    """

    # State and waiting are the native future's. What `concurrent.futures.wait` and `as_completed` look at is made when
    # they first come, and kept by a callback from then on, under the condition that they hold.

    def __init__(self, future: _core.Future) -> None:
        self._future = future
        self._seen: threading.Condition | None = None

    def result(self, timeout: float | None = None) -> T:
        """Wait up to ``timeout`` seconds (None: for ever) and return what the task returned; Ctrl-C ends the wait.

        Raises what the task raised, Cancelled, Closed (the pool dropped it), or Timeout (the task goes on).
        """
        result: T = self._future.result(_not_negative(timeout))
        return result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as ``result`` and return the exception, or None. Raises Cancelled or Timeout."""
        return self._future.exception(_not_negative(timeout))

    def done(self) -> bool:
        """Whether the result, an error or a cancellation is there."""
        return self._future.done()

    def running(self) -> bool:
        """Whether the task is executing."""
        return self._future.running()

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self._future.cancelled()

    def cancel(self) -> bool:
        """Give up a task that has not begun. Returns False if it is too late."""
        return self._future.cancel()

    def add_done_callback(self, fn: Callable[[TaskFuture[T]], object]) -> None:
        """Call ``fn(future)`` once the future is done: at once if it is, else on trtlab's callback thread.

        What it raises is reported through ``sys.unraisablehook``.
        """
        from trtlab import _asyncio  # here, since it imports asyncio

        _asyncio.call_when_done(self._future, lambda _: fn(self))

    def __await__(self) -> Generator[Any, None, T]:
        """Await on the running asyncio loop. Cancelling the awaiting task cancels this one if it has not begun."""
        from trtlab import _asyncio

        return _asyncio.wait(self._future)

    def __repr__(self) -> str:
        return repr(self._future).replace("Future", "TaskFuture", 1)

    if not TYPE_CHECKING:  # for whom it is the attribute that the standard's future has

        @property
        def _condition(self) -> threading.Condition:
            if self._seen is None:
                with _lock:
                    first = self._seen is None
                    if first:
                        self._state, self._waiters = "PENDING", []
                        self._seen = threading.Condition()
                if first:
                    self.add_done_callback(TaskFuture._tell)
            assert self._seen is not None
            return self._seen

    def _tell(self) -> None:
        with self._condition:
            self._state = "CANCELLED_AND_NOTIFIED" if self.cancelled() else "FINISHED"
            for waiter in self._waiters:
                if self.cancelled():
                    waiter.add_cancelled(self)
                elif self.exception(0) is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            self._condition.notify_all()

    def _get_snapshot(self) -> tuple[bool, bool, T | None, BaseException | None]:
        """Return done, cancelled, result, exception: how asyncio reads a future from Python 3.14 on."""
        if not self.done():
            return False, False, None, None
        if self.cancelled():
            return True, True, None, None
        error = self.exception(0)
        return True, False, None if error is not None else self.result(0), error

    def set_running_or_notify_cancel(self) -> NoReturn:
        """Raise InvalidArgument: that is the pool's business."""
        _refuse()

    def set_result(self, result: T) -> NoReturn:
        """Raise InvalidArgument: that is the pool's business."""
        _refuse()

    def set_exception(self, exception: BaseException | None) -> NoReturn:
        """Raise InvalidArgument: that is the pool's business."""
        _refuse()


def _refuse() -> NoReturn:
    raise InvalidArgument("the future of a pool's task is fulfilled by the pool: make a concurrent.futures.Future")


class ThreadPool(concurrent.futures.Executor):
    """Worker threads behind one bounded first-in-first-out queue: a ``concurrent.futures.Executor``.

    Tasks are Python callables and hold the GIL unless what they call releases it.

    ``threads`` 0: one for each CPU that the process may use, of ``cpus`` if given. ``max_queue``: tasks that wait for a
    worker. ``cpus``: where the workers run, as ``trtlab.affinity.CpuSet`` takes it; ``pinning`` "one_each": each on one
    of them in turn, "shared": each on all. A pin that the system refuses is logged, and told by ``pin_refusal``. Raises
    InvalidArgument, OutOfMemory.
    """

    def __init__(
        self,
        threads: int = 0,
        *,
        max_queue: int = 65536,
        name: str = "trtlab",
        cpus: _core.CpuSet | str | Iterable[int] | None = None,
        pinning: Literal["one_each", "shared"] = "one_each",
    ) -> None:
        self._threads = _core.Threads(threads, max_queue, name, cpus, pinning)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[T]:
        """Run ``fn(*args, **kwargs)`` on a worker and return its future.

        Waits while the queue is full, without the GIL. Raises Closed.
        """
        return TaskFuture(self._threads.submit(fn, args, kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse new tasks; run those queued, or cancel them (``cancel_futures``). Idempotent.

        ``wait``: until all workers are gone, without the GIL; not on one of them, which is InvalidArgument. Else who
        lets go of the pool last waits.
        """
        self._threads.shut(cancel_futures)
        if wait:
            self._threads.close(False)

    def close(self, cancel_pending: bool = False) -> None:
        """Run what is queued, or drop it (its futures raise Closed), and join the workers. Idempotent.

        Releases the GIL. Raises InvalidArgument on one of the workers.
        """
        self._threads.close(cancel_pending)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def stats(self) -> dict[str, int]:
        """Return threads, idle, queued, blocked_callers, executed, pinned."""
        return self._threads.stats()

    @property
    def pin_refusal(self) -> str:
        """Why a worker that was to be pinned is not; empty if none."""
        return self._threads.pin_refusal
