"""Memory, file descriptors and threads stay what they are, however many requests come."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trtlab
from trtlab import FunctionModel, InferenceManager, TensorSpec, errors

# An allocator keeps pages to itself as it likes; a byte lost per request would still show: 100,000 of the smallest
# objects are 1.6 MB, those of a request more than ten times as much.
SLACK_BYTES = 8 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def grown_by(work: Callable[[int], Any], warm_up: int, count: int) -> int:
    """Bytes by which the process has grown while ``work`` was done ``count`` times, after it was done before."""
    work(warm_up)
    gc.collect()
    before = resident_bytes()
    work(count)
    gc.collect()
    return resident_bytes() - before


def test_requests_to_an_engine_leave_no_memory_behind(manager: InferenceManager, double_ir: bytes) -> None:
    model = manager.load("double", double_ir)
    rows = np.ones((4, 4), np.float32)

    def ask(count: int) -> None:
        for _ in range(count // 50):
            futures = [model.infer(x=rows) for _ in range(50)]
            for future in futures:
                assert future.result(60)["y"].shape == (4, 4)

    assert grown_by(ask, 20_000, 200_000) < SLACK_BYTES


def test_requests_to_a_function_leave_no_memory_behind() -> None:
    with FunctionModel(
        lambda x: {"y": x}, [TensorSpec("x", "float32", (None,))], [TensorSpec("y", "float32", (None,))]
    ) as model:
        rows = np.ones(4, np.float32)

        def ask(count: int) -> None:
            for _ in range(count // 50):
                for future in [model.infer(x=rows) for _ in range(50)]:
                    future.result(60)["y"].numpy()

        assert grown_by(ask, 10_000, 50_000) < SLACK_BYTES


def test_failures_leave_no_memory_behind(manager: InferenceManager, double_ir: bytes) -> None:
    model = manager.load("double", double_ir)

    def fail(x: trtlab.Tensor) -> None:
        raise KeyError(len(x))

    with FunctionModel(fail, [TensorSpec("x", "float32", (None,))], []) as failing:
        rows = np.ones(4, np.float32)

        def ask(count: int) -> None:
            for _ in range(count):
                with pytest.raises(errors.InvalidArgument):
                    model.infer(x=rows)
                with pytest.raises(KeyError):
                    failing.infer(x=rows).result(60)

        assert grown_by(ask, 1000, 5000) < SLACK_BYTES


def test_large_answers_of_changing_shapes_do_not_pile_up(manager: InferenceManager, double_ir: bytes) -> None:
    model = manager.load("double", double_ir)
    inputs = [np.ones((rows, 4), np.float32) for rows in (1000, 60_000, 30_000)]

    def ask(count: int) -> None:
        for i in range(count):
            assert model.infer(x=inputs[i % 3]).result(60)["y"].shape == inputs[i % 3].shape

    assert grown_by(ask, 60, 600) < SLACK_BYTES


def test_loading_and_unloading_leaves_nothing_behind(manager: InferenceManager, double_ir: bytes) -> None:
    rows = np.ones((4, 4), np.float32)

    def churn(count: int) -> None:
        for _ in range(count):
            manager.load("m", double_ir).infer(x=rows).result(60)
            manager.unload("m")

    def held() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    churn(20)
    before = held()
    assert grown_by(churn, 10, 100) < SLACK_BYTES
    assert held() == before
