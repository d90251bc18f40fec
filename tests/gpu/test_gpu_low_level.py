"""CUDA and TensorRT under direct control, on a GPU: what `trtlab.cuda` and `trtlab.tensorrt` do without a Runner."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import trtlab
from trtlab import cuda, errors, tensorrt


def run(torch: Any, engine: tensorrt.Engine, x: Any) -> Any:
    """Enqueue an engine of x -> y, both of the same shape and type, into poisoned memory."""
    context = engine.create_context()
    stream = torch.cuda.Stream()
    y = torch.full_like(x, float("nan"))
    context.set_input_shape("x", tuple(x.shape))
    context.infer_shapes()
    assert context.shape("y") == tuple(x.shape)
    scratch = torch.empty(max(context.activation_bytes(), 1), dtype=torch.uint8, device="cuda")
    context.set_activation_memory(scratch.data_ptr(), scratch.numel())
    context.set_address("x", x.data_ptr())
    context.set_address("y", y.data_ptr())
    torch.cuda.synchronize()
    context.enqueue(stream)
    stream.synchronize()
    return y


def test_an_engine_is_run_by_hand(models: Any, torch: Any) -> None:
    engine = tensorrt.Engine(models.plan("double_float32"))
    x = torch.randn(7, 4, device="cuda")
    assert torch.equal(run(torch, engine, x), x + x)


def test_an_engine_says_what_it_is(models: Any) -> None:
    engine = tensorrt.Engine(models.plan("two_profiles"))
    assert [(tensor.name, tensor.dtype) for tensor in engine.tensors] == [("x", "float32"), ("y", "float32")]
    assert engine.tensors[0].shape == (-1, 16)
    assert engine.profiles == 2
    assert engine.weights_bytes > 0
    assert engine.activation_bytes() >= 0
    with pytest.raises(errors.InvalidArgument, match="65"):
        engine.create_context().set_input_shape("x", (65, 16))


def test_a_live_engine_of_nvidias_own_api_is_taken(models: Any, torch: Any) -> None:
    api = importlib.import_module(models.index["builder"])
    runtime = api.Runtime(api.Logger(api.Logger.WARNING))
    theirs = runtime.deserialize_cuda_engine(models.plan("double_float32").read_bytes())
    ours = tensorrt.Engine(theirs)
    del theirs, runtime
    x = torch.randn(3, 4, device="cuda")
    assert torch.equal(run(torch, ours, x), x + x)


def test_layers_are_timed(models: Any, torch: Any) -> None:
    context = tensorrt.Engine(models.plan("resnet50_b8")).create_context()
    x = torch.randn(8, 3, 224, 224, device="cuda").half()
    y = torch.empty(8, 1000, device="cuda", dtype=torch.float16)
    context.infer_shapes()
    scratch = torch.empty(max(context.activation_bytes(), 1), dtype=torch.uint8, device="cuda")
    context.set_activation_memory(scratch.data_ptr(), scratch.numel())
    context.set_address("data", x.data_ptr())
    context.set_address("prob", y.data_ptr())
    torch.cuda.synchronize()
    layers = context.profile_layers()
    assert layers
    assert sum(milliseconds for _, milliseconds in layers) > 0


def test_the_gpu_is_the_one_that_others_see(torch: Any) -> None:
    ours, theirs = cuda.device("cuda:0"), torch.cuda.get_device_properties(0)
    assert ours.name == theirs.name
    assert ours.uuid == f"GPU-{theirs.uuid}"
    assert cuda.device(f"cuda:{ours.uuid}").ordinal == 0
    assert len(cuda.devices()) == torch.cuda.device_count()


def test_copies_between_host_and_gpu_bring_what_was_sent() -> None:
    stream = cuda.Stream("cuda:0")
    random = np.random.default_rng()
    for kind in ("ordinary", "pinned"):
        source = random.standard_normal((300, 70), dtype=np.float32)
        if kind == "pinned":
            there = cuda.pinned(source.shape)
            there[...] = source
            source = there
        array = cuda.empty(source.shape)
        back = cuda.pinned(source.shape)
        back[...] = np.nan
        cuda.copy(array, source, stream)
        cuda.copy(back, array, stream)
        stream.synchronize()
        assert np.array_equal(back, source)
        assert np.array_equal(array.copy_to_host(), source)


def test_arrays_are_shared_with_other_libraries(torch: Any) -> None:
    array = cuda.empty((5, 4))
    values = np.random.default_rng().standard_normal((5, 4), dtype=np.float32)
    cuda.copy(array, values)
    shared = torch.from_dlpack(array)
    assert shared.is_cuda
    assert np.array_equal(shared.cpu().numpy(), values)
    shared.mul_(2)
    torch.cuda.synchronize()
    assert np.array_equal(array.copy_to_host(), 2 * values)


def test_a_model_reads_an_array_behind_the_copy_that_fills_it(manager: trtlab.InferenceManager, models: Any) -> None:
    model = manager.load("double", models.plan("double_float32"), device="cuda:0")
    stream = cuda.Stream("cuda:0")
    array, source = cuda.empty((64, 4)), cuda.pinned((64, 4))
    for value in range(20):
        source[...] = value
        cuda.copy(array, source, stream)
        assert (model.infer(x=array).result(60)["y"].numpy() == 2 * value).all()


def test_more_memory_than_there_is_is_refused_with_what_was_asked() -> None:
    with pytest.raises(errors.OutOfMemory, match=str(1 << 50)):
        cuda.allocate(1 << 50)
    assert cuda.allocate(1 << 20).size_bytes == 1 << 20
