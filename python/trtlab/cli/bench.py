"""``trtlab bench``: how many answers a second, how long they take, and where the time goes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import trtlab
from trtlab.bench import BenchReport, InferBench, Progress
from trtlab.cli import terminal
from trtlab.cli.images import ImageOptions
from trtlab.cli.loading import engine_options, json_option, loaded, model_argument, numbers, shape_text, size_option
from trtlab.cli.tensors import blaming, parse_shapes, random_inputs, read_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    Tell = Callable[[Progress], None]


@click.command()
@model_argument
@click.option(
    "--concurrency",
    callback=numbers(int),
    metavar="N[,N...]",
    help="Closed loop: requests outstanding, one run each.  [default: 1, the executions, and twice that]  "
    "Open loop: the most that may be outstanding, one number.  [default: 4096]",
)
@click.option(
    "--rate", "rates", callback=numbers(float), metavar="R[,R...]", help="Open loop: arrivals a second, one run each."
)
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "constant"]),
    default="poisson",
    show_default=True,
    help="Open loop: at random, or evenly spaced.",
)
@click.option(
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds of each run.",
)
@click.option("--warmup", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Seconds before each run.")
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds to wait for the last answers.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Extent of the first axis of every input where that is open.  [default: 1]",
)
@click.option(
    "--shape", "shapes", multiple=True, metavar="[NAME=]1x3x224x224", help="Shape of an input with open axes."
)
@click.option(
    "--input", "inputs", multiple=True, metavar="[NAME=]FILE", help="Real inputs (as of infer) instead of random ones."
)
@size_option
@click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the random inputs and arrivals."
)
@click.option("--executions", type=click.IntRange(min=1), help="Requests that execute at the same time.")
@engine_options
@json_option
def bench(
    model: Path,
    concurrency: tuple[int, ...] | None,
    rates: tuple[float, ...] | None,
    arrivals: str,
    duration: float,
    warmup: float,
    drain: float,
    batch: int | None,
    shapes: tuple[str, ...],
    inputs: tuple[str, ...],
    size: tuple[int, int] | None,
    seed: int,
    executions: int | None,
    as_json: bool,
    **engine: Any,
) -> None:
    """Put MODEL under load.

    Without --rate, so many requests are always outstanding (closed loop): what does the model sustain? With it,
    requests arrive at that rate, come what may (open loop), and their latency counts from the moment at which they
    were due.

    Exits with 1 if requests failed for another reason than a full queue, or none was answered.
    """
    if rates is not None and concurrency is not None and len(concurrency) > 1:
        raise click.UsageError("--concurrency takes one number if --rate is given")
    if inputs and (shapes or batch is not None):
        raise click.UsageError("--shape and --batch are of random inputs; --input takes them from the files")
    with loaded(model, **engine, executions=executions) as (manager, found):
        limits = manager.stats()
        if inputs:
            arrays, guessed = read_inputs(inputs, found, ImageOptions(size=size))
        else:
            arrays, guessed = random_inputs(found, parse_shapes(shapes, found), batch, seed)
        with blaming(guessed):
            found.infer(arrays).result()
        for guess in guessed:
            terminal.note(guess)
        batch_size = _batch_of(found, arrays)
        load = InferBench(found, arrays)
        common: dict[str, Any] = {
            "duration_s": duration,
            "warm_up_s": warmup,
            "drain_timeout_s": drain,
            "batch": batch_size,
            "seed": seed,
        }
        plans: list[dict[str, Any]]
        if rates is not None:
            most = concurrency[0] if concurrency else None
            plans = [{"rate": rate, "load": arrivals, "concurrency": most} for rate in rates]
        else:
            tokens = limits["max_executions"]
            plans = [{"concurrency": count} for count in concurrency or sorted({1, tokens, 2 * tokens})]
        reports = []
        for plan in plans:
            with _progress(_label(plan)) as tell:
                reports.append(load.run(**plan, **common, on_progress=tell))
    if as_json:
        terminal.print_json(_json(model, found, arrays, limits, warmup, reports))
    else:
        _print(model, found, arrays, limits, reports)
    for report in reports:
        _remark(report)
    if any(report.failures > report.overloaded or report.requests == 0 for report in reports):
        raise click.exceptions.Exit(1)


def _batch_of(model: trtlab.Model, arrays: dict[str, Any]) -> int:
    """Inferences in one request: the first extent of the first input, where that is a batch."""
    if model.max_batch_size == 0 or not model.inputs:
        return 1
    return max(1, len(arrays[model.inputs[0].name]))


def _label(plan: dict[str, Any]) -> str:
    if plan.get("rate") is not None:
        return f"{terminal.number(plan['rate'])}/s {plan['load']}"
    return f"{plan['concurrency']} outstanding"


@contextmanager
def _progress(label: str) -> Iterator[Tell | None]:
    """Show a bar on stderr, if that is a terminal, for as long as the block takes."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[answered]} answered"))
    with Bars(*columns, console=terminal.console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, answered=0)

        def tell(progress: Progress) -> None:
            bars.update(
                task,
                description=f"{label}, {progress.phase}",
                total=progress.planned_s or None,
                completed=min(progress.elapsed_s, progress.planned_s),
                answered=progress.answered,
            )

        yield tell


