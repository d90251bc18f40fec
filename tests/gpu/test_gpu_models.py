"""Every model answers as a computation in higher precision does, whatever its types, shapes and profiles, and wherever
its inputs are and its outputs go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trtlab

# What TensorRT-RTX's builder refuses on some GPUs: it has no kernels for them there.
MAY_BE_REFUSED = {"to_float8", "nonzero"}
TORCH_ONLY = {"bfloat16": "bfloat16", "float8_e4m3fn": "float8_e4m3fn"}


def given(torch: Any, array: np.ndarray, dtype: str, place: str) -> Any:
    """Return an input as somebody would bring it."""
    if dtype in TORCH_ONLY:
        bits = torch.from_numpy(array.view(np.int16 if array.itemsize == 2 else np.int8))
        tensor = bits.view(getattr(torch, TORCH_ONLY[dtype]))
    elif place == "numpy":
        return array
    else:
        tensor = torch.from_numpy(array)
    return {"numpy": tensor, "pinned": tensor.pin_memory, "cuda": tensor.cuda}[place]() if place != "numpy" else tensor


def seen(torch: Any, tensor: trtlab.Tensor, dtype: str) -> np.ndarray:
    """Return an output as an array, types that numpy lacks as integers."""
    host = tensor.to_host()
    if dtype == "bfloat16":
        return np.asarray(torch.from_dlpack(host).view(torch.int16).numpy()).view(np.uint16)
    if dtype == "float8_e4m3fn":
        return host.numpy().view(np.uint8)
    return host.numpy()


def poison(torch: Any, tensor: trtlab.Tensor) -> None:
    """Overwrite an answer's memory, which a later one will be given."""
    if tensor.device.startswith("cuda:"):
        torch.from_dlpack(tensor).view(torch.uint8).fill_(0xFF)
        torch.cuda.synchronize()
    else:
        bits = tensor.numpy().view(np.uint8)
        if bits.flags.writeable:
            bits[...] = 0xFF


def assert_close(got: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert got.shape == expected.shape
    if tolerance == 0:
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
        return
    exact = expected.astype(np.float64)
    off = np.linalg.norm(got.astype(np.float64) - exact) / np.linalg.norm(exact)
    assert off <= tolerance, off  # a NaN is not


@pytest.mark.parametrize("outputs", ["host", "device"])
def test_every_model_answers_as_the_reference(
    manager: trtlab.InferenceManager, models: Any, torch: Any, model_name: str, outputs: str
) -> None:
    entry = models[model_name]
    # Inputs that decide about shapes are read on the host.
    places = ["numpy", "pinned"] if entry["values"] else ["numpy", "pinned", "cuda"]
    model = manager.load(model_name, models.plan(model_name), device="cuda:0", outputs=outputs)
    assert {spec.name: spec.dtype for spec in model.inputs} == entry["inputs"]
    assert {spec.name: spec.dtype for spec in model.outputs} == entry["outputs"]
    for inputs, expected in models.cases(model_name):
        for place in places:
            for _ in range(3):  # enqueued, captured, replayed
                request = {name: given(torch, array, entry["inputs"][name], place) for name, array in inputs.items()}
                answer = model.infer(request).result(60)
                for name, exact in expected.items():
                    got = seen(torch, answer[name], entry["outputs"][name])
                    assert_close(got, exact, entry["tolerance"])
                    assert answer[name].device.startswith("cuda:0") == (outputs == "device")
                for tensor in answer.values():
                    if tensor.size:
                        poison(torch, tensor)


def test_nothing_was_refused_that_the_builder_can_build(models: Any) -> None:
    assert set(models.index["refused"]) <= MAY_BE_REFUSED, models.index["refused"]


def test_shapes_change_from_request_to_request_and_pick_their_profile(
    manager: trtlab.InferenceManager, models: Any
) -> None:
    model = manager.load("two", models.plan("two_profiles"), device="cuda:0")
    cases = models.cases("two_profiles")
    order = np.random.default_rng().integers(0, len(cases), 100)
    futures = [model.infer(cases[i][0]) for i in order]
    for i, future in zip(order, futures, strict=True):
        assert_close(future.result(60)["y"].numpy(), cases[i][1]["y"], models["two_profiles"]["tolerance"])


def test_an_onnx_file_is_built_cached_and_served(
    manager: trtlab.InferenceManager, models: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTLAB_CACHE_DIR", str(tmp_path))
    profiles = "x=1x16:8x16:64x16"
    model = manager.load("mlp", models.onnx("two_profiles"), device="cuda:0", profiles=profiles)
    for inputs, expected in models.cases("two_profiles"):
        assert_close(model.infer(inputs).result(60)["y"].numpy(), expected["y"], 5e-3)
    again = trtlab.build(models.onnx("two_profiles"), profiles=profiles)
    assert again.cached


def test_weights_in_managed_memory_answer_the_same_wherever_they_are(
    manager: trtlab.InferenceManager, models: Any
) -> None:
    model = manager.load("managed", models.plan("wide96"), device="cuda:0", weights="managed")
    (inputs, expected), *_ = models.cases("wide96")
    tolerance = models["wide96"]["tolerance"]
    (line,) = [use for use in manager.memory_report() if use.owner == "managed" and use.what == "weights"]
    assert line.device == "cuda_managed:0"
    assert line.size_bytes > 0
    for move in (None, model.evict, None, model.prefetch, model.evict, model.prefetch):
        if move is not None:
            move()
        assert_close(model.infer(inputs).result(60)["y"].numpy(), expected["y"], tolerance)


def test_weights_on_the_device_do_not_move(manager: trtlab.InferenceManager, models: Any) -> None:
    model = manager.load("fixed", models.plan("wide96"), device="cuda:0")
    for move in (model.evict, model.prefetch):
        with pytest.raises(trtlab.errors.InvalidArgument, match="fixed"):
            move()


@pytest.mark.parametrize("called", ["resnet50_dynamic", "two_profiles", "minilm"])
def test_graphs_of_shapes_that_alternate_answer_as_they_did_alone(
    manager: trtlab.InferenceManager, models: Any, called: str
) -> None:
    model = manager.load(called, models.plan(called), device="cuda:0")
    cases = [inputs for inputs, _ in models.cases(called)]
    alone = []
    for inputs in cases:
        for _ in range(8):  # every pair of an execution and a buffer has a graph
            answer = model.infer(inputs).result(60)
        alone.append({name: answer[name].numpy().copy() for name in answer})
    before = model.counters()
    for turn in range(40):
        index = turn % len(cases)
        answer = model.infer(cases[index]).result(60)
        for name, expected in alone[index].items():
            assert np.array_equal(answer[name].numpy(), expected), (turn, name)
    assert model.counters()["graph_hits"] > before["graph_hits"]
