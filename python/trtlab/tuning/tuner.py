"""The search, with measurements: within a time that was given, and with a verdict at its end."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtlab._bindings._core import usable_cpus
from trtlab.errors import InvalidArgument
from trtlab.manager import check_seconds, shown
from trtlab.tuning.limits import Verdict, best_of, limit_of
from trtlab.tuning.measurement import Measurement, Setting
from trtlab.tuning.search import BATCHES, EXECUTIONS, Space, search
from trtlab.tuning.subject import Inputs, Subject

__all__ = ["TuneReport", "explore", "tune"]

# On the CPU one execution uses several cores: few are tried, and whether they do better in one stream.
CPU_EXECUTIONS = (1, 2, 4, 8)
CPU_STREAMS = (None, 1)


@dataclass(frozen=True)
class TuneReport:
    """What was measured, in order, and what follows."""

    measurements: tuple[Measurement, ...]
    verdict: Verdict
    p99_us: float | None  #: the bound on the latency
    complete: bool  #: False: the time that was given ended the search
    elapsed_s: float

    @property
    def best(self) -> Measurement | None:
        """The measurement of the setting that is recommended; None if there is none."""
        return next((one for one in self.measurements if one.setting == self.verdict.best), None)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as built-in types, for JSON."""
        return {
            "measurements": [one.as_dict() for one in self.measurements],
            "verdict": self.verdict.as_dict(),
            "p99_bound_us": self.p99_us,
            "complete": self.complete,
            "elapsed_s": self.elapsed_s,
        }


def explore(
    space: Space,
    measure: Callable[[Setting], Measurement],
    *,
    p99_us: float | None = None,
    budget_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[list[Measurement], bool]:
    """Measure what ``search`` asks for; return the measurements, and whether the search came to its end.

    One more is begun only if one that takes as long as the longest so far still ends within ``budget_s`` seconds; the
    first always is. Raises what ``measure`` does.
    """
    begin = clock()
    found: list[Measurement] = []
    longest = 0.0
    steps = search(space, p99_us)
    setting: Setting | None = next(steps, None)
    while setting is not None:
        started = clock()
        if budget_s is not None and found and started - begin + longest > budget_s:
            steps.close()
            return found, False
        found.append(measure(setting))
        longest = max(longest, clock() - started)
        try:
            setting = steps.send(found[-1])
        except StopIteration:
            setting = None
    return found, True


def tune(
    model: str | os.PathLike[str],
    inputs: Inputs,
    *,
    batches: Sequence[int] | None = None,
    executions: Sequence[int] | None = None,
    buffers: Sequence[int] | None = None,
    graphs: Sequence[bool] = (True, False),
    streams: Sequence[int | None] | None = None,
    p99_s: float | None = None,
    duration_s: float = 2.0,
    warm_up_s: float = 0.5,
    budget_s: float | None = 300.0,
    on_measure: Callable[[Setting], object] | None = None,
    **options: Any,
) -> TuneReport:
    """Find the batch, executions, buffers and graphs (on the CPU: streams) with the most inferences a second.

    ``inputs(model, batch)`` makes a request's inputs. ``p99_s``: settings whose 99th percentile is above are no answer.
    Each setting is measured for ``duration_s`` seconds after ``warm_up_s``, with as many requests outstanding as there
    are buffers; the search (see ``trtlab.tuning.search``) begins nothing that would not end within ``budget_s`` seconds
    (None: no limit). On a GPU, a lone request and the best setting are then measured once more with the GPU's own
    times: timing costs some microseconds a request, and is no part of the throughput. ``on_measure`` is told what is
    about to be measured. ``options``: of ``InferenceManager.load``, such as ``device``, one at a time.

    Blocks until all is measured, without the GIL for most of it. Raises InvalidArgument, and what the first load and
    the first request raise; what goes wrong later is in the measurements.
    """
    for name, value in (("p99_s", p99_s), ("budget_s", budget_s)):
        if value is not None:
            check_seconds(name, value, ", or None")
    check_seconds("duration_s", duration_s)
    check_seconds("warm_up_s", warm_up_s)
    if not callable(inputs):
        raise InvalidArgument(f"inputs: expected a function of a model and a batch, got {shown(inputs)}")
    begin = time.monotonic()
    subject = Subject(Path(model), inputs, duration_s=duration_s, warm_up_s=warm_up_s, **options)
    space = Space(
        batches=subject.batches(tuple(BATCHES if batches is None else batches)),
        executions=tuple(executions or (EXECUTIONS if subject.on_gpu else CPU_EXECUTIONS)),
        buffers=tuple(buffers or ()),
        graphs=tuple(graphs) if subject.on_gpu else (None,),
        streams=(None,) if subject.on_gpu else tuple(streams or CPU_STREAMS),
    )
    p99_us = None if p99_s is None else p99_s * 1e6

    def measure(setting: Setting, timing: bool = False) -> Measurement:
        if on_measure is not None:
            on_measure(setting)
        return subject.measure(setting, timing=timing)

    left = None if budget_s is None else max(0.0, budget_s - (time.monotonic() - begin))
    found, complete = explore(space, measure, p99_us=p99_us, budget_s=left)
    if len(found) == 1 and subject.last_error is not None:
        raise subject.last_error
    best = best_of(found, p99_us)
    if subject.on_gpu and best is not None:
        found = _timed(found, best, lambda setting: measure(setting, timing=True))
    cpus = usable_cpus()
    return TuneReport(
        measurements=tuple(found),
        verdict=limit_of(found, p99_us, copy_engines=subject.copy_engines if subject.on_gpu else 2, cpus=cpus),
        p99_us=p99_us,
        complete=complete,
        elapsed_s=time.monotonic() - begin,
    )


def _timed(found: list[Measurement], best: Measurement, measure: Callable[[Setting], Measurement]) -> list[Measurement]:
    """Add the GPU's own times to the best setting and to the lone request of its batch."""
    lone = next(one for one in found if one.setting.batch == best.setting.batch and one.setting.lone)
    times = {setting: measure(setting).device for setting in {lone.setting: None, best.setting: None}}
    return [dataclasses.replace(one, device=times[one.setting]) if one.setting in times else one for one in found]
