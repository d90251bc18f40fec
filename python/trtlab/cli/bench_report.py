"""What ``trtlab bench`` says of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trtlab
from trtlab.bench import BenchReport
from trtlab.cli import terminal
from trtlab.cli.loading import on_gpu, shape_text

GRAPH_COUNTERS = ("graph_hits", "graph_misses", "graph_captures", "graphs_refused")


@dataclass(frozen=True)
class Run:
    """A report, and what became of CUDA graphs meanwhile; nothing where there are none."""

    report: BenchReport
    graphs: dict[str, int]


class Subject:
    """What was put under load, and how; holds no model."""

    def __init__(
        self,
        file: Path,
        model: trtlab.Model,
        shapes: Mapping[str, tuple[int, ...]],
        limits: Mapping[str, Any],
        place: str,
        outputs: str,
    ) -> None:
        self.file, self.platform, self.on_gpu = file, model.platform, on_gpu(model)
        self.shapes, self.limits = shapes, limits
        self.place, self.outputs = place, outputs
        self.devices = list(limits["devices"]) if self.on_gpu else ["cpu"]


def label(plan: Mapping[str, Any]) -> str:
    """Name a run by its load."""
    if plan.get("rate") is not None:
        return f"{terminal.number(plan['rate'])}/s {plan['load']}"
    return f"{plan['concurrency']} outstanding"


def shape_of(array: Any) -> tuple[int, ...]:
    """Return the shape of an array, or of nested lists (what numpy lacks is given as)."""
    if isinstance(array, list):
        return (len(array), *(shape_of(array[0]) if array else ()))
    return tuple(getattr(array, "shape", ()))


def print_report(subject: Subject, runs: list[Run]) -> None:
    """Print tables."""
    shapes = ", ".join(f"{name} {shape_text(shape)}" for name, shape in subject.shapes.items())
    where = f"{subject.platform} ({', '.join(subject.devices)})" if subject.on_gpu else subject.platform
    limits = f"{subject.limits['max_executions']} executions"
    if subject.on_gpu:
        limits += f", {subject.limits['max_buffers']} buffers, inputs {subject.place}, outputs {subject.outputs}"
    print(f"{subject.file} on {where}: {shapes}; {limits}, {trtlab.usable_cpus()} CPUs")
    names = [_label(run) for run in runs]
    figures = ("mean", "p50", "p90", "p99", "p99_9", "max")
    terminal.print_table(
        ("load", "requests/s", "inferences/s", "mean", "p50", "p90", "p99", "p99.9", "max"),
        [
            (
                name,
                terminal.number(run.report.requests_per_second),
                terminal.number(run.report.inferences_per_second),
                *(terminal.time(getattr(run.report.latency, f"{figure}_us")) for figure in figures),
            )
            for name, run in zip(names, runs, strict=True)
        ],
        "Throughput and latency",
    )
    stages = list(runs[0].report.breakdown_us)
    rows = []
    for name, run in zip(names, runs, strict=True):
        parts = run.report.breakdown_us
        total = sum(parts.values()) or 1.0
        busy = f"{run.report.cpu_s / run.report.elapsed_s:.2f}" if run.report.elapsed_s else ""
        rows.append((name, *(f"{terminal.time(parts[one])} {parts[one] / total:4.0%}" for one in stages), busy))
    terminal.print_table(("load", *stages, "CPUs busy"), rows, "Where a request's time went, on average")
    if subject.on_gpu:
        _print_gpu(names, runs)


def _print_gpu(names: list[str], runs: list[Run]) -> None:
    parts = ("enqueue", "h2d", "compute", "d2h")
    rows = []
    for name, run in zip(names, runs, strict=True):
        times = run.report.device_us
        launched = run.graphs["graph_hits"] + run.graphs["graph_misses"] if run.graphs else 0
        rows.append(
            (
                name,
                *(terminal.time(times[part]) if times is not None else "" for part in parts),
                f"{run.graphs['graph_hits'] / launched:.0%}" if launched else "",
                *(str(run.graphs[counter]) if run.graphs else "" for counter in GRAPH_COUNTERS),
            )
        )
    terminal.print_table(
        ("load", "enqueue", "H2D", "compute", "D2H", "by graph", "hits", "misses", "captures", "refused"),
        rows,
        "On the GPU: times of a request on average, by events, in a run of their own; launches by CUDA graphs",
    )


def remark(report: BenchReport) -> None:
    """Say on stderr what makes the figures mean less than they seem to."""
    name = label(vars(report))
    if report.failures:
        full = f" ({report.overloaded} because the queue was full)" if report.overloaded else ""
        terminal.note(f"{name}: {report.failures} requests failed{full}; the first: {report.first_error}")
    if report.unfinished:
        terminal.note(
            f"{name}: {report.unfinished} requests were not answered in time; their latencies are lower bounds. "
            "The load is more than the model sustains, or --drain is too short"
        )
    if report.issue_delay is not None and report.issue_delay.p50_us > 0.1 * report.latency.p50_us > 0:
        terminal.note(
            f"{name}: requests went out {terminal.time(report.issue_delay.p50_us)} late in the median: "
            "too few CPUs for the load generator beside the model, or --concurrency is too low"
        )


def report_json(subject: Subject, warmup: float, runs: list[Run]) -> dict[str, Any]:
    """Return everything that is known."""
    from trtlab.cli.doctor import environment

    return {
        "model": {
            "file": str(subject.file),
            "platform": subject.platform,
            "devices": subject.devices,
            "inputs": {name: list(shape) for name, shape in subject.shapes.items()},
        },
        "limits": {key: subject.limits[key] for key in ("max_executions", "max_buffers", "max_queue")},
        "placement": {"inputs": subject.place, "outputs": subject.outputs} if subject.on_gpu else None,
        "warm_up_s": warmup,
        "environment": environment(),
        "runs": [{**run.report.as_dict(), "graphs": run.graphs or None} for run in runs],
    }


def _label(run: Run) -> str:
    return label(vars(run.report))
