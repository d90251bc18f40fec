"""What stopped the best setting from more: in words, with the figures that say so, and what to do about it.

A lone request tells how long each part takes when nothing waits for it. That time, multiplied by the requests a second
that the best setting reached, is the share of time for which the part was in use: a copy engine, the GPU, the host's
thread that launches. What is in use nearly always is the limit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trtlab.tuning.measurement import DeviceTimes, Measurement, Setting
from trtlab.tuning.search import GAIN, score

__all__ = ["LIMITS", "Verdict", "best_of", "limit_of"]

LIMITS = {
    "latency": "the bound on the latency: faster settings break it",
    "copy": "copying between host and GPU",
    "memory": "memory: more does not fit",
    "launch": "launching: the host's part of every request",
    "compute": "computing",
    "untried": "none yet: the last step still brought something",
    "waiting": "waiting: nothing is in use all the time",
    "nothing": "nothing was measured",
}
"""The names of the limits, and what they mean."""

BUSY = 0.85
"""Share of time from which on a part counts as always in use: handing over takes the rest."""
CLOSE = 0.01
"""Figures this near to each other are one: measured again, they may change places."""
GRAPHS_MATTER = 0.15


@dataclass(frozen=True)
class Verdict:
    """Which limit was met. ``because`` and ``advice`` are sentences, ``figures`` what the sentences quote."""

    limit: str  #: a key of `LIMITS`
    best: Setting | None  #: None if no setting can be recommended
    because: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as built-in types, for JSON."""
        return {**dataclasses.asdict(self), "meaning": LIMITS[self.limit]}


def best_of(measurements: Sequence[Measurement], p99_us: float | None = None) -> Measurement | None:
    """Return the one with the most inferences a second within the bound; None if there is none.

    Of those within 1 % of it: the one with the lowest 99th percentile, and then the one that needs least.
    """
    scored = [(score(one, p99_us), one) for one in measurements]
    top = max((value for value, _ in scored), default=0.0)
    near = [one for value, one in scored if value > 0 and value >= (1 - CLOSE) * top]
    return min(near, key=_preference, default=None)


def _preference(one: Measurement) -> tuple[Any, ...]:
    times = dataclasses.astuple(one.device) if one.device else ()
    return (
        one.p99_us,
        one.setting.order(),
        -one.inferences_per_second,
        sum(one.memory_bytes.values()),
        times,
        str(one),
    )


def limit_of(
    measurements: Sequence[Measurement],
    p99_us: float | None = None,
    *,
    copy_engines: int = 2,
    cpus: int | None = None,
) -> Verdict:
    """Say which limit the best of these met; their order does not matter.

    ``copy_engines``: with one, both directions share it. ``cpus``: that the process may use. Where a GPU has timed
    requests of the best setting's batch, and a lone one among them, the verdict is sure; else what is said is what can
    be.
    """
    best = best_of(measurements, p99_us)
    if best is None:
        return _nothing(measurements, p99_us)
    case = _Case(best, measurements, copy_engines, cpus)
    fastest = best_of(measurements)
    if p99_us is not None and fastest is not None and _gain(fastest, best) >= GAIN:
        return case.verdict(
            "latency",
            f"{_rate(fastest)} were reached with {fastest.setting}, at a 99th percentile of "
            f"{_ms(fastest.p99_us)}, beyond the bound of {_ms(p99_us)}",
            advice=("allow more latency, spread the load over more GPUs, or make the model cheaper",),
        )
    for limit in _LIMITS_BY_RANK:
        if (verdict := limit(case)) is not None:
            return verdict
    return case.waiting()


def _nothing(measurements: Sequence[Measurement], p99_us: float | None) -> Verdict:
    slow = [one for one in measurements if one.usable]
    if slow and p99_us is not None:
        least = min(one.p99_us for one in slow)
        return Verdict(
            "latency",
            None,
            (f"no setting keeps the 99th percentile within {_ms(p99_us)}: the least was {_ms(least)}",),
            ("allow more latency, or make a lone request cheaper: a smaller batch, 16-bit precision",),
            {"least_p99_us": least},
        )
    errors = sorted({one.error for one in measurements if one.error is not None})
    return Verdict("nothing", None, tuple(errors), ("measure at least one setting that can be run",))


