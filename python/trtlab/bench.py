"""A load generator for any model: how long its answers take, how many come, and where the time goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from trtlab._bindings import _core
from trtlab._bindings._core import Histogram, Model
from trtlab.errors import InvalidArgument
from trtlab.manager import check_int, check_seconds, shown

__all__ = ["BenchReport", "InferBench", "Latency", "Progress"]

LOADS = ("closed", "constant", "poisson")


@dataclass(frozen=True)
class Latency:
    """Times in microseconds. Percentiles are within 0.4 % of the true ones; the others are exact."""

    count: int
    mean_us: float
    min_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p99_9_us: float
    max_us: float

    @classmethod
    def of(cls, histogram: Histogram) -> Latency:
        """Read the figures off a histogram of nanoseconds."""
        return cls(
            count=histogram.count,
            mean_us=histogram.mean / 1e3,
            min_us=histogram.min / 1e3,
            p50_us=histogram.percentile(50) / 1e3,
            p90_us=histogram.percentile(90) / 1e3,
            p99_us=histogram.percentile(99) / 1e3,
            p99_9_us=histogram.percentile(99.9) / 1e3,
            max_us=histogram.max / 1e3,
        )


@dataclass(frozen=True)
class Progress:
    """What a run tells while it goes on."""

    phase: str  #: "warm-up", "measure" or "drain"
    elapsed_s: float  #: in this phase
    planned_s: float  #: for this phase; of "drain", the most
    answered: int  #: while warming up: then; later: since
    failed: int


@dataclass(frozen=True)
class BenchReport:
    """What one run measured."""

    load: str
    concurrency: int
    rate: float | None  #: arrivals a second that were asked for; None in a closed loop
    batch: int
    requests: int  #: answered
    failures: int  #: ended with an error, or were refused
    overloaded: int  #: of these, refused because the model's queue was full
    #: Due or made, but not answered in the end; their time until then is in ``latency``, as a lower bound.
    unfinished: int
    first_error: str | None
    elapsed_s: float  #: from the first request to the last answer
    requests_per_second: float
    inferences_per_second: float  #: the same times the batch
    latency: Latency
    #: Open loop: from the scheduled arrival to the call of ``infer``; None in a closed loop. If it is not small, the
    #: load generator or ``concurrency`` was the limit.
    issue_delay: Latency | None
    #: Where an answered request's mean latency went, in microseconds: "queue", "input", "execute", "output" as the
    #: model counted them, and "other" (handing over, and in an open loop the issue delay).
    breakdown_us: dict[str, float]
    #: Means of the requests that a device timed, in microseconds, under trtexec's names: "enqueue" (the host's part of
    #: a launch), and as the device measured them "h2d" (copying inputs), "compute", "d2h" (copying outputs). None if no
    #: request was timed.
    device_us: dict[str, float] | None
    cpu_s: float  #: processor time of the whole process, all threads

    def as_dict(self) -> dict[str, Any]:
        """Return everything as built-in types, for JSON."""
        return dataclasses.asdict(self)


class InferBench:
    """Puts ``model`` under load; every request carries the same ``inputs``.

    Closed loop (the default): ``concurrency`` requests are outstanding, the next goes out when one is answered. What
    does the model sustain? Open loop (with ``rate``): requests arrive at a rate, whether or not earlier ones were
    answered. How long do callers wait? There the time counts from the scheduled arrival, so that a model that stalls
    is charged for everybody who would have come meanwhile ("coordinated omission", Gil Tene, "How NOT to Measure
    Latency", 2013).

    The generator is C++ and needs the GIL only to tell progress. ``inputs`` are taken as by ``Model.infer``, and
    borrowed as long as this object lives. Raises InvalidArgument and NotFound as ``Model.infer`` does.
    """

    def __init__(self, model: Model, inputs: Mapping[str, Any]) -> None:
        if not isinstance(model, Model):
            raise InvalidArgument(f"model: expected a trtlab.Model, got {shown(model)}")
        if not isinstance(inputs, Mapping):
            raise InvalidArgument(
                f"model '{model.name}': expected a mapping of input names to values, got {shown(inputs)}"
            )
        self._native = _core.InferBench(model, dict(inputs))

    def run(
        self,
        *,
        concurrency: int | None = None,
        rate: float | None = None,
        load: str | None = None,
        duration_s: float = 5.0,
        warm_up_s: float = 1.0,
        drain_timeout_s: float = 30.0,
        max_requests: int | None = None,
        batch: int = 1,
        seed: int = 1,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> BenchReport:
        """Warm up, make requests for ``duration_s`` (or ``max_requests`` of them), wait for the answers, and report.

        ``concurrency``: requests outstanding in a closed loop (None: 1); the most that may be in an open loop (None:
        4096). ``load``: "closed", or with ``rate`` (arrivals a second) "poisson" (random, from ``seed``; the default)
        or "constant". ``drain_timeout_s``: how long answers are waited for after the last request. ``batch``:
        inferences in one request, for ``inferences_per_second``. ``on_progress`` is called on this thread, at most ten
        times a second; what it raises ends the run.

        Blocks without the GIL; Ctrl-C ends it. Then, as after a drain that timed out, requests that have not begun are
        cancelled and the others left to themselves. A refused or failed request is counted, and raises nothing.
        Raises InvalidArgument, Closed, Timeout (the warm-up's requests were not answered within ``drain_timeout_s``).
        """
        kind = load if load is not None else ("closed" if rate is None else "poisson")
        if kind not in LOADS:
            raise InvalidArgument(f"load: expected one of {', '.join(LOADS)}, got {shown(load)}")
        is_open = kind != "closed"
        if is_open != (rate is not None):
            raise InvalidArgument(
                f"rate: a load that is {kind!r} {'needs one' if is_open else 'has none'}, got {shown(rate)}"
            )
        if rate is not None and (not isinstance(rate, Real) or abs(rate) > 1e300):
            raise InvalidArgument(f"rate: expected a number of arrivals a second above 0, got {shown(rate)}")
        if concurrency is None:
            concurrency = 4096 if is_open else 1
        for name, value, least in (
            ("concurrency", concurrency, 1),
            ("max_requests", max_requests, 1),
            ("batch", batch, 1),
            ("seed", seed, 0),
        ):
            if value is not None:
                check_int(name, value, least)
        for name, time_s in (
            ("warm_up_s", warm_up_s),
            ("duration_s", duration_s),
            ("drain_timeout_s", drain_timeout_s),
        ):
            check_seconds(name, time_s)
        if on_progress is not None and not callable(on_progress):
            raise InvalidArgument(f"on_progress: expected a callable or None, got {shown(on_progress)}")

        def tell(phase: str, elapsed_s: float, planned_s: float, answered: int, failed: int) -> None:
            if on_progress is not None:
                on_progress(Progress(phase, elapsed_s, planned_s, answered, failed))

        found = self._native.run(
            load=kind,
            concurrency=concurrency,
            rate=0.0 if rate is None else float(rate),
            warm_up_s=float(warm_up_s),
            duration_s=float(duration_s),
            drain_timeout_s=float(drain_timeout_s),
            max_requests=max_requests or 0,
            batch=batch,
            seed=seed,
            on_progress=None if on_progress is None else tell,
        )
        latency = Latency.of(found["latency"])
        completed = found["completed"]
        stages = ("queue", "input", "execute", "output")
        breakdown = {stage: found[f"{stage}_s"] / completed * 1e6 if completed else 0.0 for stage in stages}
        breakdown["other"] = max(0.0, latency.mean_us - sum(breakdown.values())) if completed else 0.0
        timed = found["device_timed"]
        parts = ("enqueue", "h2d", "compute", "d2h")
        return BenchReport(
            load=kind,
            concurrency=concurrency,
            rate=rate,
            batch=batch,
            requests=found["requests"],
            failures=found["failures"],
            overloaded=found["overloaded"],
            unfinished=found["unfinished"],
            first_error=found["first_error"] or None,
            elapsed_s=found["elapsed_s"],
            requests_per_second=found["requests_per_second"],
            inferences_per_second=found["inferences_per_second"],
            latency=latency,
            issue_delay=Latency.of(found["issue_delay"]) if is_open else None,
            breakdown_us=breakdown,
            device_us={part: found[f"{part}_s"] / timed * 1e6 for part in parts} if timed else None,
            cpu_s=found["cpu_s"],
        )
