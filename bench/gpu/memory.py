#!/usr/bin/env python3
"""What models cost in GPU memory, as the driver counts it, and what managed weights cost in time.

Each figure is of a process of its own, which says what the driver has given out before and after. Rows:

contexts  8 models of two profiles. NVIDIA's API with a STATIC execution context for each execution and profile of each
          model, which is what a server that gives every model its own contexts has; against a manager, which has as
          many contexts and whose executions share scratch memory.
managed   16 copies of a model with weights on the device, and in managed memory: latency of the first request (cold:
          the weights were evicted), of the next ones (warm), after a prefetch, and what the driver has given out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trtlab
from _gpu import Models, answer, gpu, off_by, used_bytes, values_of

MIB = 1 << 20


def contexts_of_nvidia(models: Models, names: list[str], executions: int) -> dict[str, Any]:
    """Load engines with the official API, each with contexts that own their scratch memory."""
    import tensorrt_rtx as api

    logger = api.Logger(api.Logger.ERROR)
    runtime = api.Runtime(logger)
    plans = [models.plan(name).read_bytes() for name in names]
    before = used_bytes()
    engines = [runtime.deserialize_cuda_engine(plan) for plan in plans]
    loaded = used_bytes()
    stream = torch.cuda.Stream()
    contexts = []
    for index, engine in enumerate(engines):
        for profile in range(engine.num_optimization_profiles):
            for _ in range(executions):
                context = engine.create_execution_context(api.ExecutionContextAllocationStrategy.STATIC)
                assert context.set_optimization_profile_async(profile, stream.cuda_stream)
                contexts.append((index, context))
    outputs = []
    for index, context in contexts:
        inputs, expected = models.case(names[index])
        x = torch.from_numpy(inputs["x"]).cuda()
        # The second profile begins at three rows: the two of the case, twice.
        rows, repeats = x.shape[0], 1 if context.active_optimization_profile == 0 else 2
        x = x.repeat(repeats, 1, 1, 1)
        y = torch.full((x.shape[0], 10), float("nan"), dtype=torch.float16, device="cuda")
        torch.cuda.synchronize()
        context.set_input_shape("x", tuple(x.shape))
        context.set_tensor_address("x", x.data_ptr())
        context.set_tensor_address("y", y.data_ptr())
        assert context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        outputs.append(off_by(y.cpu().numpy()[:rows], expected["y"]))
    torch.cuda.empty_cache()
    return {
        "contexts": len(contexts),
        "weights_bytes": loaded - before,
        "all_bytes": used_bytes() - before,
        "largest_scratch_bytes": max(int(engine.device_memory_size_v2) for engine in engines),
        "off_by": max(outputs),
    }


def contexts_of_ours(models: Models, names: list[str], executions: int, graphs: bool) -> dict[str, Any]:
    """Load the same plans into a manager, and run each on every execution at its largest batch."""
    before = used_bytes()
    with trtlab.InferenceManager(max_executions=executions) as manager:
        loaded = [manager.load(name, models.plan(name), device="cuda:0", graphs=graphs) for name in names]
        rng = np.random.default_rng()
        largest = rng.standard_normal((8, 3, 112, 112), dtype=np.float32).astype(np.float16)
        for _ in range(3):
            for future in [model.infer(x=largest) for model in loaded for _ in range(2 * executions)]:
                future.result(60)
        off = []
        for name, model in zip(names, loaded, strict=True):
            inputs, expected = models.case(name)
            off.append(off_by(answer(model, inputs)["y"], expected["y"]))
        torch.cuda.empty_cache()
        report = manager.memory_report()
        on_gpu = [use for use in report if use.device.startswith("cuda:")]
        return {
            "contexts": sum(int(model.counters()["contexts"]) for model in loaded),
            "weights_bytes": sum(use.size_bytes for use in on_gpu if use.what == "weights"),
            "all_bytes": used_bytes() - before,
            "reported_bytes": sum(use.size_bytes for use in on_gpu),
            "off_by": max(off),
            "report": [str(use) for use in report],
        }


def weights(models: Models, name: str, copies: int, where: str) -> dict[str, Any]:
    """Load a model many times, with its weights on the device or in managed memory."""
    inputs, expected = models.case(name)
    x = torch.from_numpy(inputs["data"]).cuda()
    torch.cuda.synchronize()
    before = used_bytes()
    with trtlab.InferenceManager(max_executions=1) as manager:
        loaded = [manager.load(f"{name}_{i}", models.plan(name), device="cuda:0", weights=where) for i in range(copies)]
        off = max(off_by(answer(model, inputs)["prob"], expected["prob"]) for model in loaded)

        def timed(model: trtlab.Model) -> float:
            begin = time.perf_counter()
            model.infer(data=x).result(60)
            return (time.perf_counter() - begin) * 1e3

        result: dict[str, Any] = {"off_by": off, "all_bytes": used_bytes() - before}
        result["weights_bytes"] = sum(use.size_bytes for use in manager.memory_report() if use.what == "weights")
        result["warm_ms"] = [timed(model) for _ in range(5) for model in loaded]
        if where == "managed":
            begin = time.perf_counter()
            for model in loaded:
                model.evict()
            result["evict_ms_each"] = (time.perf_counter() - begin) * 1e3 / copies
            result["all_bytes_evicted"] = used_bytes() - before
            result["cold_ms"] = [timed(model) for model in loaded]
            result["after_cold_ms"] = [timed(model) for model in loaded]
            for model in loaded:
                model.evict()
            begin = time.perf_counter()
            for model in loaded:
                model.prefetch()
            result["prefetch_ms_each"] = (time.perf_counter() - begin) * 1e3 / copies
            result["all_bytes_prefetched"] = used_bytes() - before
            result["after_prefetch_ms"] = [timed(model) for model in loaded]
            last = max(off_by(answer(model, inputs)["prob"], expected["prob"]) for model in loaded)
            result["off_by_after"] = last
        return result


def apart(arguments: argparse.Namespace, *what: str) -> dict[str, Any]:
    """Run one of the above in a process of its own."""
    command = [sys.executable, __file__, "--models", str(arguments.models), "--part", ",".join(what)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    if done.returncode != 0:
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", flush=True)
        raise RuntimeError(f"{' '.join(what)}: status {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def show_contexts(arguments: argparse.Namespace, executions: int) -> None:
    """Print one comparison."""
    static = apart(arguments, "static", str(executions))
    shared = apart(arguments, "shared", str(executions), "graphs")
    plain = apart(arguments, "shared", str(executions), "none")
    scratch = static["largest_scratch_bytes"]
    limit = shared["weights_bytes"] + executions * scratch
    print(
        f"\n8 models x {executions} executions, MiB by the driver (cudaMemGetInfo, whole process)\n"
        f"  NVIDIA, {static['contexts']} STATIC contexts   {static['all_bytes'] / MIB:10.1f}"
        f"   (engines alone {static['weights_bytes'] / MIB:.1f}; answers off by {static['off_by']:.1e})\n"
        f"  trtlab, {shared['contexts']} contexts          {shared['all_bytes'] / MIB:10.1f}"
        f"   (its own report {shared['reported_bytes'] / MIB:.1f}; answers off by {shared['off_by']:.1e})\n"
        f"  the same without graphs         {plain['all_bytes'] / MIB:10.1f}\n"
        f"  weights {shared['weights_bytes'] / MIB:.1f}, largest scratch {scratch / MIB:.1f};"
        f" weights + {executions} x scratch = {limit / MIB:.1f},"
        f" weights + 2 x scratch = {(shared['weights_bytes'] + 2 * scratch) / MIB:.1f}\n"
        f"  trtlab / STATIC {shared['all_bytes'] / static['all_bytes']:.3f},"
        f" trtlab / (weights + {executions} x scratch) {shared['all_bytes'] / limit:.3f}",
        flush=True,
    )
    for line in shared["report"]:
        print(f"    {line}", flush=True)


def show_weights(arguments: argparse.Namespace) -> None:
    """Print the other."""
    print(f"\n{arguments.copies} x resnet50_b1, weights on the device and in managed memory", flush=True)
    for where in ("device", "managed"):
        result = apart(arguments, "weights", where, str(arguments.copies))
        print(f"  weights={where}", flush=True)
        for key, value in result.items():
            if isinstance(value, list):
                middle, slow = np.percentile(value, [50, 100])
                print(f"    {key:<24} p50 {middle:.3f} ms, slowest {slow:.3f} ms of {len(value)}", flush=True)
            elif key.endswith("bytes") or "_bytes" in key:
                print(f"    {key:<24} {value / MIB:.1f} MiB", flush=True)
            else:
                print(f"    {key:<24} {value:.4g}", flush=True)


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="the folder that models.py has filled")
    parser.add_argument("--rows", default="contexts,managed", help="(default %(default)s)")
    parser.add_argument("--executions", default="2", help="of the manager, and contexts of each model and profile")
    parser.add_argument("--copies", type=int, default=16, help="of the model with managed weights")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)  # what a process of its own does
    arguments = parser.parse_args()
    models = Models(arguments.models)
    if arguments.part:
        torch.cuda.init()
        torch.zeros(1, device="cuda")
        what, *rest = arguments.part.split(",")
        names = models.set_of("wide")
        parts = {
            "static": lambda: contexts_of_nvidia(models, names, int(rest[0])),
            "shared": lambda: contexts_of_ours(models, names, int(rest[0]), rest[1] == "graphs"),
            "weights": lambda: weights(models, "resnet50_b1", int(rest[1]), rest[0]),
        }
        print(json.dumps(parts[what]()), flush=True)
        return 0
    print(f"GPU {gpu()}; trtlab {trtlab.__version__}", flush=True)
    failed = 0
    for row in arguments.rows.split(","):
        try:
            if row == "contexts":
                for executions in values_of(arguments.executions):
                    show_contexts(arguments, executions)
            else:
                show_weights(arguments)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            failed += 1
            print(f"{row}: FAILED: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
