"""In what order settings are tried: one direction after the other, each left at the first step that brings nothing.

For each batch, the smallest first:

1. a lone request: one execution, one buffer. What a request costs when nothing else goes on;
2. more executions, with two buffers each;
3. with those executions, more buffers: four for each, eight; and one more than executions, which costs less memory;
4. graphs off (on the CPU: other numbers of streams).

A step brings something if inferences a second rise by ``GAIN``, within the bound on the latency if there is one. When
the best of a batch brings nothing over the best of the batch before, larger ones are not tried.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from trtlab.errors import InvalidArgument
from trtlab.manager import MOST_EXECUTIONS, check_int, shown
from trtlab.tuning.measurement import Measurement, Setting

__all__ = ["GAIN", "Space", "search"]

GAIN = 0.03

# What is tried where nobody says.
BATCHES = (1, 2, 4, 8, 16, 32)
EXECUTIONS = (1, 2, 3, 4, 8)


@dataclass(frozen=True)
class Space:
    """What may be tried, each in ascending order. ``buffers``: empty for what goes with the executions."""

    batches: tuple[int, ...] = BATCHES
    executions: tuple[int, ...] = EXECUTIONS
    buffers: tuple[int, ...] = ()
    graphs: tuple[bool | None, ...] = (True, False)
    streams: tuple[int | None, ...] = (None,)

    def __post_init__(self) -> None:
        """Raise InvalidArgument for a direction that is empty, or has what is no setting."""
        for name in ("batches", "executions", "graphs", "streams"):
            if not getattr(self, name):
                raise InvalidArgument(f"{name}: expected at least one, got {shown(getattr(self, name))}")
        for name in ("batches", "executions", "buffers", "streams"):
            for value in getattr(self, name):
                if value is not None:
                    check_int(name, value, 1, MOST_EXECUTIONS)
        if self.buffers and max(self.buffers) < min(self.executions):
            raise InvalidArgument(
                f"buffers: an execution needs one, so expected at least {min(self.executions)}, got {max(self.buffers)}"
            )

    def buffers_for(self, executions: int) -> list[int]:
        """Return the numbers of buffers that go with so many executions: the usual one, then more; or none."""
        if self.buffers:
            return [count for count in sorted(set(self.buffers)) if count >= executions]
        return [2 * executions, 4 * executions, 8 * executions]

    @property
    def most(self) -> int:
        """No search measures more settings."""
        buffers = len(self.buffers) or 4
        of_a_batch = 1 + len(self.executions) + buffers + len(self.graphs) + len(self.streams)
        return len(self.batches) * of_a_batch


def score(measurement: Measurement, p99_us: float | None) -> float:
    """Inferences a second; 0 for what is no figure, or beyond the bound."""
    if not measurement.usable or (p99_us is not None and measurement.p99_us > p99_us):
        return 0.0
    return measurement.inferences_per_second


def search(space: Space, p99_us: float | None = None) -> Generator[Setting, Measurement, None]:
    """Yield settings, each once; to be sent what was measured."""
    best = 0.0
    for batch in sorted(set(space.batches)):
        reached = yield from _one_batch(space, batch, p99_us)
        if reached < best * (1 + GAIN) or reached == 0.0:
            return
        best = reached


def _one_batch(space: Space, batch: int, p99_us: float | None) -> Generator[Setting, Measurement, float]:
    graphs, streams = space.graphs[0], space.streams[0]
    climb = _Climb(Setting(batch, 1, 1, graphs, streams), p99_us)
    yield from climb.step(climb.setting)
    if climb.best == 0.0:
        return 0.0  # fails, or is too slow already: what shares the GPU is slower
    first = True
    for executions in sorted(set(space.executions)):
        usual = space.buffers_for(executions)
        if not usual:
            break
        gained = yield from climb.step(Setting(batch, executions, usual[0], graphs, streams))
        # That copies overlap computation may bring nothing, and a second execution much.
        if not gained and not first:
            break
        first = False
    top = climb.setting
    for buffers in space.buffers_for(top.executions)[1:]:
        if not (yield from climb.step(replace(top, buffers=buffers))):
            break
    fewer = top.executions + 1
    if not space.buffers and climb.setting == top and fewer < top.buffers:
        yield from climb.step(replace(top, buffers=fewer))
    for other in space.graphs[1:]:
        yield from climb.step(replace(climb.setting, graphs=other))
    for count in space.streams[1:]:
        if count != climb.setting.executions:
            yield from climb.step(replace(climb.setting, streams=count))
    return climb.best


class _Climb:
    """The best setting so far of one batch."""

    def __init__(self, start: Setting, p99_us: float | None) -> None:
        self.setting = start
        self.best = 0.0
        self._p99_us = p99_us
        self._seen: set[Setting] = set()

    def step(self, setting: Setting) -> Generator[Setting, Measurement, bool]:
        """Measure, stand there if it brings something, and say whether it did."""
        if setting in self._seen:
            return False
        self._seen.add(setting)
        reached = score((yield setting), self._p99_us)
        if reached == 0.0 or reached < self.best * (1 + GAIN):
            return False
        self.setting, self.best = setting, reached
        return True
