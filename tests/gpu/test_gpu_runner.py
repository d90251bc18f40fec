"""Device memory in and out, graphs, threads, endings, and what all of it holds, on a GPU."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import trtlab

DOUBLE = "double_float32"


def rows(n: int = 5) -> np.ndarray:
    return np.random.default_rng().standard_normal((n, 4), dtype=np.float32)


def load(manager: trtlab.InferenceManager, models: Any, name: str = DOUBLE, **options: Any) -> trtlab.Model:
    return manager.load(options.pop("called", name), models.plan(name), device="cuda:0", **options)


def test_device_tensors_go_in_and_out_with_no_copy_of_the_host(
    manager: trtlab.InferenceManager, models: Any, torch: Any
) -> None:
    # With graphs, inputs are copied on the GPU; that nothing passes the host is then not seen in the counters.
    model = load(manager, models, outputs="device", graphs=False)
    before = model.counters()
    x = torch.randn(8, 4, device="cuda")
    torch.cuda.synchronize()
    output = model.infer(x=x).result(60)["y"]
    after = model.counters()
    assert after["inputs_in_place"] == before["inputs_in_place"] + 1
    assert after["inputs_copied"] == before["inputs_copied"]
    assert output.device == "cuda:0"
    y = torch.from_dlpack(output)
    assert y.is_cuda
    assert y.data_ptr() == output.__cuda_array_interface__["data"][0]
    assert torch.equal(y, x + x)
    with pytest.raises(trtlab.errors.InvalidArgument, match="to_host"):
        output.numpy()


def test_cupy_arrays_go_in_and_out(manager: trtlab.InferenceManager, models: Any) -> None:
    import cupy

    model = load(manager, models, outputs="device")
    x = cupy.asarray(rows())
    y = cupy.asarray(model.infer(x=x).result(60)["y"])
    assert bool((y == x + x).all())


def test_a_slice_that_is_not_contiguous_is_refused_and_its_contiguous_copy_is_not(
    manager: trtlab.InferenceManager, models: Any, torch: Any
) -> None:
    model = load(manager, models)
    whole = torch.randn(9, 9, device="cuda")
    for x in (whole[1:6, 2:6], whole[::2, ::2][:, :4], whole.t()[:5, :4]):
        with pytest.raises(trtlab.errors.InvalidArgument, match="make it contiguous"):
            model.infer(x=x).result(60)
        assert np.array_equal(model.infer(x=x.contiguous()).result(60)["y"].numpy(), (x + x).cpu().numpy())


def test_a_tensor_that_is_still_being_computed_is_waited_for(
    manager: trtlab.InferenceManager, models: Any, torch: Any
) -> None:
    model = load(manager, models)
    stream = torch.cuda.Stream()
    x = torch.zeros(8, 4, device="cuda")
    final = torch.randn(8, 4, device="cuda")
    torch.cuda.synchronize()
    for _ in range(5):
        with torch.cuda.stream(stream):
            x.zero_()
            torch.cuda._sleep(50_000_000)  # some 25 ms of the GPU's clock
            x.copy_(final)
            future = model.infer(x=x)
        assert np.array_equal(future.result(60)["y"].numpy(), (final + final).cpu().numpy())


def test_many_threads_get_their_own_answers(manager: trtlab.InferenceManager, models: Any) -> None:
    two = load(manager, models), load(manager, models, "double_int64")

    def caller(seed: int) -> None:
        random = np.random.default_rng(seed)
        for turn in range(40):
            n = int(random.integers(1, 65))
            x: np.ndarray
            if turn % 2 == 0:
                x = random.standard_normal((n, 4), dtype=np.float32)
            else:
                x = random.integers(-(2**61), 2**61, (n, 4), dtype=np.int64)
            future = two[turn % 2].infer(x=x)
            assert np.array_equal(future.result(60)["y"].numpy(), x + x)

    with ThreadPoolExecutor(16) as threads:
        for future in [threads.submit(caller, seed) for seed in range(16)]:
            future.result(100)
    assert manager.stats()["executing"] == 0


def test_answers_are_kept_as_long_as_somebody_holds_them(manager: trtlab.InferenceManager, models: Any) -> None:
    model = load(manager, models)
    xs = [rows(64) for _ in range(200)]
    answers = [model.infer(x=x).result(60)["y"].numpy() for x in xs]
    for x, y in zip(xs, answers, strict=True):
        assert np.array_equal(y, x + x)


def test_graphs_are_replayed_and_counted(manager: trtlab.InferenceManager, models: Any) -> None:
    with_graphs = load(manager, models, called="with")
    without = load(manager, models, called="without", graphs=False)
    x = rows()
    for model in (with_graphs, without):
        for _ in range(20):
            model.infer(x=x).result(60)
    before = with_graphs.counters()
    for _ in range(50):
        with_graphs.infer(x=x).result(60)
    after = with_graphs.counters()
    assert after["graph_hits"] > before["graph_hits"]
    assert after["graphs_refused"] == 0
    assert without.counters()["graph_hits"] == without.counters()["graphs"] == 0


def test_the_number_of_graphs_is_bounded(manager: trtlab.InferenceManager, models: Any) -> None:
    model = load(manager, models, max_graphs=4)
    for n in [*range(1, 33)] * 3:
        x = rows(n)
        assert np.array_equal(model.infer(x=x).result(60)["y"].numpy(), x + x)
    assert model.counters()["graphs"] <= 4


def test_a_shape_that_was_warmed_up_is_ready(manager: trtlab.InferenceManager, models: Any) -> None:
    model = load(manager, models, warm_up=[{"x": (5, 4)}, {"x": (64, 4)}])
    assert model.counters()["contexts"] == 2  # one for each execution
    before = model.counters()["graph_captures"]
    x = rows(5)
    assert np.array_equal(model.infer(x=x).result(60)["y"].numpy(), x + x)
    assert model.counters()["contexts"] == 2
    assert model.counters()["graph_captures"] <= before + 1


def test_device_times_are_counted_where_they_were_asked_for(manager: trtlab.InferenceManager, models: Any) -> None:
    model = load(manager, models, "wide96", timing=True)
    (inputs, _), *_ = models.cases("wide96")
    for _ in range(10):
        model.infer(inputs).result(60)
    stats = model.stats()
    assert stats["device_timed"] >= 10
    assert stats["compute_s"] > 0
    assert stats["h2d_s"] > 0
    assert stats["d2h_s"] > 0


def test_closing_a_busy_model_fails_what_has_not_begun_and_nothing_else(
    manager: trtlab.InferenceManager, models: Any
) -> None:
    model = load(manager, models, "wide96")
    (inputs, _), *_ = models.cases("wide96")
    futures = [model.infer(inputs) for _ in range(300)]
    model.close(cancel_pending=True)
    answered = 0
    for future in futures:
        assert future.done()
        if future.exception(0) is None:
            answered += 1
        else:
            assert isinstance(future.exception(0), trtlab.errors.Closed)
    assert answered < 300
    with pytest.raises(trtlab.errors.Closed):
        model.infer(inputs)


def test_requests_that_have_not_begun_can_be_cancelled(manager: trtlab.InferenceManager, models: Any) -> None:
    model = load(manager, models, "wide96")
    (inputs, expected), *_ = models.cases("wide96")
    futures = [model.infer(inputs) for _ in range(300)]
    cancelled = [future for future in reversed(futures) if future.cancel()]
    assert cancelled
    for future in futures:
        if future.cancelled():
            with pytest.raises(trtlab.errors.Cancelled):
                future.result(0)
        else:
            assert future.result(60)["y"].shape == expected["y"].shape


def test_a_manager_that_goes_with_requests_under_way_ends_them(models: Any) -> None:
    with trtlab.InferenceManager(max_executions=2) as manager:
        model = load(manager, models, "wide96")
        (inputs, _), *_ = models.cases("wide96")
        futures = [model.infer(inputs) for _ in range(50)]
    assert all(future.done() for future in futures)


@pytest.mark.parametrize("ending", ["", "import os; os.kill(os.getpid(), 2)", "raise SystemExit(0)"])
def test_a_process_ends_while_its_models_are_busy(models: Any, ending: str) -> None:
    program = f"""
