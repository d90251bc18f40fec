"""What a lone request costs from Python, on a model of one operation: `infer(array).result()` against the bare engine.

And what of that is Python: `infer()` until it returns, less the same call in C++; and the conversion of an array alone,
as what each further input costs more than in C++. The C++ figures come from build/bench/bench/request_overhead, which
takes its turn in every round; without it only Python's rivals are measured.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import openvino
import trtlab
from _models import TINY_SHAPE, tiny
from _report import Report

WIDE = 8
IDLE_NS = 5000


def percentiles(took: list[int]) -> tuple[float, float]:
    """Return p50 and p10: what a request costs, and what it costs where nothing else wants the CPUs."""
    took.sort()
    return float(took[len(took) // 2]), float(took[len(took) // 10])


def lone_ns(call: Callable[[], object], count: int) -> tuple[float, float]:
    """Time `count` calls one by one, the cost of timing (some 50 ns) included."""
    clock = time.perf_counter_ns
    took = []
    for _ in range(count):
        begin = clock()
        call()
        took.append(clock() - begin)
    return percentiles(took)


def infer_alone_ns(infer: Callable[[], trtlab.Future], count: int) -> tuple[float, float]:
    """Time `infer` until it returns, on an idle model; the answer is waited for, and dropped, outside of that.

    Then a little is waited, as in C++, so that the lane has put away what it did for the last request.
    """
    clock = time.perf_counter_ns
    took = []
    for _ in range(count):
        begin = clock()
        future = infer()
        took.append(clock() - begin)
        future.result()
        del future
        idle = clock() + IDLE_NS
        while clock() < idle:
            pass
    return percentiles(took)


class Cpp:
    """The C++ benchmark, run anew for each round: (p50, p10) by the name of the benchmark."""

    NAMES = ("bare infer", "trtlab Runner", "trtlab infer() alone, 1 input", f"trtlab infer() alone, {WIDE} inputs")

    def __init__(self, program: Path) -> None:
        self._program = program

    def run(self) -> dict[str, tuple[float, float]]:
        escaped = "|".join(f"{name}/".replace("(", ".").replace(")", ".") for name in self.NAMES)
        command = [str(self._program), "--json", "--rounds=1", f"--benchmark_filter={escaped}"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        rows = {(row["name"], row["metric"]): row["median"] for row in json.loads(output)["results"]}
        return {name: (rows[name, "p50_ns"], rows[name, "p10_ns"]) for name in self.NAMES}


def nanobind_rival(folder: Path) -> ModuleType | None:
    """Import the module that the C++ build makes of nanobind_ndarray/, if it is there."""
    for file in folder.glob("nanobind_ndarray.*so"):
        spec = importlib.util.spec_from_file_location("nanobind_ndarray", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return None


def main() -> None:
    report = Report(__doc__.splitlines()[0], ["openvino", "numpy", "nanobind"])
    report.parser.add_argument("--requests", type=int, default=3000, help="in each round (default %(default)s)")
    report.parser.add_argument(
        "--build",
        type=Path,
        default=Path(__file__).parent.parent / "build/bench/bench",
        help="folder of the C++ benchmarks (default: where `make bench` builds them)",
    )
    arguments = report.start()
    count: int = arguments.requests

    array = np.ones(TINY_SHAPE, np.float32)

    core = openvino.Core()
    settings = {"NUM_STREAMS": 1, "ENABLE_CPU_PINNING": "NO", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(tiny(), b""), "CPU", settings)
    request = compiled.create_infer_request()
    bound = compiled.create_infer_request()
    bound.set_input_tensor(openvino.Tensor(array, shared_memory=True))

    program = arguments.build / "request_overhead"
    cpp = Cpp(program) if program.exists() else None
    if cpp is None:
        report.say(f"not measured: C++ ({program} is not there; `make bench` builds it)")
    rival = nanobind_rival(arguments.build)
    if rival is None:
        report.say(f"not measured: nanobind's conversion (no nanobind_ndarray module in {arguments.build})")

    manager = trtlab.InferenceManager(max_executions=1)
    model = manager.load("tiny", tiny())
    wide = manager.load("wide", tiny(WIDE))
    tensor = model.infer(x=array).result()["y"]

    def infer_wide(of: object) -> trtlab.Future:
        return wide.infer(x=of, x1=of, x2=of, x3=of, x4=of, x5=of, x6=of, x7=of)

    def openvino_shared() -> object:
        return request.infer(array, share_inputs=True, share_outputs=True)[0]

    ours = "trtlab infer().result()"
    calls: dict[str, Callable[[], tuple[float, float]]] = {
        ours: lambda: lone_ns(lambda: model.infer(x=array).result()["y"], count),
        "openvino request.infer(array), shared": lambda: lone_ns(openvino_shared, count),
        "openvino request.infer(array), copied": lambda: lone_ns(lambda: request.infer(array)[0], count),
        "openvino request.infer(), bound once": lambda: lone_ns(lambda: bound.infer(share_outputs=True)[0], count),
        "infer() alone, 1 array": lambda: infer_alone_ns(lambda: model.infer(x=array), count),
        f"infer() alone, {WIDE} arrays": lambda: infer_alone_ns(lambda: infer_wide(array), count),
        "infer() alone, 1 Tensor": lambda: infer_alone_ns(lambda: model.infer(x=tensor), count),
        f"infer() alone, {WIDE} Tensors": lambda: infer_alone_ns(lambda: infer_wide(tensor), count),
        "timing nothing": lambda: lone_ns(lambda: None, count),
    }
    if rival is not None:
        take, nothing = rival.take, rival.nothing
        calls["nanobind take(array)"] = lambda: lone_ns(lambda: take(array), count)
        calls["nanobind nothing(array)"] = lambda: lone_ns(lambda: nothing(array), count)

    both: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(report.rounds):
        if cpp is not None:
            for name, figure in cpp.run().items():
                both.setdefault("C++ " + name, []).append(figure)
        for name in list(calls) if turn % 2 == 0 else reversed(calls):
            both[name].append(calls[name]())
    manager.close()

    for which, percentile in enumerate(("p50", "p10")):
        figures = {name: [pair[which] for pair in pairs] for name, pairs in both.items()}
        rivals = [name for name in figures if name.startswith("openvino")]
        lone = {name: figures[name] for name in (ours, *rivals)}
        report.table(f"lone request, {percentile}", "ns", lone, ours=ours, rivals=rivals)

        def per_input(prefix: str, one: str, many: str, of: dict[str, list[float]] = figures) -> list[float]:
            pairs = zip(of[f"{prefix}infer() alone, {many}"], of[f"{prefix}infer() alone, {one}"], strict=True)
            return [(wide - single) / (WIDE - 1) for wide, single in pairs]

        arrays_each = per_input("", "1 array", f"{WIDE} arrays")
        tensors_each = per_input("", "1 Tensor", f"{WIDE} Tensors")
        nothing_timed = figures["timing nothing"]
        if cpp is not None:
            bare = {"C++ bare infer": figures["C++ bare infer"]}
            for name, aim in ((ours, "<= 8000 ns"), ("C++ trtlab Runner", "<= 5000 ns")):
                report.table(
                    f"request overhead, {percentile}",
                    "ns",
                    {name: figures[name], **bare},
                    ours=name,
                    rivals=list(bare),
                    difference=True,
                    aim=aim,
                )
            report.table(
                f"infer() until it returns, {percentile}",
                "ns",
                {
                    "Python": subtract(figures["infer() alone, 1 array"], nothing_timed),
                    "C++": figures["C++ trtlab infer() alone, 1 input"],
                },
                ours="Python",
                rivals=["C++"],
                difference=True,
                aim="<= 400 ns",
            )
            cpp_each = per_input("C++ trtlab ", "1 input", f"{WIDE} inputs")
            conversion = {
                "trtlab, ndarray": subtract(arrays_each, cpp_each),
                "trtlab, its own Tensor": subtract(tensors_each, cpp_each),
            }
        else:
            conversion = {"trtlab, ndarray over its own Tensor": subtract(arrays_each, tensors_each)}
        if rival is not None:
            rival_each = subtract(figures["nanobind take(array)"], figures["nanobind nothing(array)"])
            conversion["nanobind, nb::ndarray"] = rival_each
        report.values(
            f"conversion of one array (for trtlab: each input of {WIDE} beyond the first, over C++), {percentile}",
            "ns",
            {name: statistics.median(values) for name, values in conversion.items()},
            aim="<= 150 ns; nanobind ndarray 587 ns",
        )
    report.finish()


def subtract(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


if __name__ == "__main__":
    main()
