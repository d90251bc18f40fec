"""What the builder says while it works: its log lines, and how far it is.

Both come through calls from C++, perhaps on its own threads. An exception that got out of such a call would end the
process, so none does: the first is kept, the build is told to stop, and the exception is raised when it has.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Listener", "Progress", "listen"]

_MOST_LINES = 200
_MOST_LINE = 2000
# Said of every failure by the C++ below the binding; the line before it has the reason.
_NOISE = ("catchCudaError", "Thread context has not been set", "getHardwareCompatibilityLevel() is unsupported")


@dataclass(frozen=True)
class Progress:
    """How far a build is: ``fraction`` of the whole, from 0 to 1, never falling; and the phase that has just moved."""

    fraction: float
    phase: str
    parent: str | None
    step: int
    steps: int


class Listener:
    """Collects the log lines and the progress of one build.

    Threads: any. The user's ``on_progress`` is called without a lock, on whichever thread the builder uses.
    """

    def __init__(self, on_progress: Callable[[Progress], object] | None = None) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._problems: deque[str] = deque(maxlen=_MOST_LINES)
        self._errors = 0
        self._stack: dict[str, list[Any]] = {}
        self._fraction = 0.0
        self.failure: BaseException | None = None
        self.cancelled = False

    def line(self, severity: int, text: str) -> None:
        """Keep a line of the log: 0 and 1 are errors, 2 is a warning, the rest is told to nobody."""
        if severity > 2 or any(noise in text for noise in _NOISE):
            return
        with self._lock:
            self._errors += severity < 2
            self._problems.append(f"{'error' if severity < 2 else 'warning'}: {text.strip()[:_MOST_LINE]}")

    @property
    def lines(self) -> tuple[str, ...]:
        """The last warnings and errors."""
        with self._lock:
            return tuple(self._problems)

    def words(self, most: int = 4000) -> str:
        """Return the log for the end of a message: errors, and warnings if there are no errors."""
        lines = self.lines
        lines = tuple(line for line in lines if line.startswith("error")) or lines
        text = "\n".join(lines)
        return f"\nthe builder's log:\n{text[-most:]}" if text else ""

    def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
        """Begin a phase of so many steps inside of another."""
        with self._lock:
            self._stack[phase] = [parent, 0, max(int(steps), 1)]
        self._tell(phase)

    def phase_finish(self, phase: str) -> None:
        """End a phase."""
        with self._lock:
            known = self._stack.get(phase)
            if known is not None:
                known[1] = known[2]
        self._tell(phase)
        with self._lock:
            self._stack.pop(phase, None)

    def step_complete(self, phase: str, step: int) -> bool:
        """Note a step that is done; False tells the builder to stop."""
        with self._lock:
            known = self._stack.get(phase)
            if known is not None:
                known[1] = min(int(step) + 1, known[2])
        self._tell(phase)
        return self.failure is None and not self.cancelled

    def fail(self, error: BaseException) -> None:
        """Keep the first exception of a callback."""
        with self._lock:
            if self.failure is None:
                self.failure = error

    def _tell(self, phase: str) -> None:
        with self._lock:
            known = self._stack.get(phase)
            if self._on_progress is None or known is None or self.failure is not None or self.cancelled:
                return
            parent, step, steps = known
            self._fraction = max(self._fraction, self._whole())
            progress = Progress(self._fraction, phase, parent, step, steps)
        if self._on_progress(progress) is False:
            self.cancelled = True

    def _whole(self) -> float:
        """The outermost phase's steps, with what is inside of the step under way as its part."""
        roots = [name for name, (parent, _, _) in self._stack.items() if parent not in self._stack]
        return min(1.0, max((self._inside(name, 0) for name in roots), default=0.0))

    def _inside(self, phase: str, depth: int) -> float:
        _, step, steps = self._stack[phase]
        children = [name for name, (parent, _, _) in self._stack.items() if parent == phase and name != phase]
        part = max((self._inside(name, depth + 1) for name in children), default=0.0) if depth < 20 else 0.0
        return float(min(1.0, (step + (part if step < steps else 0.0)) / steps))


class _Exchange:
    """One logger for a library in a process: the library keeps the first that it meets, so that one never goes.

    A line belongs to the build of the thread that says it; what threads of the library say goes to all builds.
    """

    def __init__(self, module: Any) -> None:
        self._listeners: dict[int, Listener] = {}
        exchange = self

        class Logger(module.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                module.ILogger.__init__(self)

            def log(self, severity: Any, message: Any) -> None:
                try:
                    exchange.line(int(severity), str(message))
                except BaseException as error:  # Ctrl-C among others
                    exchange.fail(error)

        self.logger = Logger()

    def line(self, severity: int, text: str) -> None:
        for listener in self._those():
            listener.line(severity, text)

    def fail(self, error: BaseException) -> None:
        for listener in self._those():
            listener.fail(error)

    def _those(self) -> list[Listener]:
        own = self._listeners.get(threading.get_ident())
        return [own] if own is not None else list(self._listeners.copy().values())

    def enter(self, listener: Listener) -> Listener | None:
        before = self._listeners.get(threading.get_ident())
        self._listeners[threading.get_ident()] = listener
        return before

    def leave(self, before: Listener | None) -> None:
        if before is None:
            self._listeners.pop(threading.get_ident(), None)
        else:
            self._listeners[threading.get_ident()] = before


_exchanges: dict[str, tuple[Any, _Exchange]] = {}
_exchanges_lock = threading.Lock()


class listen:  # noqa: N801 (a context manager, named like the verb that it is)
    """Route what a library says on this thread to a listener for the length of the block; the value is its logger."""

    def __init__(self, module: Any, listener: Listener) -> None:
        self._listener = listener
        with _exchanges_lock:
            known = _exchanges.get(module.__name__)
            if known is None or known[0] is not module:
                known = _exchanges[module.__name__] = (module, _Exchange(module))
        self._exchange = known[1]

    def __enter__(self) -> Any:
        self._before = self._exchange.enter(self._listener)
        return self._exchange.logger

    def __exit__(self, *_: object) -> None:
        self._exchange.leave(self._before)


def monitor(module: Any, listener: Listener) -> Any:
    """Return an IProgressMonitor that tells the listener; None where the library has none."""
    if not hasattr(module, "IProgressMonitor"):
        return None

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: Any, parent_phase: Any, num_steps: Any) -> None:
            try:
                listener.phase_start(str(phase_name), None if parent_phase is None else str(parent_phase), num_steps)
            except BaseException as error:
                listener.fail(error)

        def phase_finish(self, phase_name: Any) -> None:
            try:
                listener.phase_finish(str(phase_name))
            except BaseException as error:
                listener.fail(error)

        def step_complete(self, phase_name: Any, step: Any) -> bool:
            try:
                return listener.step_complete(str(phase_name), step)
            except BaseException as error:
                listener.fail(error)
                return False

    return Monitor()