class _Case:
    """The best measurement among those of its batch, and what follows from them."""

    def __init__(self, best: Measurement, every: Sequence[Measurement], copy_engines: int, cpus: int | None) -> None:
        self.best, self.cpus = best, cpus
        self.same = [one for one in every if one.setting.batch == best.setting.batch]
        self.larger_batch = _larger_batch(best, every)
        self.rate = best.requests_per_second
        timed = [one for one in self.same if one.usable and one.device is not None]
        self.alone = _least([one.device for one in timed if one.device is not None])
        self.on_gpu = best.setting.graphs is not None
        self.figures: dict[str, float] = {"requests_per_second": self.rate}
        if self.alone is not None:
            copies = {"in": self._share(self.alone.h2d_us), "out": self._share(self.alone.d2h_us)}
            self.copy_in, self.copy_out = copies["in"], copies["out"]
            self.copy = sum(copies.values()) if copy_engines < 2 else max(copies.values())
            self.compute = self._share(self.alone.compute_us)
            self.launch = self._share((best.device or self.alone).enqueue_us)
            self.figures |= {
                "copy_in_busy": copies["in"],
                "copy_out_busy": copies["out"],
                "compute_busy": self.compute,
                "launch_busy": self.launch,
            }
            for name, size, time_us in (
                ("copy_in", best.input_bytes, self.alone.h2d_us),
                ("copy_out", best.output_bytes, self.alone.d2h_us),
            ):
                if size > 0 and time_us > 0:
                    self.figures[f"{name}_gb_per_s"] = size / time_us / 1e3
        self.staging = self._share(best.input_us)
        if self.on_gpu:
            self.figures["staging_busy"] = self.staging
        if cpus:
            self.figures["cpus_busy"] = best.cpus_busy / cpus
        self.graphs_gain = self._graphs_gain()
        if self.graphs_gain is not None:
            self.figures["graphs_gain"] = self.graphs_gain

    def _share(self, time_us: float) -> float:
        return self.rate * time_us / 1e6

    def _graphs_gain(self) -> float | None:
        """How much more graphs bring than none, with everything else as in the best setting."""
        setting = self.best.setting
        rates = {
            graphs: max(
                (one.inferences_per_second for one in self.same if one.usable and one.setting == other), default=0.0
            )
            for graphs, other in ((each, dataclasses.replace(setting, graphs=each)) for each in (True, False))
        }
        return rates[True] / rates[False] - 1 if self.on_gpu and rates[True] > 0 and rates[False] > 0 else None

    def beyond(self, usable: bool) -> list[Measurement]:
        """Those with more executions, or as many and more buffers."""
        mine = (self.best.setting.executions, self.best.setting.buffers)
        return [
            one for one in self.same if (one.setting.executions, one.setting.buffers) > mine and one.usable == usable
        ]

    @property
    def rising(self) -> bool:
        """Whether the best has the most executions that were tried, and that brought something over fewer."""
        before = [
            one
            for one in self.same
            if one.usable and one.setting.executions < self.best.setting.executions and not one.setting.lone
        ]
        more = any(one.setting.executions > self.best.setting.executions for one in self.beyond(usable=True))
        return (
            bool(before)
            and not more
            and _gain(self.best, max(before, key=lambda one: one.inferences_per_second)) >= GAIN
        )

    def verdict(self, limit: str, *because: str, advice: Sequence[str]) -> Verdict:
        """Make one of this case's figures."""
        if self.larger_batch and limit not in ("latency", "memory"):
            advice = (self.larger_batch, *advice)
        return Verdict(limit, self.best.setting, because, tuple(advice), self.figures)

    def waiting(self) -> Verdict:
        """Say what is known where nothing is in use all the time."""
        parts = [f"{name} {self.figures[key]:.0%}" for name, key in _PARTS.items() if key in self.figures]
        because = [f"in use: {', '.join(parts)}"] if parts else []
        if self.on_gpu and self.alone is None:
            because.append("the GPU timed no request, so it is not known where the time goes")
        if self.beyond(usable=True):
            because.append("more executions and buffers bring nothing")
        advice = ["see where a request's time goes with trtlab bench"]
        if self.on_gpu:
            advice.insert(0, "a larger batch gives the GPU more to do for each request that is handed over")
        elif self.cpus:
            advice.insert(
                0, "if memory bandwidth is short: lower precision, a quantized model, less beside it on the machine"
            )
        return self.verdict("waiting", *because, advice=advice)


_PARTS = {
    "copies in": "copy_in_busy",
    "copies out": "copy_out_busy",
    "the GPU": "compute_busy",
    "the launching thread": "launch_busy",
    "CPUs": "cpus_busy",
}


def _copy(case: _Case) -> Verdict | None:
    if case.alone is None or case.copy < BUSY:
        return None
    because = []
    for name, share, time_us, key in (
        ("inputs", case.copy_in, case.alone.h2d_us, "copy_in_gb_per_s"),
        ("outputs", case.copy_out, case.alone.d2h_us, "copy_out_gb_per_s"),
    ):
        speed = f", {case.figures[key]:.1f} GB/s" if key in case.figures else ""
        because.append(
            f"copying {name} takes {_us(time_us)} a request{speed}, {share:.0%} of the time at {case.rate:.0f} "
            "requests/s"
        )
    return case.verdict(
        "copy",
        *because,
        advice=(
            "send fewer bytes: uint8 pixels that the model converts, 16-bit values, outputs reduced inside the model",
            "keep tensors on the GPU from one model to the next: arrays there as inputs, outputs='device'",
            "spread the load over GPUs that have their own PCIe lanes",
        ),
    )


