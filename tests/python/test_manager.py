"""The registry of models, and the budget that they share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trtlab
from trtlab import InferenceManager, errors

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
Make = Callable[..., Any]


def test_models_are_found_by_name(manager: InferenceManager, gated: Make, double_ir: bytes) -> None:
    loaded = manager.load("double", double_ir)
    made = gated()
    assert manager.register("gated", made.model) is made.model
    assert manager.names == ["double", "gated"]
    assert manager["double"] is manager.model("double") is loaded
    assert manager["gated"] is made.model
    assert "double" in manager
    assert "other" not in manager
    assert repr(manager) == "<trtlab.InferenceManager ['double', 'gated']>"
    assert (loaded.name, loaded.platform) == ("double", "openvino")
    assert "x float32[?, 4]" in repr(loaded)
    assert [(spec.name, spec.dtype, spec.shape) for spec in loaded.inputs] == [("x", "float32", (None, 4))]
    assert [(spec.name, spec.dtype, spec.shape) for spec in loaded.outputs] == [("y", "float32", (None, 4))]


@pytest.mark.parametrize("kind", [str, Path, bytes])
def test_a_model_comes_from_a_path_or_from_bytes(
    manager: InferenceManager, double_ir: bytes, tmp_path: Path, kind: Callable[[Any], Any]
) -> None:
    file = tmp_path / "a model.xml"
    file.write_bytes(double_ir)
    model = manager.load("m", double_ir if kind is bytes else kind(file))
    np.testing.assert_array_equal(model.infer(x=ROWS).result(60)["y"], 2 * ROWS)


def test_a_name_is_free_again_after_unload_and_after_a_failure(manager: InferenceManager, double_ir: bytes) -> None:
    for _ in range(3):
        with pytest.raises(errors.InvalidArgument):
            manager.load("m", b"no model")
        model = manager.load("m", double_ir)
        with pytest.raises(errors.InvalidArgument, match="taken"):
            manager.load("m", double_ir)
        manager.unload("m")
        assert model.closed
        assert "m" not in manager
        with pytest.raises(errors.Closed):
            model.infer(x=ROWS)


def test_a_closed_manager_closes_its_models_and_stays_closed(double_ir: bytes) -> None:
    with InferenceManager(max_executions=1) as manager:
        model = manager.load("m", double_ir)
        assert not manager.closed
    assert manager.closed
    assert model.closed
    manager.close()
    model.close()
    with pytest.raises(errors.Closed):
        manager["m"]


def test_unload_lets_what_was_accepted_finish(manager: InferenceManager, gated: Make) -> None:
    one = gated()
    manager.register("m", one.model)
    futures = [one.model.infer(x=ROWS) for _ in range(5)]
    one.wait_started()
    with ThreadPoolExecutor(1) as threads:
        unloading = threads.submit(manager.unload, "m")
        while not one.model.closed:
            pass
        with pytest.raises(errors.Closed):
            one.model.infer(x=ROWS)
        assert not unloading.done()
        one.gate.set()
        unloading.result(60)
    for future in futures:
        np.testing.assert_array_equal(future.result(0)["y"], 2 * ROWS)


def test_unload_may_drop_what_has_not_begun(manager: InferenceManager, gated: Make) -> None:
    one = gated()
    manager.register("m", one.model)
    futures = [one.model.infer(x=ROWS) for _ in range(5)]
    one.wait_started()
    with ThreadPoolExecutor(1) as threads:
        unloading = threads.submit(manager.unload, "m", cancel_pending=True)
        for future in futures[1:]:
            with pytest.raises(errors.Closed, match="closed before this request ran"):
                future.result(60)
        one.gate.set()
        unloading.result(60)
    np.testing.assert_array_equal(futures[0].result(0)["y"], 2 * ROWS)
    assert one.calls == 1


def test_models_may_be_loaded_used_and_unloaded_by_many_threads(manager: InferenceManager, double_ir: bytes) -> None:
    stays = manager.load("stays", double_ir)

    def churn(index: int) -> int:
        answers = 0
        for turn in range(5):
            name = f"{index}-{turn}"
            model = manager.load(name, double_ir)
            rows = np.full((3, 4), index * 10 + turn, np.float32)
            futures = [one.infer(x=rows) for one in (model, stays) * 5]
            manager.unload(name)
            for future in futures:
                np.testing.assert_array_equal(future.result(60)["y"], 2 * rows)
                answers += 1
        return answers

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(churn, range(6))) == [50] * 6
    assert manager.names == ["stays"]


def test_only_one_of_many_threads_gets_a_name(manager: InferenceManager, double_ir: bytes) -> None:
    start = threading.Barrier(8)

    def load(_: int) -> bool:
        start.wait(60)
        try:
            manager.load("m", double_ir)
        except errors.InvalidArgument:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(load, range(8))) == 1


def test_a_full_queue_is_overload_at_once_or_after_the_time_given(gated: Make) -> None:
    for timeout in (0, 0.01):
        one = gated(max_queue=2, queue_timeout_s=timeout)
        futures = [one.model.infer(x=ROWS)]
        one.wait_started()
        futures += [one.model.infer(x=ROWS) for _ in range(2)]
        for _ in range(3):
            with pytest.raises(errors.Overloaded, match="'gated'"):
                one.model.infer(x=ROWS)
        assert futures[1].cancel()  # makes room
        futures[1] = one.model.infer(x=ROWS)
        one.gate.set()
        for future in futures:
            np.testing.assert_array_equal(future.result(60)["y"], 2 * ROWS)
        np.testing.assert_array_equal(one.model.infer(x=ROWS).result(60)["y"], 2 * ROWS)


def test_a_full_queue_of_an_engine_is_overload_too(double_ir: bytes) -> None:
    with InferenceManager(max_executions=1, max_buffers=1, max_queue=0) as manager:
        model = manager.load("double", double_ir, queue_timeout_s=0)
        rows = np.ones((200_000, 4), np.float32)
        answers = overloads = 0
        while not (answers and overloads):
            futures = []
            for _ in range(20):
                try:
                    futures.append(model.infer(x=rows))
                except errors.Overloaded:
                    overloads += 1
            for future in futures:
                assert (future.result(60)["y"].numpy() == 2).all()
                answers += 1
        assert manager.stats()["overloaded"] == overloads


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("queue", [0, 7, 1024])
def test_a_hundred_times_the_buffers_in_flight_all_get_their_own_answers(
    double_ir: bytes, threads: int, queue: int
) -> None:
    with InferenceManager(max_executions=2, max_buffers=3, max_queue=queue) as manager:
        model = manager.load("double", double_ir, queue_timeout_s=None)
        each = 100 * 3 // threads + 1

        def saturate(thread: int) -> int:
            values = [thread * each + i for i in range(each)]
            # Nobody reads a result before everything is sent: progress may not depend on readers.
            futures = [model.infer(x=np.full((1 + v % 5, 4), v, np.float32)) for v in values]
            for value, future in zip(values, futures, strict=True):
                y = future.result(60)["y"]
                np.testing.assert_array_equal(y, np.full((1 + value % 5, 4), 2 * value, np.float32))
            return each

        with ThreadPoolExecutor(threads) as pool:
            assert sum(pool.map(saturate, range(threads))) == each * threads
        stats = manager.stats()
        assert stats["admitted"] == each * threads
        manager.close()
        stats = manager.stats()
        assert (stats["executing"], stats["buffers_in_use"], stats["queued"]) == (0, 0, 0)
        assert model.stats()["completed"] == each * threads


@pytest.mark.parametrize("threads", [1, 8])
def test_a_function_is_saturated_as_an_engine_is(gated: Make, threads: int) -> None:
    one = gated(concurrency=2, max_queue=5, queue_timeout_s=60)
    one.gate.set()

    def saturate(thread: int) -> None:
        values = range(thread * 1000, thread * 1000 + 200 // threads)
        futures = [one.model.infer(x=np.full((1, 4), v, np.float32)) for v in values]
        for value, future in zip(values, futures, strict=True):
            np.testing.assert_array_equal(future.result(60)["y"], np.full((1, 4), 2 * value, np.float32))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(saturate, range(threads)))


def test_models_share_one_budget(double_ir: bytes, model_file: Callable[[str], Path]) -> None:
    with InferenceManager(max_executions=1, max_buffers=2, max_queue=1024) as manager:
        models = [manager.load("a", double_ir), manager.load("b", double_ir), manager.load("cls", model_file("cls"))]
        picture = np.zeros((1, 3, 48, 192), np.float32)
        futures = []
        most = 0
        for _ in range(60):
            futures.append((models[0].infer(x=ROWS), models[1].infer(x=ROWS + 1), models[2].infer(x=picture)))
            stats = manager.stats()
            assert stats["executing"] <= 1
            assert stats["buffers_in_use"] <= 2
            most = max(most, stats["queued"])
        assert most > 2
        for first, second, third in futures:
            np.testing.assert_array_equal(first.result(60)["y"], 2 * ROWS)
            np.testing.assert_array_equal(second.result(60)["y"], 2 * (ROWS + 1))
            assert next(iter(third.result(60).values())).shape == (1, 2)
        assert manager.stats()["admitted"] == 180


def test_stats_of_a_model_count_and_add_up(manager: InferenceManager, double_ir: bytes) -> None:
    model = manager.load("double", double_ir)
    for _ in range(10):
        model.infer(x=ROWS).result(60)
    model.close()
    stats = model.stats()
    assert (stats["completed"], stats["failed"], stats["cancelled"]) == (10, 0, 0)
    assert stats["execute_s"] > 0
    assert all(stats[part] >= 0 for part in ("queue_s", "input_s", "output_s"))


def test_stats_of_a_manager_are_sums_with_those_of_each_device(double_ir: bytes) -> None:
    with InferenceManager(max_executions=2, max_buffers=3, max_queue=5) as manager:
        limits = {"max_executions": 2, "max_buffers": 3, "max_queue": 5}
        counts = dict.fromkeys(
            ("executing", "buffers_in_use", "queued", "blocked_callers", "admitted", "overloaded"), 0
        )
        assert manager.stats() == {**counts, **limits, "devices": {}}
        model = manager.load("double", double_ir)
        for _ in range(3):
            model.infer(x=ROWS).result(60)
        model.close()
        counts["admitted"] = 3
        assert manager.stats() == {**counts, **limits, "devices": {"cpu": {**counts, **limits}}}


def test_stats_of_a_model_without_a_device_have_no_device_times(manager: InferenceManager, double_ir: bytes) -> None:
    model = manager.load("double", double_ir)
    model.infer(x=ROWS).result(60)
    stats = model.stats()
    assert stats["device_timed"] == 0
    assert [stats[part] for part in ("enqueue_s", "h2d_s", "compute_s", "d2h_s")] == [0.0] * 4
    assert model.counters() == {}


def test_models_that_account_for_no_memory_are_not_in_the_report(
    manager: InferenceManager, gated: Make, double_ir: bytes
) -> None:
    assert manager.memory_report() == []
    for name, model in (("double", manager.load("double", double_ir)), ("gated", gated().model)):
        if name not in manager:
            manager.register(name, model)
        assert model.memory() == []
    assert manager.memory_report() == []


def test_a_line_of_a_memory_report_is_a_value_that_can_be_read() -> None:
    use = trtlab.MemoryUse("resnet", "weights", "cuda:0", 51_200_000)
    assert str(use) == "resnet: 51,200,000 bytes of weights on cuda:0"
    assert use == trtlab.MemoryUse("resnet", "weights", "cuda:0", 51_200_000)
    with pytest.raises(AttributeError):
        use.size_bytes = 0  # type: ignore[misc]


def test_weights_that_do_not_move_are_not_moved(manager: InferenceManager, gated: Make, double_ir: bytes) -> None:
    for model in (manager.load("double", double_ir), gated().model):
        for move in (model.prefetch, model.evict):
            with pytest.raises(errors.InvalidArgument, match=f"'{model.name}'.*managed memory"):
                move()


def test_a_closed_manager_still_tells_what_it_counted(double_ir: bytes) -> None:
    with InferenceManager() as manager:
        manager.load("double", double_ir).infer(x=ROWS).result(60)
    assert manager.stats()["devices"]["cpu"]["admitted"] == 1
    assert manager.memory_report() == []


def test_an_omitted_input_never_sees_what_an_earlier_request_sent() -> None:
    specs = [trtlab.TensorSpec(name, "float32", (None,)) for name in ("a", "b")]
    seen: list[list[float]] = []
    with trtlab.FunctionModel(lambda a, b: seen.append(b.tolist()) or {}, specs, []) as model:
        secret = np.full(3, 7, np.float32)
        model.infer(a=secret, b=secret).result(60)
        for inputs in ({"a": secret}, {"b": secret}, {}):
            with pytest.raises(errors.InvalidArgument, match="missing input"):
                model.infer(inputs)
        assert seen == [[7.0] * 3]