import numpy as np, trtlab
manager = trtlab.InferenceManager(max_executions=2)
model = manager.load("wide", {str(models.plan("wide96"))!r}, device="cuda:0")
x = np.ones((8, 3, 112, 112), np.float16)
futures = [model.infer(x=x) for _ in range(200)]
print("busy", flush=True)
try:
    {ending or "pass"}
except KeyboardInterrupt:
    pass
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "busy\n"


def test_a_lost_device_fails_requests_and_not_the_process(models: Any) -> None:
    program = f"""
import numpy as np, cupy, trtlab
from trtlab import errors
manager = trtlab.InferenceManager(max_executions=2)
model = manager.load("double", {str(models.plan(DOUBLE))!r}, device="cuda:0")
x = np.ones((5, 4), np.float32)
assert (model.infer(x=x).result(60)["y"].numpy() == 2).all()
wild = cupy.RawKernel('extern "C" __global__ void wild(int* p) {{ *p = 1; }}', "wild")
wild((1,), (1,), (cupy.uint64(64),))
for _ in range(3):
    try:
        model.infer(x=x).result(60)
    except errors.CudaError as error:
        assert error.device_lost, error
    else:
        raise AssertionError("an answer of a lost device")
assert model.counters()["device_lost"] == 1
print("intact", flush=True)
import os
os._exit(0)  # cupy can't give back what it holds
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "intact\n"


def test_awaiting_answers(manager: trtlab.InferenceManager, models: Any) -> None:
    model = load(manager, models)

    async def ask() -> None:
        xs = [rows() for _ in range(50)]
        answers = await asyncio.gather(*(model.infer(x=x) for x in xs))
        for x, answer in zip(xs, answers, strict=True):
            assert np.array_equal(answer["y"].numpy(), x + x)

    asyncio.run(ask())


def test_the_memory_report_is_what_the_driver_gave_out(models: Any, torch: Any) -> None:
    def used() -> int:
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info(0)
        return int(total - free)

    with trtlab.InferenceManager(max_executions=2) as manager:
        first = load(manager, models)  # CUDA's own share of the memory comes with the first model
        first.infer(x=rows()).result(60)
        before_report = sum(use.size_bytes for use in manager.memory_report() if use.device == "cuda:0")
        before = used()
        model = load(manager, models, "resnet50_b8")
        (inputs, _), *_ = models.cases("resnet50_b8")
        for future in [model.infer(inputs) for _ in range(20)]:
            future.result(60)
        report = manager.memory_report()
        grown = sum(use.size_bytes for use in report if use.device == "cuda:0") - before_report
        taken = used() - before
        weights = [use.size_bytes for use in report if use.owner == "resnet50_b8" and use.what == "weights"]
        # ResNet-50 has 25.6 million weights of two bytes.
        assert weights[0] >= 50_000_000
        assert grown >= weights[0]
        # The driver gives memory out in pieces of 2 MiB, and code takes some that is nobody's but CUDA's.
        assert grown <= taken + (8 << 20)
        assert taken <= grown + (512 << 20)


def test_models_share_the_scratch_memory_of_their_executions(models: Any) -> None:
    with trtlab.InferenceManager(max_executions=2) as manager:
        many = [load(manager, models, "wide96", called=f"wide{i}") for i in range(4)]
        inputs = {"x": np.ones((8, 3, 112, 112), np.float16)}

        def scratch() -> int:
            return sum(use.size_bytes for use in manager.memory_report() if "execution" in use.owner)

        def ask(model: trtlab.Model) -> None:
            for future in [model.infer(inputs) for _ in range(8)]:
                future.result(60)

        ask(many[0])
        alone = scratch()
        for model in many[1:]:
            ask(model)
        assert scratch() == alone > 0


def test_a_list_of_one_gpu_is_that_gpu(manager: trtlab.InferenceManager, models: Any) -> None:
    model = manager.load("listed", models.plan(DOUBLE), device=["cuda:0"])
    x = rows()
    assert np.array_equal(model.infer(x=x).result(60)["y"].numpy(), x + x)


def test_two_gpus_are_one_model(manager: trtlab.InferenceManager, models: Any, torch: Any) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU here")
    model = manager.load("both", models.plan(DOUBLE), device=["cuda:0", "cuda:1"])
    answered = threading.Semaphore(0)

    def caller() -> None:
        for _ in range(100):
            x = rows(64)
            assert np.array_equal(model.infer(x=x).result(60)["y"].numpy(), x + x)
        answered.release()

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(caller) for _ in range(8)]:
            future.result(100)
    devices = manager.stats()["devices"]
    assert devices["cuda:0"]["admitted"] > 0
    assert devices["cuda:1"]["admitted"] > 0
