"""trtlab.cuda on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from trtlab import cuda, errors

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if cuda.device_count() == 0:
        pytest.skip(f"no CUDA device: {cuda.why_no_device()}")


def test_a_device_tells_what_it_is() -> None:
    first = cuda.devices()[0]
    assert first.uuid.startswith("GPU-")
    assert cuda.device(f"cuda:{first.uuid}").ordinal == first.ordinal
    assert first.total_memory_bytes > 1 << 30
    assert 0 < first.memory().free_bytes <= first.memory().total_bytes
    assert first.compute_capability >= (5, 0)
    power = first.load().power_watts
    assert power is None or power > 0


def test_arrays_go_there_and_back() -> None:
    stream = cuda.Stream()
    sent = cuda.pinned((1000, 1000), "float32")
    sent[:] = np.random.default_rng(1).standard_normal(sent.shape)
    first, second = cuda.empty(sent.shape), cuda.empty(sent.shape)
    cuda.copy(first, sent, stream)
    cuda.copy(second, first, stream)
    assert (second.copy_to_host() == sent).all()
    first.copy_from(np.zeros(sent.shape, "float32"))
    assert not first.copy_to_host().any()


def test_every_kind_of_memory_can_be_used() -> None:
    for kind in ("device", "pinned", "managed"):
        buffer, host = cuda.allocate(1 << 20, kind=kind), np.empty(1 << 20, "uint8")
        cuda.copy(buffer, np.full(1 << 20, 3, "uint8"))
        cuda.copy(host, buffer)
        assert (host == 3).all()
    with pytest.raises(errors.OutOfMemory, match="device memory of cuda:0"):
        cuda.allocate(1 << 46)


def test_events_tell_the_time_of_a_copy() -> None:
    stream, begin, end = cuda.Stream(), cuda.Event(kind="timing"), cuda.Event(kind="timing")
    host, array = cuda.pinned(1 << 24, "uint8"), cuda.empty(1 << 24, "uint8")
    begin.record(stream)
    cuda.copy(array, host, stream)
    end.record(stream)
    end.synchronize()
    assert end.elapsed_since(begin) > 0


def test_torch_takes_an_array_and_gives_one() -> None:
    torch = pytest.importorskip("torch")
    stream, array, host = cuda.Stream(), cuda.empty((4, 4)), cuda.pinned((4, 4))
    host[:] = np.arange(16).reshape(4, 4)
    cuda.copy(array, host, stream)
    tensor = torch.from_dlpack(array)
    assert tensor.device.type == "cuda"
    assert (tensor * 2).cpu().numpy().tolist() == (2 * host).tolist()
    cuda.copy(array, torch.ones((4, 4), device="cuda"))
    assert (array.copy_to_host() == 1).all()
    assert tensor.sum().item() == 16  # the same memory
    with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):
        tensor.zero_()
    stream.synchronize()
    assert not array.copy_to_host().any()


def test_a_hidden_device_keeps_its_uuid() -> None:
    last = cuda.devices()[-1]
    code = "import trtlab.cuda as c; print([(str(d), d.uuid) for d in c.devices()])"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": last.uuid}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([("cuda:0", last.uuid)])
