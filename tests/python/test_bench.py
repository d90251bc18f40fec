"""trtlab.InferBench: the load generator as Python sees it. Its arithmetic is tested in C++."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trtlab
from trtlab.bench import InferBench, Progress
from trtlab.errors import Closed, InvalidArgument, NotFound, Timeout

# Ends by the number of requests; no machine is too slow for the time.
COUNTED: dict[str, Any] = {"warm_up_s": 0, "duration_s": 3600}

ROW = {"x": np.zeros((1, 4), np.float32)}


@pytest.fixture
def double(manager: trtlab.InferenceManager, double_ir: bytes) -> trtlab.Model:
    return manager.load("double", double_ir)


def test_a_closed_loop_answers_every_request(double: trtlab.Model) -> None:
    report = InferBench(double, ROW).run(concurrency=3, max_requests=200, batch=2, **COUNTED)
    assert (report.load, report.concurrency, report.rate) == ("closed", 3, None)
    assert (report.requests, report.failures, report.overloaded, report.unfinished) == (200, 0, 0, 0)
    assert report.first_error is None
    assert report.issue_delay is None
    assert report.latency.count == 200
    assert report.requests_per_second == pytest.approx(200 / report.elapsed_s)
    assert report.inferences_per_second == pytest.approx(2 * report.requests_per_second)
    assert report.cpu_s > 0


@pytest.mark.parametrize("load", ["poisson", "constant"])
def test_an_open_loop_counts_from_the_schedule(double: trtlab.Model, load: str) -> None:
    report = InferBench(double, ROW).run(rate=5000, load=load, max_requests=100, **COUNTED)
    assert (report.load, report.concurrency, report.rate) == (load, 4096, 5000)
    assert report.requests == 100
    assert report.issue_delay is not None
    assert report.issue_delay.count == 100
    assert report.issue_delay.mean_us < report.latency.mean_us


def test_the_shares_of_the_time_make_up_the_latency(double: trtlab.Model) -> None:
    report = InferBench(double, ROW).run(max_requests=50, **COUNTED)
    assert list(report.breakdown_us) == ["queue", "input", "execute", "output", "other"]
    assert sum(report.breakdown_us.values()) == pytest.approx(report.latency.mean_us)


def test_times_of_a_device_are_there_only_if_a_device_took_them(double: trtlab.Model) -> None:
    assert InferBench(double, ROW).run(max_requests=5, **COUNTED).device_us is None


def test_times_of_a_device_are_means_of_the_requests_that_it_timed(
    double: trtlab.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = InferBench(double, ROW)
    run = bench._native.run

    class OnADevice:
        @staticmethod
        def run(**options: Any) -> dict[str, Any]:
            timed = {"device_timed": 4, "enqueue_s": 4e-6, "h2d_s": 8e-6, "compute_s": 4e-4, "d2h_s": 0.0}
            return {**run(**options), **timed}

    monkeypatch.setattr(bench, "_native", OnADevice)
    report = bench.run(max_requests=5, **COUNTED)
    assert report.device_us == pytest.approx({"enqueue": 1, "h2d": 2, "compute": 100, "d2h": 0})
    assert report.as_dict()["device_us"] == report.device_us


def test_a_report_becomes_json(double: trtlab.Model) -> None:
    report = InferBench(double, ROW).run(rate=5000, max_requests=5, **COUNTED)
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["latency"]["count"] == 5


def test_a_model_written_in_python_can_be_benched() -> None:
    # It needs the GIL to answer: a run that held it would never end.
    model = trtlab.FunctionModel(
        lambda x: {"y": 2 * x.numpy()},
        inputs=[trtlab.TensorSpec("x", "float32", (None, 4))],
        outputs=[trtlab.TensorSpec("y", "float32", (None, 4))],
    )
    with model:
        assert InferBench(model, ROW).run(concurrency=4, max_requests=50, **COUNTED).requests == 50


def test_other_threads_run_python_meanwhile(gated: Callable[..., Any]) -> None:
    one = gated()
    opened = threading.Thread(target=lambda: (one.wait_started(), one.gate.set()))
    opened.start()
    assert InferBench(one.model, ROW).run(max_requests=1, **COUNTED).requests == 1
    opened.join()


def test_failed_requests_are_counted_and_the_first_message_is_kept() -> None:
    def refuse(x: trtlab.Tensor) -> None:
        raise KeyError("out of order")

    model = trtlab.FunctionModel(refuse, inputs=[trtlab.TensorSpec("x", "float32", (None, 4))], outputs=[])
    with model:
        report = InferBench(model, ROW).run(max_requests=10, **COUNTED)
    assert (report.requests, report.failures, report.overloaded) == (0, 10, 0)
    assert report.first_error is not None
    assert "out of order" in report.first_error
    assert report.latency.count == 0
    assert not any(report.breakdown_us.values())


def test_an_open_loop_is_turned_away_by_a_full_queue(gated: Callable[..., Any]) -> None:
    one = gated(max_queue=3)

    def tell(progress: Progress) -> None:
        # One executes, three wait, the rest were refused at once.
        if progress.failed == 16:
            one.gate.set()

    report = InferBench(one.model, ROW).run(rate=1e5, max_requests=20, on_progress=tell, **COUNTED)
    assert (report.requests, report.failures, report.overloaded) == (4, 16, 16)


def test_progress_names_the_phase(double: trtlab.Model) -> None:
    told: list[Progress] = []
    InferBench(double, ROW).run(warm_up_s=0.01, duration_s=0.01, on_progress=told.append)
    assert told[0].phase == "warm-up"
    assert told[0].planned_s == pytest.approx(0.01)
    assert {progress.phase for progress in told} >= {"warm-up", "measure"}
    assert all(progress.failed == 0 <= progress.answered for progress in told)


def test_what_progress_raises_ends_the_run_as_the_same_object(double: trtlab.Model) -> None:
    bench = InferBench(double, ROW)
    enough = LookupError("enough")

    def tell(progress: Progress) -> None:
        raise enough

    with pytest.raises(LookupError) as raised:
        bench.run(on_progress=tell)
    assert raised.value is enough
    assert bench.run(max_requests=3, **COUNTED).requests == 3


@pytest.mark.parametrize("options", [{}, {"rate": 100.0}, {"concurrency": 1000}], ids=["closed", "open", "full queue"])
def test_ctrl_c_ends_a_run(gated: Callable[..., Any], options: dict[str, Any]) -> None:
    one = gated(max_queue=2)

    def interrupt() -> None:
        one.wait_started()
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        InferBench(one.model, ROW).run(warm_up_s=0, duration_s=3600, **options)
    interrupting.join()


def test_a_warm_up_that_is_not_answered_is_a_timeout(gated: Callable[..., Any]) -> None:
    one = gated()
    with pytest.raises(Timeout, match="warm-up"):
        InferBench(one.model, ROW).run(warm_up_s=0.01, drain_timeout_s=0)


def test_what_is_not_answered_in_the_end_is_unfinished(gated: Callable[..., Any]) -> None:
    one = gated()
    report = InferBench(one.model, ROW).run(concurrency=5, max_requests=5, drain_timeout_s=0, **COUNTED)
    assert (report.requests, report.unfinished, report.latency.count) == (0, 5, 5)


def test_a_closed_model_is_refused(double: trtlab.Model) -> None:
    bench = InferBench(double, ROW)
    double.close()
    with pytest.raises(Closed, match="double"):
        bench.run(max_requests=1, **COUNTED)


@pytest.mark.parametrize(
    ("inputs", "error", "word"),
    [
        ({}, InvalidArgument, "missing input 'x'"),
        ({**ROW, "y": 1}, NotFound, "'y'"),
        ({"x": np.zeros((1, 4))}, InvalidArgument, "float64"),
        ({"x": np.zeros((1, 5), np.float32)}, InvalidArgument, "5"),
        ({1: np.zeros((1, 4), np.float32)}, InvalidArgument, "named by strings"),
    ],
)
def test_wrong_inputs_are_refused_at_once(
    double: trtlab.Model, inputs: dict[Any, Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        InferBench(double, inputs)


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": -1},
        {"concurrency": 2.5},
        {"concurrency": 2**64},
        {"concurrency": 10**7},
        {"rate": 0},
        {"rate": -5.0},
        {"rate": math.nan},
        {"rate": math.inf},
        {"rate": 1e12},
        {"load": "open"},
        {"load": "poisson"},
        {"load": "closed", "rate": 5.0},
        {"duration_s": 0},
        {"duration_s": -1},
        {"duration_s": math.nan},
        {"duration_s": math.inf},
        {"warm_up_s": -1},
        {"drain_timeout_s": -1},
        {"max_requests": 0},
        {"batch": 0},
        {"seed": -1},
    ],
    ids=str,
)
def test_wrong_options_are_refused_by_name(double: trtlab.Model, options: dict[str, Any]) -> None:
    name = next(iter(options)).removesuffix("_s")
    with pytest.raises(InvalidArgument, match=f"{name}|rate"):
        InferBench(double, ROW).run(**options)
