"""The search for the best settings, and the verdict on what limits them: over measurements that are made up."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trtlab import tuning
from trtlab.errors import InvalidArgument, NotFound
from trtlab.tuning import (
    LIMITS,
    DeviceTimes,
    Measurement,
    Setting,
    Space,
    Subject,
    best_of,
    explore,
    limit_of,
    search,
)

Model = Callable[[Setting], float]


def measured(
    setting: Setting, requests: float, *, p99_us: float = 1000.0, times: DeviceTimes | None = None, **more: Any
) -> Measurement:
    return Measurement(
        setting,
        requests_per_second=requests,
        inferences_per_second=requests * setting.batch,
        p50_us=p99_us / 2,
        p99_us=p99_us,
        device=times,
        **more,
    )


def gpu(executions: int, buffers: int, batch: int = 8, graphs: bool = True) -> Setting:
    return Setting(batch, executions, buffers, graphs)


LONE = gpu(1, 1)
# A request of 2 ms: copied for 400 us, computed for 1 ms, copied for 100 us.
TIMES = DeviceTimes(enqueue_us=50, h2d_us=400, compute_us=1000, d2h_us=100)


# --- the limit ----------------------------------------------------------------------------------------------------


def test_a_gpu_that_computes_all_the_time_is_limited_by_computing() -> None:
    verdict = limit_of(
        [measured(LONE, 500, times=TIMES), measured(gpu(2, 4), 980, times=TIMES), measured(gpu(3, 6), 982)]
    )
    assert (verdict.limit, verdict.best) == ("compute", gpu(2, 4))
    assert verdict.figures["compute_busy"] == pytest.approx(0.98, abs=0.01)
    assert "more executions bring nothing" in verdict.because[0]
    assert verdict.advice


def test_a_copy_engine_that_copies_all_the_time_is_the_limit() -> None:
    times = dataclasses.replace(TIMES, h2d_us=1200)
    runs = [
        measured(LONE, 400, times=times, input_bytes=24_000_000),
        measured(gpu(2, 4), 800, times=times, input_bytes=24_000_000),
    ]
    verdict = limit_of(runs)
    assert verdict.limit == "copy"
    assert verdict.figures["copy_in_busy"] == pytest.approx(0.96)
    assert verdict.figures["copy_in_gb_per_s"] == pytest.approx(20)
    assert "20.0 GB/s" in verdict.because[0]


def test_with_one_copy_engine_both_directions_share_it() -> None:
    times = DeviceTimes(enqueue_us=5, h2d_us=500, compute_us=300, d2h_us=500)
    runs = [measured(LONE, 500, times=times), measured(gpu(2, 4), 900, times=times), measured(gpu(3, 6), 900)]
    assert limit_of(runs, copy_engines=1).limit == "copy"
    assert limit_of(runs, copy_engines=2).limit != "copy"


def test_a_thread_that_launches_all_the_time_is_the_limit() -> None:
    times = DeviceTimes(enqueue_us=90, h2d_us=5, compute_us=60, d2h_us=5)
    runs = [measured(LONE, 5000, times=times), measured(gpu(2, 4), 10_400, times=times), measured(gpu(3, 6), 10_400)]
    verdict = limit_of(runs)
    assert verdict.limit == "launch"
    assert verdict.figures["launch_busy"] == pytest.approx(0.936)


def test_where_graphs_bring_much_and_nothing_is_busy_launching_is_the_limit() -> None:
    times = DeviceTimes(enqueue_us=20, h2d_us=5, compute_us=40, d2h_us=5)
    runs = [
        measured(LONE, 8000, times=times),
        measured(gpu(2, 4), 15_000, times=times),
        measured(gpu(3, 6), 15_000),
        measured(gpu(2, 4, graphs=False), 9000),
    ]
    verdict = limit_of(runs)
    assert verdict.limit == "launch"
    assert verdict.figures["graphs_gain"] == pytest.approx(2 / 3)
    assert "67%" in verdict.because[0]


def test_what_does_not_fit_is_a_limit_of_memory() -> None:
    runs = [
        measured(LONE, 500, times=TIMES),
        measured(gpu(2, 4), 700, times=TIMES),
        Measurement(gpu(3, 6), error="out of memory: 3 GiB asked for", out_of_memory=True),
    ]
    verdict = limit_of(runs)
    assert verdict.limit == "memory"
    assert "3 GiB asked for" in verdict.because[0]


def test_an_error_of_another_kind_is_no_limit_of_memory() -> None:
    runs = [measured(LONE, 500), measured(gpu(2, 4), 700), Measurement(gpu(3, 6), error="refused")]
    assert limit_of(runs).limit == "waiting"


def test_a_search_that_ended_while_it_rose_has_met_no_limit() -> None:
    runs = [measured(LONE, 100), measured(gpu(1, 2), 110), measured(gpu(2, 4), 200), measured(gpu(4, 8), 400)]
    verdict = limit_of(runs)
    assert (verdict.limit, verdict.best) == ("untried", gpu(4, 8))


def test_where_nothing_is_in_use_requests_wait() -> None:
    times = DeviceTimes(enqueue_us=20, h2d_us=5, compute_us=100, d2h_us=5)
    runs = [measured(LONE, 2000, times=times), measured(gpu(2, 4), 3000, times=times), measured(gpu(3, 6), 3010)]
    verdict = limit_of(runs)
    assert verdict.limit == "waiting"
    assert "the GPU 30%" in verdict.because[0]


def test_staging_on_the_host_that_takes_a_whole_thread_counts_as_copying() -> None:
    times = DeviceTimes(enqueue_us=5, h2d_us=50, compute_us=100, d2h_us=5)
    runs = [
        measured(LONE, 2000, times=times, input_us=300),
        measured(gpu(2, 4), 3000, times=times, input_us=300),
        measured(gpu(3, 6), 3010, input_us=300),
    ]
    verdict = limit_of(runs)
    assert verdict.limit == "copy"
    assert "pinned" in verdict.because[0]


def test_the_bound_on_the_latency_is_the_limit_where_faster_settings_break_it() -> None:
    runs = [measured(LONE, 500, p99_us=3000), measured(gpu(2, 4), 900, p99_us=20_000)]
    verdict = limit_of(runs, 15_000)
    assert (verdict.limit, verdict.best) == ("latency", LONE)
    assert "20 ms" in verdict.because[0]
    assert limit_of(runs, 25_000).best == gpu(2, 4)


def test_no_setting_within_the_bound_says_how_near_it_came() -> None:
    verdict = limit_of([measured(LONE, 500, p99_us=3000), measured(gpu(2, 4), 900, p99_us=20_000)], 1000)
    assert (verdict.limit, verdict.best) == ("latency", None)
    assert verdict.figures == {"least_p99_us": 3000}


def test_a_cpu_that_is_busy_is_limited_by_computing_and_one_that_is_not_waits() -> None:
    one, two = Setting(1, 1, 2), Setting(1, 2, 4)
    busy = [measured(one, 100, cpus_busy=3.9), measured(two, 101, cpus_busy=3.9)]
    assert limit_of(busy, cpus=4).limit == "compute"
    idle = [measured(one, 100, cpus_busy=1.0), measured(two, 101, cpus_busy=1.0)]
    assert limit_of(idle, cpus=4).limit == "waiting"


def test_the_largest_batch_as_the_best_advises_larger_ones() -> None:
    runs = [measured(gpu(1, 1, 4), 500, times=TIMES), measured(gpu(1, 1, 8), 400, times=TIMES)]
    assert "try larger batches: 8, the largest tried, brought 60% more" in limit_of(runs).advice[0]
    assert "larger batches" not in " ".join(limit_of(runs[:1]).advice)


def test_no_measurement_is_no_verdict() -> None:
    assert limit_of([]).limit == "nothing"
    assert limit_of([Measurement(LONE, error="refused")]).because == ("refused",)
    assert best_of([]) is None


def test_of_equals_the_one_with_the_lower_latency_is_the_best() -> None:
    runs = [measured(gpu(4, 8), 1005, p99_us=8000), measured(gpu(2, 4), 1000, p99_us=4000)]
    best = best_of(runs)
    assert best is not None
    assert best.setting == gpu(2, 4)


figures = st.floats(0, 1e7)
anything = st.floats()
settings = st.builds(
    Setting,
    batch=st.integers(1, 3),
    executions=st.integers(1, 3),
    buffers=st.integers(1, 6),
    graphs=st.sampled_from([True, False, None]),
    streams=st.sampled_from([None, 1, 2]),
)


def measurements(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Measurement]:
    return st.builds(
        Measurement,
        setting=settings,
        requests_per_second=numbers,
        inferences_per_second=numbers,
        p50_us=numbers,
        p99_us=numbers,
        input_us=numbers,
        cpus_busy=numbers,
        memory_bytes=st.dictionaries(st.sampled_from(["cuda:0", "cuda_host"]), st.integers(0, 2**40), max_size=2),
        input_bytes=st.integers(0, 2**40),
        output_bytes=st.integers(0, 2**40),
        device=st.none() | st.builds(DeviceTimes, numbers, numbers, numbers, numbers),
        error=st.none() | st.just("refused"),
        out_of_memory=st.booleans(),
    )


@given(st.lists(measurements(figures | anything), max_size=8), st.none() | figures, st.integers(1, 2))
def test_whatever_was_measured_there_is_a_verdict(
    runs: list[Measurement], p99_us: float | None, copy_engines: int
) -> None:
    verdict = limit_of(runs, p99_us, copy_engines=copy_engines, cpus=4)
    assert verdict.limit in LIMITS
    usable = [one.setting for one in runs if one.usable and (p99_us is None or one.p99_us <= p99_us)]
    assert (verdict.best is None) == (not usable)
    assert verdict.best is None or verdict.best in usable
    assert verdict.limit == "nothing" or verdict.because or verdict.limit == "waiting"
    assert verdict.as_dict()["meaning"] == LIMITS[verdict.limit]


@given(st.lists(measurements(figures), min_size=2, max_size=8), st.none() | figures, st.randoms(use_true_random=False))
def test_the_order_of_measurements_does_not_matter(
    runs: list[Measurement], p99_us: float | None, shuffler: random.Random
) -> None:
    shuffled = list(runs)
    shuffler.shuffle(shuffled)
    assert limit_of(runs, p99_us) == limit_of(shuffled, p99_us)
    assert best_of(runs, p99_us) == best_of(shuffled, p99_us)


@given(st.floats(1, 1e6), st.floats(1, 1e5), st.integers(2, 6))
def test_a_bound_never_makes_more_of_the_best(rate: float, p99_us: float, count: int) -> None:
    runs = [measured(gpu(n, 2 * n), rate * n, p99_us=p99_us * n) for n in range(1, count + 1)]
    free, bound = best_of(runs), best_of(runs, p99_us * 2)
    assert free is not None
    assert bound is not None
    assert bound.inferences_per_second <= free.inferences_per_second
    assert bound.p99_us <= p99_us * 2


# --- the search ---------------------------------------------------------------------------------------------------


def walk(space: Space, rate: Model, p99_us: float | None = None, latency: Model = lambda _: 1.0) -> list[Setting]:
    """The settings that a search measures where ``rate`` and ``latency`` say what each brings."""
    found, complete = explore(space, lambda one: measured(one, rate(one), p99_us=latency(one)), p99_us=p99_us)
    assert complete
    return [one.setting for one in found]


def test_every_batch_begins_with_a_lone_request() -> None:
    tried = walk(Space(batches=(1, 2)), lambda one: 100.0)
    assert [one for one in tried if one.lone and one.graphs] == [Setting(1, 1, 1, True), Setting(2, 1, 1, True)]
    assert tried[0] == Setting(1, 1, 1, True)


def test_a_direction_is_left_at_the_first_step_that_brings_nothing() -> None:
    tried = walk(Space(batches=(1,), executions=(1, 2, 3, 4)), lambda one: 100.0 * min(one.executions, 2))
    assert max(one.executions for one in tried) == 3
    assert Setting(1, 2, 8, True) in tried
    assert Setting(1, 2, 16, True) not in tried
    assert Setting(1, 2, 3, True) in tried  # fewer buffers
    assert Setting(1, 2, 4, False) in tried  # and no graphs


def test_a_second_execution_is_tried_even_if_a_second_buffer_brought_nothing() -> None:
    tried = walk(Space(batches=(1,)), lambda one: 100.0 if one.executions == 1 else 300.0)
    assert Setting(1, 2, 4, True) in tried


def test_larger_batches_are_tried_for_as_long_as_they_bring_something() -> None:
    tried = walk(Space(batches=(1, 2, 4, 8, 16)), lambda one: 1000.0 / max(one.batch, 4))
    assert max(one.batch for one in tried) == 8


def test_a_lone_request_beyond_the_bound_ends_the_search() -> None:
    tried = walk(Space(batches=(1, 2, 4)), lambda one: 100.0, 500.0, lambda one: 200.0 * one.batch)
    assert max(one.batch for one in tried) == 4
    assert [one for one in tried if one.batch == 4] == [Setting(4, 1, 1, True)]


def test_what_breaks_the_bound_brings_nothing() -> None:
    tried = walk(Space(batches=(1,)), lambda one: 100.0 * one.executions, 250.0, lambda one: 100.0 * one.executions)
    assert max(one.executions for one in tried) == 3


def test_buffers_that_are_given_are_the_only_ones_and_never_fewer_than_executions() -> None:
    tried = walk(Space(batches=(1,), executions=(1, 2, 4), buffers=(2, 3)), lambda one: 100.0 * one.buffers)
    assert {one.buffers for one in tried} == {1, 2, 3}
    assert all(one.executions <= one.buffers for one in tried)


def test_on_the_cpu_streams_take_the_place_of_graphs() -> None:
    space = Space(batches=(1,), executions=(1, 2), graphs=(None,), streams=(None, 1))
    tried = walk(space, lambda one: 100.0 * one.executions)
    assert {one.graphs for one in tried} == {None}
    assert tried[-1] == Setting(1, 2, 4, None, 1)


@given(
    st.builds(
        Space,
        batches=st.lists(st.integers(1, 64), min_size=1, max_size=5).map(tuple),
        executions=st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple),
        buffers=st.lists(st.integers(9, 99), max_size=4).map(tuple),
        graphs=st.sampled_from([(True, False), (True,), (False,), (None,)]),
        streams=st.sampled_from([(None,), (None, 1), (1, 2, 3)]),
    ),
    st.dictionaries(settings, st.floats(1, 1e5)),
    st.floats(1, 1e5),
    st.none() | st.floats(1, 1e4),
)
def test_a_search_is_bounded_and_asks_for_nothing_twice(
    space: Space, rates: dict[Setting, float], otherwise: float, p99_us: float | None
) -> None:
    asked: list[Setting] = []
    steps = search(space, p99_us)
    setting = next(steps)
    while True:
        asked.append(setting)
        rate = rates.get(dataclasses.replace(setting, batch=setting.batch % 3 + 1), otherwise * setting.executions)
        try:
            setting = steps.send(measured(setting, rate, p99_us=rate))
        except StopIteration:
            break
    assert len(asked) == len(set(asked)) <= space.most
    assert all(one.executions <= one.buffers for one in asked)


def test_the_time_that_is_given_ends_the_search() -> None:
    now = 0.0

    def clock() -> float:
        return now

    def measure(setting: Setting) -> Measurement:
        nonlocal now
        now += 10.0
        return measured(setting, 100.0 * setting.executions)

    found, complete = explore(Space(), measure, budget_s=35.0, clock=clock)
    assert (len(found), complete) == (3, False)
    found, complete = explore(Space(), measure, budget_s=1.0, clock=clock)
    assert (len(found), complete) == (1, False)
    found, complete = explore(Space(batches=(1,)), measure, budget_s=1e9, clock=clock)
    assert complete


@pytest.mark.parametrize(
    ("space", "word"),
    [
        ({"batches": ()}, "batches"),
        ({"executions": (0,)}, "executions"),
        ({"buffers": (1,), "executions": (2,)}, "at least 2, got 1"),
        ({"graphs": ()}, "graphs"),
        ({"streams": ("two",)}, "streams"),
    ],
)
def test_a_space_with_nothing_in_it_is_refused(space: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidArgument, match=word):
        Space(**space)


# --- with a model -------------------------------------------------------------------------------------------------


def rows(model: object, batch: int) -> dict[str, Any]:
    return {"x": np.zeros((batch, 4), np.float32)}


SHORT = {"duration_s": 0.02, "warm_up_s": 0.0}


@pytest.fixture
def double(tmp_path: Path, double_ir: bytes) -> Path:
    file = tmp_path / "double.xml"
    file.write_bytes(double_ir)
    return file


def test_tune_measures_a_model_on_the_cpu_and_says_what_limits_it(double: Path) -> None:
    told: list[Setting] = []
    report = tuning.tune(double, rows, batches=[1, 4], executions=[1, 2], on_measure=told.append, **SHORT)
    assert report.complete
    assert [one.setting for one in report.measurements] == told
    assert report.best is not None
    assert report.best.setting == report.verdict.best
    assert all(one.setting.graphs is None and one.error is None for one in report.measurements)
    assert report.verdict.limit in LIMITS
    assert report.as_dict()["verdict"]["best"]["batch"] in (1, 4)


def test_tune_raises_what_the_first_request_raises(double: Path) -> None:
    with pytest.raises(InvalidArgument, match="'x'"):
        tuning.tune(double, lambda model, batch: {"x": np.zeros((batch, 5), np.float32)}, **SHORT)
    with pytest.raises(NotFound):
        tuning.tune(double.with_name("gone.xml"), rows, **SHORT)


@pytest.mark.parametrize(
    "arguments",
    [
        {"inputs": None},
        {"inputs": rows, "p99_s": "fast"},
        {"inputs": rows, "duration_s": -1},
        {"inputs": rows, "device": ["cuda:0", "cuda:1"]},
        {"inputs": rows, "executions": [0]},
    ],
)
def test_tune_refuses_bad_arguments(double: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        tuning.tune(double, **{**SHORT, **arguments})


def test_a_subject_keeps_what_goes_wrong_in_the_measurement(double: Path) -> None:
    fails = False

    def inputs(model: object, batch: int) -> dict[str, Any]:
        return {"x": np.zeros((batch, 5 if fails else 4), np.float32)}

    subject = Subject(double, inputs, duration_s=0.01, warm_up_s=0.0)
    assert subject.measure(Setting(1, 1, 1)).usable
    fails = True
    refused = subject.measure(Setting(2, 1, 1))
    assert not refused.usable
    assert refused.error is not None
    assert "'x'" in refused.error
    assert not refused.out_of_memory
    assert isinstance(subject.last_error, InvalidArgument)


def test_batches_that_a_model_does_not_take_are_left_out(double: Path) -> None:
    subject = Subject(double, rows, duration_s=0.01, warm_up_s=0.0)
    assert subject.batches((1, 2, 64)) == (1, 2, 64)
    fixed = double.with_name("fixed.xml")
    fixed.write_text(double.read_text().replace("?,4", "3,4").replace("<dim>-1</dim>", "<dim>3</dim>"))
    assert Subject(fixed, rows, duration_s=0.01, warm_up_s=0.0).batches((1, 2)) in ((1,), (3,))
