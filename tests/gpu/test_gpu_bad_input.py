"""Whatever is passed: a typed error that says what was wrong, and a process and models that go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trtlab
from trtlab import errors

DOUBLE = "double_float32"


@pytest.fixture
def double(manager: trtlab.InferenceManager, models: Any) -> trtlab.Model:
    return manager.load("double", models.plan(DOUBLE), device="cuda:0")


def still_answers(model: trtlab.Model) -> None:
    x = np.random.default_rng().standard_normal((5, 4), dtype=np.float32)
    assert np.array_equal(model.infer(x=x).result(60)["y"].numpy(), x + x)


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        ({"x": np.ones((65, 4), np.float32)}, errors.InvalidArgument, "65"),
        ({"x": np.ones((0, 4), np.float32)}, errors.InvalidArgument, "x"),
        ({"x": np.ones((5, 3), np.float32)}, errors.InvalidArgument, "3"),
        ({"x": np.ones(4, np.float32)}, errors.InvalidArgument, "x"),
        ({"x": np.ones((5, 4), np.float64)}, errors.InvalidArgument, "float64"),
        ({"x": np.ones((5, 4), np.int32)}, errors.InvalidArgument, "int32"),
        ({}, errors.InvalidArgument, "x"),
        ({"z": np.ones((5, 4), np.float32)}, errors.NotFound, "z"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    double: trtlab.Model, inputs: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        double.infer(inputs)
    assert "double" in str(caught.value)
    still_answers(double)


def test_shapes_between_the_profiles_are_refused_with_the_profiles(
    manager: trtlab.InferenceManager, models: Any
) -> None:
    model = manager.load("two", models.plan("two_profiles"), device="cuda:0")
    for n in (5, 8, 15, 65):
        with pytest.raises(errors.InvalidArgument) as caught:
            model.infer(x=np.ones((n, 16), np.float32))
        message = str(caught.value)
        assert "'x'" in message
        assert str(n) in message
        assert "16" in message
        assert "64" in message
    inputs, _ = models.cases("two_profiles")[0]
    model.infer(inputs).result(60)


def test_a_shape_input_on_the_gpu_is_refused(manager: trtlab.InferenceManager, models: Any, torch: Any) -> None:
    model = manager.load("expanded", models.plan("expanded"), device="cuda:0")
    with pytest.raises(errors.InvalidArgument, match="'k'"):
        model.infer(x=np.ones((1, 4), np.float32), k=torch.tensor([3, 4], device="cuda"))


@pytest.mark.parametrize(
    "device",
    ["cuda:99", "cuda:GPU-00000000-0000-0000-0000-000000000000", "cuda:x", "cuda:-1", "gpu", ["cuda:0", "cpu"]],
)
def test_a_device_that_is_not_there_is_refused(
    manager: trtlab.InferenceManager, models: Any, device: str | list[str]
) -> None:
    with pytest.raises(errors.InvalidArgument):  # NotFound is one
        manager.load("nowhere", models.plan(DOUBLE), device=device)
    manager.load("nowhere", models.plan(DOUBLE), device="cuda:0").close()


def test_what_is_no_plan_is_refused(double: trtlab.Model, manager: trtlab.InferenceManager, tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"x", bytes(1000), np.random.default_rng().bytes(100_000))):
        file = tmp_path / f"{number}.plan"
        file.write_bytes(content)
        with pytest.raises(errors.Error):
            manager.load("wrong", file, device="cuda:0")
    with pytest.raises(errors.NotFound, match=r"nowhere\.plan"):
        manager.load("wrong", tmp_path / "nowhere.plan", device="cuda:0")
    still_answers(double)


def test_a_truncated_plan_is_refused(
    double: trtlab.Model, manager: trtlab.InferenceManager, models: Any, tmp_path: Path
) -> None:
    whole = models.plan("wide96").read_bytes()
    for part in (0.01, 0.5, 0.999):
        file = tmp_path / f"{part}.plan"
        file.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(errors.Error):
            manager.load("cut", file, device="cuda:0")
    still_answers(double)


def test_a_plan_that_was_changed_after_it_was_built_is_refused(
    double: trtlab.Model, manager: trtlab.InferenceManager, models: Any, tmp_path: Path
) -> None:
    built = trtlab.build(models.onnx("two_profiles"), tmp_path / "m.plan", profiles="x=1x16:8x16:64x16")
    manager.load("whole", built, device="cuda:0").close()
    data = bytearray((tmp_path / "m.plan").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "m.plan").write_bytes(data)
    with pytest.raises(errors.InvalidArgument, match=r"m\.plan"):
        manager.load("tampered", tmp_path / "m.plan", device="cuda:0")
    still_answers(double)


@pytest.mark.parametrize(
    "options",
    [
        {"outputs": "elsewhere"},
        {"weights": "nowhere"},
        {"max_graphs": 0},
        {"warm_up": [{"x": (65, 4)}]},
        {"warm_up": [{"z": (1, 4)}]},
        {"warm_up": {"x": (1, 4)}},
        {"graphs": 1},
        {"weight_streaming_budget": 1},
    ],
)
def test_options_that_can_not_work_are_refused(
    manager: trtlab.InferenceManager, models: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidArgument):
        manager.load("odd", models.plan(DOUBLE), device="cuda:0", **options)


def test_a_request_for_which_there_is_no_memory_fails_and_later_ones_do_not(
    double: trtlab.Model, manager: trtlab.InferenceManager, models: Any, torch: Any
) -> None:
    model = manager.load("hungry", models.plan("hungry"), device="cuda:0")
    inputs, _ = models.cases("hungry")[0]
    model.infer(inputs).result(60)
    free, _ = torch.cuda.mem_get_info(0)
    hog = torch.empty(free - (300 << 20), dtype=torch.uint8, device="cuda")
    try:
        # Two GiB of scratch memory for 64 images.
        large = np.ones((64, 16, 128, 128), np.float32)
        with pytest.raises(errors.OutOfMemory) as caught:
            model.infer(x=large).result(60)
        assert "bytes" in str(caught.value)
        still_answers(double)
        model.infer(inputs).result(60)
    finally:
        del hog
        torch.cuda.empty_cache()
    answer = model.infer(x=large).result(60)["y"].numpy()
    assert np.isfinite(answer).all()


def test_a_model_for_which_there_is_no_memory_is_refused(
    double: trtlab.Model, manager: trtlab.InferenceManager, models: Any, torch: Any
) -> None:
    free, _ = torch.cuda.mem_get_info(0)
    hog = torch.empty(free - (24 << 20), dtype=torch.uint8, device="cuda")
    try:
        with pytest.raises(errors.Error):
            manager.load("large", models.plan("resnet50_b8"), device="cuda:0")
        still_answers(double)
    finally:
        del hog
        torch.cuda.empty_cache()
    manager.load("large", models.plan("resnet50_b8"), device="cuda:0")