def _print(
    file: Path, model: trtlab.Model, arrays: dict[str, Any], limits: dict[str, int], reports: list[BenchReport]
) -> None:
    shapes = ", ".join(f"{name} {shape_text(_shape(array))}" for name, array in arrays.items())
    print(f"{file} on {model.platform}: {shapes}; {limits['max_executions']} executions, {trtlab.usable_cpus()} CPUs")
    rows = [
        (
            _label({"rate": report.rate, "load": report.load, "concurrency": report.concurrency}),
            terminal.number(report.requests_per_second),
            terminal.number(report.inferences_per_second),
            *(
                terminal.time(getattr(report.latency, f"{figure}_us"))
                for figure in ("mean", "p50", "p90", "p99", "p99_9", "max")
            ),
        )
        for report in reports
    ]
    terminal.print_table(
        ("load", "requests/s", "inferences/s", "mean", "p50", "p90", "p99", "p99.9", "max"),
        rows,
        "Throughput and latency",
    )
    stages = list(reports[0].breakdown_us)
    rows = []
    for report in reports:
        label = _label({"rate": report.rate, "load": report.load, "concurrency": report.concurrency})
        total = sum(report.breakdown_us.values()) or 1.0
        parts = [
            f"{terminal.time(report.breakdown_us[stage])} {report.breakdown_us[stage] / total:4.0%}" for stage in stages
        ]
        rows.append((label, *parts, f"{report.cpu_s / report.elapsed_s:.2f}" if report.elapsed_s else ""))
    terminal.print_table(("load", *stages, "CPUs busy"), rows, "Where a request's time went, on average")


def _remark(report: BenchReport) -> None:
    """Say on stderr what makes the figures mean less than they seem to."""
    label = _label({"rate": report.rate, "load": report.load, "concurrency": report.concurrency})
    if report.failures:
        full = f" ({report.overloaded} because the queue was full)" if report.overloaded else ""
        terminal.note(f"{label}: {report.failures} requests failed{full}; the first: {report.first_error}")
    if report.unfinished:
        terminal.note(
            f"{label}: {report.unfinished} requests were not answered in time; their latencies are lower bounds. "
            "The load is more than the model sustains, or --drain is too short"
        )
    if report.issue_delay is not None and report.issue_delay.p50_us > 0.1 * report.latency.p50_us > 0:
        terminal.note(
            f"{label}: requests went out {terminal.time(report.issue_delay.p50_us)} late in the median: "
            "too few CPUs for the load generator beside the model, or --concurrency is too low"
        )


def _shape(array: Any) -> tuple[int, ...]:
    """Shape of an array, or of nested lists (what bfloat16 is given as)."""
    if isinstance(array, list):
        return (len(array), *(_shape(array[0]) if array else ()))
    return tuple(getattr(array, "shape", ()))


def _json(
    file: Path,
    model: trtlab.Model,
    arrays: dict[str, Any],
    limits: dict[str, int],
    warmup: float,
    reports: list[BenchReport],
) -> dict[str, Any]:
    from trtlab.cli.doctor import environment

    return {
        "model": {
            "file": str(file),
            "platform": model.platform,
            "inputs": {k: list(_shape(v)) for k, v in arrays.items()},
        },
        "limits": {key: limits[key] for key in ("max_executions", "max_buffers", "max_queue")},
        "warm_up_s": warmup,
        "environment": environment(),
        "runs": [report.as_dict() for report in reports],
    }
