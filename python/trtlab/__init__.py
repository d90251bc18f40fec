"""trtlab: models behind one small interface, from Python at the speed of C++.

    with trtlab.InferenceManager(max_executions=2) as manager:
        model = manager.load("ocr-rec", "rec.onnx")
        text = model.infer(x=batch).result(timeout=5)

Everything that can be asked for an answer is a ``Model``: ``infer`` returns a ``Future`` at once. Importing this
package loads no vendor library, no driver and not numpy.
"""

import atexit as _atexit
import os as _os
from typing import TYPE_CHECKING as _TYPE_CHECKING

from trtlab import errors
from trtlab._bindings import _core
from trtlab._bindings._core import (
    Batcher,
    FunctionModel,
    Future,
    Lease,
    Model,
    PaddedAxis,
    Pool,
    Tensor,
    TensorSpec,
    Window,
    WindowStream,
    usable_cpus,
)
from trtlab._version import __version__
from trtlab.manager import InferenceManager, MemoryUse

if _TYPE_CHECKING:
    from trtlab import affinity, cuda, memory, openvino, plans, tensorrt, tuning
    from trtlab.bench import InferBench
    from trtlab.plans import build
    from trtlab.thread_pool import ThreadPool
    from trtlab.tuning import tune

__all__ = [
    "Batcher",
    "FunctionModel",
    "Future",
    "InferBench",
    "InferenceManager",
    "Lease",
    "MemoryUse",
    "Model",
    "PaddedAxis",
    "Pool",
    "Tensor",
    "TensorSpec",
    "ThreadPool",
    "Window",
    "WindowStream",
    "__version__",
    "affinity",
    "build",
    "cuda",
    "errors",
    "memory",
    "openvino",
    "plans",
    "tensorrt",
    "tune",
    "tuning",
    "usable_cpus",
]

# While Python is whole: afterwards no thread of ours needs the GIL, and no engine reads memory that Python frees.
_atexit.register(_core._close_all)
_os.register_at_fork(after_in_child=_core._after_fork)


def __getattr__(name: str) -> object:
    # Imported when first used, so that a program that serves functions pays for no engine.
    if name in ("affinity", "cuda", "memory", "openvino", "plans", "tensorrt", "tuning"):
        import importlib

        return importlib.import_module(f"trtlab.{name}")
    if name == "InferBench":
        from trtlab.bench import InferBench

        return InferBench
    if name == "ThreadPool":
        from trtlab.thread_pool import ThreadPool

        return ThreadPool
    if name == "build":
        from trtlab.plans import build

        return build
    if name == "tune":
        from trtlab.tuning import tune

        return tune
    raise AttributeError(f"module 'trtlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