def _memory(case: _Case) -> Verdict | None:
    refused = [one for one in case.beyond(usable=False) if one.out_of_memory]
    if not refused or case.beyond(usable=True):
        return None
    least = min(refused, key=lambda one: (one.setting.order(), one.error or ""))
    return case.verdict(
        "memory",
        f"{least.setting} does not fit: {least.error}",
        advice=(
            "free memory: a smaller largest shape in the profiles, 16-bit weights, weights='managed', other processes",
        ),
    )


def _launch(case: _Case) -> Verdict | None:
    if case.alone is None or case.launch < BUSY:
        return None
    return case.verdict(
        "launch",
        f"launching takes the host {_us((case.best.device or case.alone).enqueue_us)} a request, {case.launch:.0%} of "
        f"a thread at {case.rate:.0f} requests/s",
        advice=_LAUNCH_LESS,
    )


def _compute(case: _Case) -> Verdict | None:
    more = "" if case.rising or not case.beyond(usable=True) else "; more executions bring nothing"
    if case.alone is not None and case.compute >= BUSY and not case.rising:
        return case.verdict(
            "compute",
            f"computing takes {_us(case.alone.compute_us)} alone, {case.compute:.0%} of the time at {case.rate:.0f} "
            f"requests/s{' (more than all of it: requests overlap)' if case.compute > 1.05 else ''}{more}",
            *_graphs_words(case),
            advice=("16-bit or 8-bit precision, a smaller model, or more GPUs",),
        )
    if not case.on_gpu and case.cpus and case.figures["cpus_busy"] >= BUSY:
        return case.verdict(
            "compute",
            f"{case.best.cpus_busy:.1f} of {case.cpus} CPUs are busy{more}",
            advice=("precision='auto', a quantized or smaller model, more CPUs, or a GPU",),
        )
    return None


def _launch_by_graphs(case: _Case) -> Verdict | None:
    if case.rising or case.graphs_gain is None or case.graphs_gain < GRAPHS_MATTER:
        return None
    return case.verdict("launch", *_graphs_words(case), advice=_LAUNCH_LESS)


def _staging(case: _Case) -> Verdict | None:
    if not case.on_gpu or case.rising or case.staging < BUSY:
        return None
    return case.verdict(
        "copy",
        f"copying inputs into pinned memory takes the host {_us(case.best.input_us)} a request, {case.staging:.0%} of "
        f"a thread at {case.rate:.0f} requests/s",
        advice=(
            "hand in arrays that are pinned (trtlab.cuda.pinned) or on the GPU: nothing is copied on the host then",
        ),
    )


def _untried(case: _Case) -> Verdict | None:
    if not case.rising:
        return None
    return case.verdict(
        "untried",
        f"{case.best.setting.executions} executions, the most that were tried, brought more than fewer",
        advice=("try more executions",),
    )


_LIMITS_BY_RANK: tuple[Callable[[_Case], Verdict | None], ...] = (
    _copy,
    _memory,
    _launch,
    _compute,
    _launch_by_graphs,
    _staging,
    _untried,
)
_LAUNCH_LESS = (
    "a larger batch: one launch for more inferences",
    "let graphs be replayed: shapes that recur, graphs not turned off, max_graphs large enough",
)


def _graphs_words(case: _Case) -> tuple[str, ...]:
    if case.graphs_gain is None or case.graphs_gain < GRAPHS_MATTER:
        return ()
    return (f"graphs bring {case.graphs_gain:.0%} more: without them launching is the limit",)


def _larger_batch(best: Measurement, every: Sequence[Measurement]) -> str:
    """What to say if the largest batch that was tried is the best, by more than chance."""
    batch = best.setting.batch
    smaller = [one for one in every if one.usable and one.setting.batch < batch]
    if not smaller or any(one.setting.batch > batch for one in every):
        return ""
    nearest = max(one.setting.batch for one in smaller)
    before = max(one.inferences_per_second for one in smaller if one.setting.batch == nearest)
    gain = best.inferences_per_second / before - 1
    if gain < GAIN:
        return ""
    return f"try larger batches: {batch}, the largest tried, brought {gain:.0%} more inferences/s than {nearest}"


def _least(times: Sequence[DeviceTimes]) -> DeviceTimes | None:
    if not times:
        return None
    return DeviceTimes(*(min(column) for column in zip(*map(dataclasses.astuple, times), strict=True)))


def _gain(one: Measurement, other: Measurement) -> float:
    return one.inferences_per_second / other.inferences_per_second - 1


def _rate(one: Measurement) -> str:
    return f"{one.inferences_per_second:.0f} inferences/s"


def _us(time_us: float) -> str:
    return f"{time_us:.1f} us"


def _ms(time_us: float) -> str:
    return f"{time_us / 1e3:.3g} ms"
